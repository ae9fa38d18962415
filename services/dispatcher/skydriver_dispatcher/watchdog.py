"""Watch over running scanner servers: restart what died, tell what failed, after a restart reconcile with reality."""

import uuid
from datetime import timedelta

import structlog

from skydriver_common.db.bell import DUE_CHANNEL
from skydriver_common.db.pool import Pool
from skydriver_common.db.schedule import Schedule
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.model.events import ScannerRestarted
from skydriver_dispatcher import store
from skydriver_dispatcher.decide import decide_exit
from skydriver_dispatcher.ports import Launcher, ScannerExit
from skydriver_dispatcher.usecases import RELAUNCH, STOP, context_of_loop

log = structlog.get_logger(__name__)

_RESTART_AFTER_S = 1.0
"""The first restart is immediate, later ones wait 3 and 15 times this long."""


class Watchdog:
    """``follow`` exits as they happen; ``reconcile`` what should run with what does."""

    def __init__(self, pool: Pool, uow: UnitOfWork, schedule: Schedule, launcher: Launcher) -> None:
        self._pool = pool
        self._uow = uow
        self._schedule = schedule
        self._launcher = launcher

    async def reconcile(self) -> None:
        """After a start: launch again what should run and does not, stop what runs and should not."""
        wanted = await store.should_run(self._pool)
        running = await self._launcher.running()
        for scan_id in wanted - running:
            await self.handle(ScannerExit(scan_id=scan_id, exit_code=None, log_tail=""))
        for scan_id in running - wanted:
            if await self._is_superfluous(scan_id):
                await self._schedule.put(STOP, scan_id)

    async def follow(self) -> bool:
        """Handle one end of a scanner server."""
        ended = self._launcher.next_exit()
        if ended is None:
            return False
        await self.handle(ended)
        return True

    async def handle(self, ended: ScannerExit) -> None:
        """Decide what an end means, and act on it. Raises TryLater."""
        context = context_of_loop("watchdog", ended.scan_id, str(uuid.uuid4()))
        async with self._uow.on_scans(context, [ended.scan_id]) as tx:
            scan = tx.scan(ended.scan_id)
            if scan is None:
                return
            events = decide_exit(scan, exit_code=ended.exit_code, log_tail=ended.log_tail)
            tx.append(ended.scan_id, events)
            for event in events:
                log.warning("scanner.ended", scan_id=ended.scan_id, exit_code=ended.exit_code, outcome=event.type)
                if isinstance(event, ScannerRestarted):
                    # in the same transaction: a dispatcher that dies here does not forget the restart
                    await self._schedule.put(
                        RELAUNCH, ended.scan_id, priority=scan.priority, connection=tx.connection,
                        due_at=tx.now + timedelta(seconds=_RESTART_AFTER_S * (4 ** (event.restarts - 1) - 1)),
                    )  # fmt: skip
                    tx.rings.append((DUE_CHANNEL, RELAUNCH))

    async def relaunch(self) -> bool | float:
        """Start one scanner server again, if its scan still wants it."""
        work = await self._schedule.claim(RELAUNCH)
        if work is None:
            next_s = await self._schedule.seconds_to_next([RELAUNCH])
            return False if next_s is None else max(next_s, 0.2)
        async with self._uow.on_scans(context_of_loop("watchdog", work.scan_id, str(uuid.uuid4())), [work.scan_id]) as tx:
            scan = tx.scan(work.scan_id)
        if scan is not None and scan.may_run:
            await self._launcher.launch(scan)
        await self._schedule.finish(work)
        return True

    async def _is_superfluous(self, scan_id: str) -> bool:
        """Whether a running scanner server belongs to a scan that is deleted, failed or unknown (not: just finishing)."""
        context = context_of_loop("watchdog", scan_id, str(uuid.uuid4()))
        async with self._uow.on_scans(context, [scan_id]) as tx:
            scan = tx.scan(scan_id)
            return scan is None or scan.is_deleted or scan.launch.state in ("abandoned", "failed")
