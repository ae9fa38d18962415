"""Whether a difference between database and cluster can be true, or one of the two is not the one we think it is.

A rollout with another instance name or namespace sees no Job of any running scan; a database that is empty, or restored from an old
backup, knows no scan of any running Job. To act on that at once would end everything that runs.
"""

import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from skydriver_dispatcher.decide import is_hard_to_believe

log = structlog.get_logger(__name__)

HELP = "is this the right namespace and instance (settings), and the right database? See docs/operations/kubernetes.md"


class Doubt:
    """About one kind of difference. limit: after so long it is believed, if every look in between has shown it; 0: at once, None: never."""

    def __init__(self, what: str, *, limit: timedelta | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._limit_s = None if limit is None else limit.total_seconds()
        self._clock = clock
        self._since: float | None = None
        self.number = 0

    def allows(self, number: int, of: int) -> bool:
        """Whether to act on so many differences among so many scans."""
        if self._limit_s == 0 or not is_hard_to_believe(number, of):
            self.dispel()
            return True
        now = self._clock()
        self._since = now if self._since is None else self._since
        if self._limit_s is not None and now - self._since >= self._limit_s:
            log.error("reconcile.believed", what=self._what, scans=number, of=of, after_s=self._limit_s)
            self.dispel()
            return True
        self.number = number
        log.error("reconcile.doubtful", what=self._what, scans=number, of=of, acts_after_s=self._limit_s, help=HELP)
        return False

    def dispel(self) -> None:
        """All is as it should be, or another replica looks after it."""
        self._since, self.number = None, 0
