"""What is wrong with a filter, and where."""

from typing import NamedTuple

from skydriver_common.faults import BadMessage

__all__ = ["FILTER", "BadFilter", "Place", "TooSlow"]

_LONGEST = 600


class Place(NamedTuple):
    """A place in the body: the one around it, and the last step to it.

    It is written out only when something is refused: a filter may have a million places, each below a name of any length.
    """

    around: "Place | str"
    step: str | int

    def __str__(self) -> str:
        steps: list[str] = []
        place: Place | str = self
        while isinstance(place, Place):
            steps.append(f"[{place.step}]" if isinstance(place.step, int) else f".{place.step}")
            place = place.around
        return place + "".join(reversed(steps))


FILTER = "filter"
"""How the body calls the outermost place."""


class BadFilter(BadMessage):
    """A filter or projection that is refused: the client gets 400. Source: REST contract 4.3, 10.

    message: what is wrong, naming the operator. path: where in the body, as in `filter.$or[1].timestamp.$gte`.
    """

    def __init__(self, message: str, path: Place | str = FILTER) -> None:
        self.message = message
        self.path = str(path)
        super().__init__(f"{_brief(self.path)}: {_brief(message)}")


def _brief(text: str) -> str:
    """The text, its middle left out when it is very long: names in it are the client's."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 4 :]}"


class TooSlow(BadFilter):
    """A filter that is fine, but needs more time than a search may take: 400 with advice. Source: REST contract 10, limits."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"the search took longer than {limit_s:g} s and was stopped. Add a condition that can use an index"
            " (event_metadata.run_id with event_metadata.event_id, i3_event_id, ewms_workflow_id, classifiers.<key>,"
            " scan_id with $in, or a range of timestamp), simplify a $regex, or page with 'limit' and 'after'"
        )
        self.limit_s = limit_s
