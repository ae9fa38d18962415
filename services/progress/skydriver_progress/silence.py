"""A scanner that says nothing though its job lives: looked at when a due row says so, told once, over when it speaks again."""

import uuid
from datetime import timedelta

import structlog

from skydriver_common.db.schedule import Schedule
from skydriver_common.log.unit_of_work import Transaction, UnitOfWork
from skydriver_common.model.commands import Context
from skydriver_progress.backlog_gate import BacklogGate
from skydriver_progress.decide import decide_silence, is_awaited, may_be_silent

logger = structlog.get_logger(__name__)

SILENCE = "progress.silence"
_LISTENS_AGAIN_S = 30.0


class SilenceWatch:
    """``begins`` with a launch; ``step`` is a loop's. The watch over a scan ends when nothing is expected of its scanner."""

    def __init__(self, uow: UnitOfWork, schedule: Schedule, hearing: BacklogGate, *, limit: timedelta) -> None:
        self._uow = uow
        self._schedule = schedule
        self._hearing = hearing
        self._limit = limit

    async def begins(self, scan_id: str) -> None:
        """A scanner server was launched: look at it after the limit. Raises TryLater."""
        async with self._uow.on_scans(_context(), [scan_id]) as tx:
            if tx.scan(scan_id) is not None:
                self._look_later(tx, scan_id)

    async def step(self) -> bool | float:
        """Look at one scan whose time has come."""
        is_sure = await self._hearing.is_sure()
        work = await self._schedule.claim(SILENCE)
        if work is None:
            next_s = await self._schedule.seconds_to_next([SILENCE])
            return False if next_s is None else max(next_s, 0.2)
        if not is_sure:
            await self._schedule.postpone(work, timedelta(seconds=_LISTENS_AGAIN_S))
            return True
        limit_s = self._limit.total_seconds()
        async with self._uow.on_scans(_context(), [work.scan_id]) as tx:
            scan, now = tx.scan(work.scan_id), tx.now.timestamp()
            is_natural = scan is not None and may_be_silent(scan)
            # seen at looks only: when the first worker runs it may have begun just now
            since = now if is_natural or work.note.get("is_natural") else float(work.note.get("since", 0.0))
            events = decide_silence(scan, now, limit_s, since=since) if scan is not None else []
            tx.append(work.scan_id, events)
        if scan is None or not is_awaited(scan):
            await self._schedule.finish(work)
            return True
        if events:
            logger.warning("scanner.silent", scan_id=work.scan_id, silent_s=round(now - scan.scanner.heard_at))
        spoke_lately = scan.scanner.silent_since is None and not events and not is_natural
        again_s = max(1.0, max(scan.scanner.heard_at, since) + limit_s - now) if spoke_lately else limit_s
        await self._schedule.postpone(work, timedelta(seconds=again_s), note={"is_natural": is_natural, "since": since})
        return True

    def _look_later(self, tx: Transaction, scan_id: str) -> None:
        tx.due.put(SILENCE, scan_id, after=self._limit)


def _context() -> Context:
    batch = uuid.uuid4().hex
    return Context(command_id=f"silence:{batch}", correlation_id=batch, actor="progress")
