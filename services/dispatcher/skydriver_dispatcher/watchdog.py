"""Watch over running scanner servers: restart what died, tell what failed, after a restart reconcile with reality."""

import uuid

import structlog

from skydriver_common.db.pool import Pool
from skydriver_common.db.schedule import Schedule
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.model.events import ScannerRestarted
from skydriver_dispatcher import store
from skydriver_dispatcher.decide import decide_exit
from skydriver_dispatcher.ports import Launcher, ScannerExit
from skydriver_dispatcher.usecases import STOP, context_of_loop

log = structlog.get_logger(__name__)


class Watchdog:
    """``follow`` exits as they happen; ``reconcile`` what should run with what does."""

    def __init__(self, pool: Pool, uow: UnitOfWork, schedule: Schedule, launcher: Launcher) -> None:
        self._pool = pool
        self._uow = uow
        self._schedule = schedule
        self._launcher = launcher

    async def reconcile(self) -> bool:
        """Start again what should run and does not, stop what runs and should not. One pass; False: nothing is left."""
        # first what runs, then what should: a scan launched in between is in neither difference
        running = await self._launcher.running()
        wanted = await store.should_run(self._pool)
        for scan_id in wanted - running:
            await self.handle(ScannerExit(scan_id=scan_id, exit_code=None, log_tail=""))
        for scan_id in running - wanted:
            if await self._is_superfluous(scan_id):
                await self._schedule.put(STOP, scan_id)
        return False

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
            after = tx.append(ended.scan_id, events)
        if events and after is not None:
            log.warning("scanner.ended", scan_id=ended.scan_id, exit_code=ended.exit_code, outcome=events[0].type)
            if isinstance(events[0], ScannerRestarted):
                await self._launcher.launch(after)

    async def _is_superfluous(self, scan_id: str) -> bool:
        """Whether a running scanner server belongs to a scan that is deleted, failed or unknown (not: just finishing)."""
        context = context_of_loop("watchdog", scan_id, str(uuid.uuid4()))
        async with self._uow.on_scans(context, [scan_id]) as tx:
            scan = tx.scan(scan_id)
            return scan is None or scan.is_deleted or scan.launch.state in ("abandoned", "failed")
