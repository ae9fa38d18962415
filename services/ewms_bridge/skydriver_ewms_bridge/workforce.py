"""Loop step: what the workers of all live workflows are doing, by few queries for all of them together."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog

from skydriver_common.clock import CLOCK
from skydriver_common.db.pool import Pool
from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge import store
from skydriver_ewms_bridge.decide.urgency import urgency_of
from skydriver_ewms_bridge.decide.workforce import Workforce, WorkforceFold
from skydriver_ewms_bridge.decide.workforce_changes import digest_of, is_over, refresh_interval
from skydriver_ewms_bridge.due_work import OpenForS
from skydriver_ewms_bridge.ports import Ewms
from skydriver_ewms_bridge.priority_limiter import urgent
from skydriver_ewms_bridge.records import Watched
from skydriver_ewms_bridge.retry_policy import REFRESH_LEASE, VIEWER_HINT_TTL, WORKFORCE_RETRY
from skydriver_ewms_bridge.usecases import UseCases
from skydriver_ewms_bridge.worker_replacement import WorkerReplacement

logger = structlog.get_logger(__name__)

MAX_BATCH = 2000
MAX_CONCURRENT = 50
"""Changes that are written side by side."""


class Workforces:
    """Step `refresh` of the workforce loop."""

    def __init__(
        self,
        pool: Pool,
        usecases: UseCases,
        ewms: Ewms,
        *,
        interval: timedelta,
        fast_interval: timedelta,
        open_for_s: OpenForS,
        replacement: WorkerReplacement,
    ) -> None:
        self._pool = pool
        self._usecases = usecases
        self._ewms = ewms
        self._open_for_s = open_for_s
        self._replacement = replacement
        self._interval = interval
        self._fast_interval = min(interval, fast_interval)

    async def refresh(self) -> bool | float:
        """Ask for all workflows that are due, with two queries; changes become events. Raises TryLater."""
        if (pause_s := await self._open_for_s()) > 0:
            return pause_s
        now = CLOCK.now()
        # those due a little later are taken along: so workflows with the same interval end up in the same query
        watched = await store.claim_watched(self._pool, ahead=self._fast_interval / 2, hold=REFRESH_LEASE, most=MAX_BATCH)
        if not watched:
            next_at = await store.next_refresh(self._pool)
            return False if next_at is None else max(0.1, (next_at - now).total_seconds())
        try:
            with urgent(urgency_of(starts_a_scan=False, stops_workers=False, counts_workers=True, priority=0)):
                folds = await self._ask(watched)
                stopped = await self._stopped(folds)
        except TryLater as fault:
            await self._ask_again(watched, fault)
            raise
        await self._note(watched, folds, stopped, now)
        return True

    async def _note(
        self, watched: Sequence[Watched], folds: Mapping[str, WorkforceFold], stopped: Mapping[str, str], now: datetime
    ) -> None:
        """Make events of what has changed, and note when to ask again.

        A scan for which that fails is asked for again soon, and the others go on. Raises TryLater when it fails for all of them.
        """
        noted: list[tuple[ScanId, str, datetime]] = []
        failed: list[Watched] = []
        over: list[ScanId] = []
        faults: list[Exception] = []
        for start in range(0, len(watched), MAX_CONCURRENT):
            batch = watched[start : start + MAX_CONCURRENT]
            workforces = [folds[one.workflow_id].result() for one in batch]
            # decisions that come together share a transaction
            ends = await asyncio.gather(
                *(
                    self._note_one(one, workforce, stopped.get(one.workflow_id))
                    for one, workforce in zip(batch, workforces, strict=True)
                ),
                return_exceptions=True,
            )
            for one, workforce, end in zip(batch, workforces, ends, strict=True):
                if isinstance(end, str):
                    after = refresh_interval(one, now=now, interval=self._interval, fast_interval=self._fast_interval)
                    noted.append((one.scan_id, end, CLOCK.now() + after))
                    if is_over(workforce, is_stopped=one.workflow_id in stopped):
                        over.append(one.scan_id)
                elif isinstance(end, Exception):
                    if isinstance(end, TryLater):
                        logger.warning("workforce.not-noted", scan_id=one.scan_id, what=end.what)
                    else:
                        logger.error("workforce.not-noted", scan_id=one.scan_id, exc_info=end)
                    failed.append(one)
                    faults.append(end)
                else:
                    raise end
        await store.refreshed(self._pool, noted, now=CLOCK.now())
        for scan_id in over:
            await self._usecases.workflow_gone(scan_id)
        if failed:
            waits = next((fault for fault in faults if isinstance(fault, TryLater)), None)
            await self._ask_again(failed, waits)
            if waits is not None and not noted:
                raise waits

    async def _note_one(self, one: Watched, workforce: Workforce, label: str | None) -> str:
        """Record what has changed of one workflow; return the digest of its workers. label: with which it was stopped."""
        if label is not None:
            await self._usecases.workflow_deactivated(one.scan_id, one.workflow_id, label)
        digest = digest_of(workforce)
        if digest != one.digest:
            problems = await self._usecases.workforce_seen(one.scan_id, workforce)
            if problems:
                logger.warning("workforce.problems-found", scan_id=one.scan_id, problems=problems)
        if label is None:
            await self._replacement.seen(one.scan_id, workforce)
        return digest

    async def _ask_again(self, watched: Sequence[Watched], fault: TryLater | None) -> None:
        after = max(WORKFORCE_RETRY, timedelta(seconds=0.0 if fault is None else fault.after_s))
        await store.release_watched(self._pool, [w.scan_id for w in watched], refresh_at=CLOCK.now() + after)

    async def note_viewers(self, scan_ids: Collection[ScanId]) -> bool:
        """Note that somebody views these scans: for a while their workers are counted as often as just after their launch.

        True when that is news: then the loop must be woken.
        """
        now = CLOCK.now()
        return await store.note_viewers(self._pool, scan_ids, until=now + VIEWER_HINT_TTL, soon=now + self._fast_interval)

    async def _ask(self, watched: Sequence[Watched]) -> Mapping[str, WorkforceFold]:
        folds = {one.workflow_id: WorkforceFold() for one in watched}
        async for page in self._ewms.find_taskforces(list(folds), on_unreadable=partial(_count_unreadable, folds)):
            for taskforce in page:
                if (fold := folds.get(taskforce.workflow_id)) is not None:
                    fold.add(taskforce)
        return folds

    async def _stopped(self, folds: Mapping[str, WorkforceFold]) -> dict[str, str]:
        """Return workflow id to label, of those that were stopped, by whomever."""
        workflows = await self._ewms.get_workflows(set(folds), on_unreadable=partial(_count_unreadable, folds))
        return {w.workflow_id: w.deactivated for w in workflows if w.deactivated is not None}


def _count_unreadable(folds: Mapping[str, WorkforceFold], workflow_id: str) -> None:
    """Something of this workflow could not be read."""
    if (fold := folds.get(workflow_id)) is not None:
        fold.add_unreadable()
