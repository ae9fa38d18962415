"""Which refused messages are kept whole: the first so many of each scan and reason. One sender must not fill the dead letters."""

from collections import OrderedDict

MAX_KEPT = 100
"""Refusals of one scan for one reason that go to the dead letters; further ones are counted only."""
_MAX_GROUPS = 10_000


class KeptRefusals:
    """Counts refusals by scan and reason, in this process; the groups that were met longest ago are forgotten first."""

    def __init__(self, *, max_kept: int = MAX_KEPT, max_groups: int = _MAX_GROUPS) -> None:
        self._max_kept = max_kept
        self._max_groups = max_groups
        self._counts: OrderedDict[tuple[str | None, str], int] = OrderedDict()

    def count(self, scan_id: str | None, code: str) -> int:
        """Count one more; the number of those so far, this one included."""
        group = (scan_id, code)
        self._counts[group] = self._counts.pop(group, 0) + 1
        if len(self._counts) > self._max_groups:
            self._counts.popitem(last=False)
        return self._counts[group]

    def keeps(self, number: int) -> bool:
        """Whether the refusal of this number is kept whole."""
        return number <= self._max_kept
