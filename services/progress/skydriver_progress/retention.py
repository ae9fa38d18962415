"""Loop step: compact superseded old reports and delete superseded partial skymaps. Due rows in Postgres, one scan at a time."""

import uuid
from datetime import timedelta

import structlog

from skydriver_common.clock import CLOCK
from skydriver_common.db.schedule import DueWork, Schedule
from skydriver_common.log.compaction import MAX_REPORTS, MAX_RESULTS, compact_progress, compact_results
from skydriver_common.log.unit_of_work import Transaction, UnitOfWork
from skydriver_common.model.commands import Context
from skydriver_common.model.ids import ScanId
from skydriver_common.runtime.due_work import DueWorkConsumer
from skydriver_progress.decide.retention import next_compaction_after
from skydriver_progress.due_kinds import DueKind

logger = structlog.get_logger(__name__)


class Retention:
    """keep: how long reports keep their content; None: for ever. A scan is compacted until it has ended and nothing is left."""

    def __init__(self, uow: UnitOfWork, schedule: Schedule, *, keep: timedelta | None) -> None:
        self._uow = uow
        self._keep = keep
        self._due_work = DueWorkConsumer(schedule, DueKind.COMPACT, self._compact)

    def schedule_compaction(self, tx: Transaction, scan_id: ScanId) -> None:
        """The scan's first report or result is about to be stored: schedule, in its transaction, the first compaction."""
        if self._keep is not None:
            tx.due.put(DueKind.COMPACT, scan_id, after=self._keep)

    async def step(self) -> bool | float:
        """Compact one scan, a bounded number of reports at a time, under a lease."""
        return False if self._keep is None else await self._due_work.step()

    async def _compact(self, work: DueWork) -> timedelta | None:
        assert self._keep is not None
        batch = uuid.uuid4().hex
        context = Context(command_id=f"compaction:{batch}", correlation_id=batch, actor="progress")
        before = CLOCK.now() - self._keep
        async with self._uow.on_scans(context, [work.scan_id]) as tx:
            scan = tx.scan(work.scan_id)
            done = 0 if scan is None else await compact_progress(tx, work.scan_id, before=before)
            results = 0 if scan is None else await compact_results(tx, work.scan_id, before=before)
        if done or results:
            logger.info("progress.compacted", scan_id=work.scan_id, payloads=done, results=results)
        has_more = done == MAX_REPORTS or results == MAX_RESULTS
        return next_compaction_after(scan, has_more=has_more, before=before.timestamp(), retention=self._keep)
