"""What is wrong with a filter, and where."""

from skydriver_common.faults import BadMessage

__all__ = ["BadFilter", "TooSlow"]

_LONGEST = 600


class BadFilter(BadMessage):
    """A filter or projection that is refused: the client gets 400. Source: REST contract 4.3, 10.

    message: what is wrong, naming the operator. path: where in the body, as in `filter.$or[1].timestamp.$gte`.
    """

    def __init__(self, message: str, path: str = "filter") -> None:
        super().__init__(f"{_brief(path)}: {_brief(message)}")
        self.message = message
        self.path = path


def _brief(text: str) -> str:
    """The text, its middle left out when it is very long: names in it are the client's."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 4 :]}"


class TooSlow(BadFilter):
    """A filter that is fine, but needs more time than a search may take: 400 with advice. Source: REST contract 10, limits."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"the search took longer than {limit_s:g} s and was stopped. Add a condition that an index can answer"
            " (event_metadata.run_id with event_metadata.event_id, i3_event_id, ewms_workflow_id, classifiers.<key>,"
            " scan_id with $in, or a range of timestamp), simplify a $regex, or page with 'limit' and 'after'"
        )
        self.limit_s = limit_s
