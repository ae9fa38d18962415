"""Keeps the dispatcher from acting on a difference between database and cluster that cannot be true: see ``decide/divergence.py``."""

import time
from collections.abc import Callable, Set
from datetime import timedelta

import structlog

from skydriver_common.model.ids import ScanId
from skydriver_dispatcher.decide.divergence import Divergence, DivergenceHistory, judge_divergence

logger = structlog.get_logger(__name__)

HELP = "check SKYDRIVER_KUBERNETES_NAMESPACE, SKYDRIVER_INSTANCE and SKYDRIVER_DATABASE_URL; see docs/operators/kubernetes.md"


class DivergenceGuard:
    """Judges one kind of difference over time; logs what it holds back.

    limit: an implausible difference is acted on after so long, if every look in between has shown it; None: never; 0: everything
    is acted on at once. confirm: a large one, of those scans that every look has shown.
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
        self._history = DivergenceHistory()
        self.n_suspended = 0
        """How many scans differ implausibly, so that nothing is done about them."""

    def actionable(self, scan_ids: Set[ScanId], total: int) -> frozenset[ScanId]:
        """Return those of the scans that differ now, of ``total``, that may be acted on."""
        verdict = judge_divergence(
            self._history, scan_ids, total=total, now=self._clock(), confirm_s=self._confirm_s, limit_s=self._limit_s
        )
        self._history = verdict.history
        is_implausible = verdict.divergence is Divergence.IMPLAUSIBLE
        self.n_suspended = len(scan_ids) if is_implausible and not verdict.is_confirmed else 0
        facts = {"what": self._what, "scans": len(scan_ids), "of": total}
        if verdict.divergence is Divergence.LARGE:
            logger.warning("reconcile.large-difference", **facts, acts_now=verdict.is_confirmed)
        elif is_implausible and verdict.is_confirmed:
            logger.error("reconcile.resumed", **facts, after_s=self._limit_s)
        elif is_implausible:
            logger.error("reconcile.suspended", **facts, acts_after_s=self._limit_s, help=HELP)
        return verdict.actionable

    def seconds_to_next(self) -> float | None:
        """Return when another look decides something; None: no look is awaited."""
        if self._history.since is None:
            return None
        return max(0.0, self._confirm_s - (self._clock() - self._history.since)) or self._confirm_s

    def reset(self) -> None:
        """Forget what was seen: another replica compares now."""
        self._history, self.n_suspended = DivergenceHistory(), 0
