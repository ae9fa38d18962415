"""A scanner that reports nothing although its job is running: checked by a due row, recorded once, over with its next report."""

import uuid
from datetime import timedelta

import structlog

from skydriver_common.db.schedule import DueWork, Schedule
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.model.commands import Context
from skydriver_common.model.ids import ScanId
from skydriver_common.runtime.due_work import DueAgain, DueWorkConsumer
from skydriver_progress.backlog_gate import BacklogGate
from skydriver_progress.decide.silence import check_silence
from skydriver_progress.due_kinds import DueKind

logger = structlog.get_logger(__name__)

_GATE_RETRY_S = 30.0


class SilenceWatch:
    """``schedule_silence_check`` is for launches, ``step`` for a loop. A scan is watched until nothing is expected of its scanner."""

    def __init__(self, uow: UnitOfWork, schedule: Schedule, gate: BacklogGate, *, limit: timedelta) -> None:
        self._uow = uow
        self._gate = gate
        self._is_gate_open = False
        self._limit = limit
        self._due_work = DueWorkConsumer(schedule, DueKind.SILENCE, self._check)

    async def schedule_silence_check(self, scan_id: ScanId) -> None:
        """Schedule the first check of a scanner server that was launched, after the limit. Raises TryLater."""
        async with self._uow.on_scans(_context(), [scan_id]) as tx:
            if tx.scan(scan_id) is not None:
                tx.due.put(DueKind.SILENCE, scan_id, after=self._limit)

    async def step(self) -> bool | float:
        """Check one scan that is due."""
        self._is_gate_open = await self._gate.is_open()  # also when nothing is due: the gate has to be asked regularly
        return await self._due_work.step()

    async def _check(self, work: DueWork) -> DueAgain | timedelta | None:
        if not self._is_gate_open:
            return timedelta(seconds=_GATE_RETRY_S)
        limit_s = self._limit.total_seconds()
        async with self._uow.on_scans(_context(), [work.scan_id]) as tx:
            scan, now = tx.scan(work.scan_id), tx.now.timestamp()
            check = check_silence(scan, now, limit_s, work.note) if scan is not None else None
            tx.append(work.scan_id, check.events if check is not None else [])
        if scan is None or check is None or check.check_again_after_s is None:
            return None
        if check.events:
            logger.warning("scanner.silent", scan_id=work.scan_id, silent_s=round(now - scan.scanner.heard_at))
        return DueAgain(timedelta(seconds=check.check_again_after_s), note=check.note)


def _context() -> Context:
    batch = uuid.uuid4().hex
    return Context(command_id=f"silence:{batch}", correlation_id=batch, actor="progress")
