"""Whether a difference between database and cluster can be true, or one of the two is not the one we think it is.

A rollout with another instance name or namespace sees no Job of any running scan; a database that is empty, or restored from an old
backup, knows no scan of any running Job. To act on that at once would end everything that runs.
"""

import time
from collections.abc import Callable, Set
from datetime import timedelta

import structlog

from skydriver_common.model.ids import ScanId
from skydriver_dispatcher.decide import Divergence, judge_divergence

logger = structlog.get_logger(__name__)

HELP = "is this the right namespace and instance (settings), and the right database? See docs/operators/kubernetes.md"


class DivergenceGuard:
    """About one kind of difference.

    limit: after so long a doubtful one is believed, if every look in between has shown it; None: never. confirm: after so long, a mass
    that is not doubtful is believed, of those scans that every look has shown. limit 0: everything is believed at once.
    """

    def __init__(
        self,
        what: str,
        *,
        limit: timedelta | None,
        confirm: timedelta = timedelta(seconds=60),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._limit_s = None if limit is None else limit.total_seconds()
        self._confirm_s = confirm.total_seconds()
        self._clock = clock
        self._since: float | None = None
        self._doubtful_since: float | None = None
        self._steady: frozenset[ScanId] = frozenset()
        self.number = 0
        """How many scans are in doubt."""

    def believed(self, scan_ids: Set[ScanId], of: int) -> frozenset[ScanId]:
        """Return those of the scans that differ now, among so many, that may be acted on."""
        found = frozenset(scan_ids)
        divergence = Divergence.SMALL if self._limit_s == 0 else judge_divergence(len(found), of)
        if divergence is Divergence.SMALL:
            self.reset()
            return found
        now = self._clock()
        self._steady = found if self._since is None else self._steady & found
        self._since = now if self._since is None else self._since
        steady, number = self._steady, len(found)
        if divergence is Divergence.MASS:
            self._doubtful_since, self.number = None, 0
            is_confirmed = now - self._since >= self._confirm_s
            logger.warning("reconcile.mass", what=self._what, scans=number, of=of, acts_now=is_confirmed)
        else:
            self._doubtful_since = now if self._doubtful_since is None else self._doubtful_since
            is_confirmed = self._limit_s is not None and now - self._doubtful_since >= self._limit_s
            self.number = number
            if is_confirmed:
                logger.error("reconcile.believed", what=self._what, scans=number, of=of, after_s=self._limit_s)
            else:
                logger.error("reconcile.doubtful", what=self._what, scans=number, of=of, acts_after_s=self._limit_s, help=HELP)
        if not is_confirmed:
            return frozenset()
        self.reset()
        return steady

    def seconds_to_next(self) -> float | None:
        """When another look decides something, None: no look is awaited."""
        if self._since is None:
            return None
        return max(0.0, self._confirm_s - (self._clock() - self._since)) or self._confirm_s

    def reset(self) -> None:
        """Nothing differs any more, or another replica looks after it."""
        self._since = self._doubtful_since = None
        self._steady = frozenset()
        self.number = 0
