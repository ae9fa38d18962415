"""Watch over scanner servers: tell how they do, restart or replace what died, after a restart reconcile with reality."""

import time
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import structlog

from skydriver_common.db.pool import Pool
from skydriver_common.db.schedule import Schedule
from skydriver_common.faults import TryLater
from skydriver_common.log.unit_of_work import Transaction, UnitOfWork
from skydriver_common.model import wire
from skydriver_common.model.events import ScannerFailed, ScannerRestarted
from skydriver_common.model.scan import Scan
from skydriver_dispatcher import store
from skydriver_dispatcher.decide import can_end, decide_exit, decide_last_exit, decide_stage
from skydriver_dispatcher.doubt import Doubt
from skydriver_dispatcher.podfacts import is_given_up
from skydriver_dispatcher.ports import Launcher, News, RoomMade, ScannerExit, ScannerStage
from skydriver_dispatcher.usecases import CHECK, END, LAUNCH, RELAUNCH, STOP, UseCases, context_of_loop

log = structlog.get_logger(__name__)

_RESTART_AFTER_S = 1.0
"""The first restart is immediate, later ones wait 3 and 15 times this long."""
_STANDBY_S = 1.0
"""Between two looks whether this replica may act again: nobody tells."""
_LAUNCH_GRACE_S = 2.0
"""A scanner server can end before the launch that started it is written down."""
_LAUNCH_GRACE_TRIES = 60


class Watchdog:
    """``follow`` news as they come; ``reconcile`` what should run with what does; ``settle`` and ``check`` what was put off.

    result_grace: after a clean end, how long a final result may still be under way. trouble_limit: how long a scan waits for an
    image that can't be pulled, a container or pod that can't be made. doubt_limit: for how long most scans are not replaced at once,
    lest we look at the wrong cluster; 0: no doubt at all.
    """

    def __init__(
        self,
        pool: Pool,
        uow: UnitOfWork,
        schedule: Schedule,
        launcher: Launcher,
        usecases: UseCases,
        *,
        result_grace: timedelta = timedelta(seconds=20),
        trouble_limit: timedelta = timedelta(minutes=15),
        doubt_limit: timedelta = timedelta(0),
        may_act: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._uow = uow
        self._schedule = schedule
        self._launcher = launcher
        self._usecases = usecases
        self._result_grace = result_grace
        self._trouble_limit = trouble_limit
        self._may_act = may_act
        self._in_hand: News | None = None
        self._missing = Doubt("running scans without a Job", limit=doubt_limit, clock=clock)
        self._unknown = Doubt("Jobs of unknown scans", limit=None if doubt_limit else timedelta(0), clock=clock)

    async def reconcile(self) -> bool:
        """Start or replace what should run and is not there, stop what runs and should not. Raises TryLater."""
        if not self._may_act():
            self._missing.dispel()
            self._unknown.dispel()
            return False
        # in this order: what is launched in between is in neither of the two differences
        wanted = await store.should_run(self._pool)
        present = await self._launcher.present()
        missing = wanted - present.keys()
        if self._missing.allows(len(missing), len(wanted)):
            for scan_id in missing:
                gone = ScannerExit(
                    scan_id=scan_id, exit_code=None, log_tail="", cause="it is not there any more", was_taken=True
                )
                await self._ended(gone)
        running = {scan_id for scan_id, runs in present.items() if runs}
        unknown = await store.unknown(self._pool, running - wanted)
        is_sure = self._unknown.allows(len(unknown), len(running))
        for scan_id in running - wanted:
            if is_sure or scan_id not in unknown:
                await self._stop_if_superfluous(scan_id)
        for scan_id in await store.starting(self._pool):
            lack = await self._launcher.lack(scan_id) if scan_id in running else ""
            if lack:
                await self._ended(ScannerExit(scan_id=scan_id, exit_code=None, log_tail="", cause=lack, was_taken=True))
        return False

    @property
    def in_doubt(self) -> int:
        """Scans about which database and cluster differ so much that nothing is done; 0: all is well."""
        return self._missing.number + self._unknown.number

    async def follow(self) -> bool | float:
        """Handle one piece of news; one that can't be handled now is kept for the next step."""
        if not self._may_act():
            return _STANDBY_S
        news = self._in_hand or self._launcher.next_news()
        self._in_hand = news
        try:
            match news:
                case None:
                    return False
                case ScannerStage():
                    await self._came_to(news)
                case ScannerExit():
                    await self._ended(news)
                case RoomMade():
                    await store.release_launches(self._pool)
                    self._schedule.ring(LAUNCH)
        except TryLater:
            raise
        except Exception:
            self._in_hand = None  # a bug that one scan meets must not hold up the news of the others
            raise
        self._in_hand = None
        return True

    async def settle(self) -> bool | float:
        """Judge one end that was put off."""
        work = await self._schedule.claim(END)
        if work is None:
            return await self._until_next(END)
        ended = wire.read_as(ScannerExit, work.note)
        scan = await self._look(work.scan_id)
        if scan is not None and scan.is_waiting and work.tries < _LAUNCH_GRACE_TRIES:
            await self._schedule.postpone(work, timedelta(seconds=_LAUNCH_GRACE_S))
            return True
        await self._ended(ended, put_off=False)
        await self._schedule.finish(work)
        return True

    async def check(self) -> bool | float:
        """Give a scan up whose trouble lasts too long."""
        work = await self._schedule.claim(CHECK)
        if work is None:
            return await self._until_next(CHECK)
        async with self._on(work.scan_id) as tx:
            scan = tx.scan(work.scan_id)
            if scan is not None and can_end(scan) and scan.launch.trouble and is_given_up(scan.launch.trouble["code"]):
                limit_s = self._trouble_limit.total_seconds()
                reason = f"given up after {limit_s:g} s: {scan.launch.trouble['text']}"
                tx.append(work.scan_id, [ScannerFailed(reason=reason)])
                tx.due.put(STOP, work.scan_id)
                log.warning("scanner.given_up", scan_id=work.scan_id, reason=reason)
            tx.due.finish(work)
        return True

    async def relaunch(self) -> bool | float:
        """Start one scanner server again, if its scan still wants it."""
        work = await self._schedule.claim(RELAUNCH)
        if work is None:
            return await self._until_next(RELAUNCH)
        scan = await self._look(work.scan_id)
        if scan is not None and scan.may_run:
            await self._launcher.launch(scan)
        await self._schedule.finish(work)
        return True

    async def _came_to(self, news: ScannerStage) -> None:
        async with self._on(news.scan_id) as tx:
            scan = tx.scan(news.scan_id)
            if scan is None:
                return  # somebody else's, or the database is not ours: the next comparison of all decides
            if scan.is_over:
                # made by a launch that lost its race with a deletion
                tx.due.put(STOP, news.scan_id)
                return
            events = decide_stage(scan, stage=news.stage, code=news.code, text=news.text)
            tx.append(news.scan_id, events)
            if events and is_given_up(news.code):
                tx.due.put(CHECK, news.scan_id, after=self._trouble_limit)
            elif events:
                tx.due.drop(CHECK, news.scan_id)
        if events:
            log.info("scanner.stage", scan_id=news.scan_id, stage=news.stage, code=news.code)

    async def _ended(self, ended: ScannerExit, *, put_off: bool = True) -> None:
        """Decide what an end means, and act on it. Raises TryLater."""
        async with self._on(ended.scan_id) as tx:
            scan = tx.scan(ended.scan_id)
            if scan is None or not scan.may_run:
                return
            grace = timedelta(seconds=_LAUNCH_GRACE_S) if scan.is_waiting else self._result_grace
            if put_off and (scan.is_waiting or ended.exit_code == 0):
                tx.due.put(END, ended.scan_id, after=grace, note=_note(ended))
                return
            if self._launcher.revives:
                self._revive(tx, scan, ended)
                return
            if not ended.was_taken:
                events = decide_last_exit(scan, exit_code=ended.exit_code, log_tail=ended.log_tail, cause=ended.cause)
                tx.append(ended.scan_id, events)
        if not ended.was_taken:
            log.warning("scanner.failed", scan_id=ended.scan_id, exit_code=ended.exit_code, cause=ended.cause)
            return
        context = context_of_loop("watchdog", ended.scan_id, str(uuid.uuid4()))
        reason = f"the scanner server was lost: {ended.cause}"
        new = await self._usecases.replace_scan(ended.scan_id, reason, ended.exit_code, ended.log_tail, context)
        log.warning("scanner.lost", scan_id=ended.scan_id, cause=ended.cause, replaced_by=new)

    def _revive(self, tx: Transaction, scan: Scan, ended: ScannerExit) -> None:
        events = decide_exit(scan, exit_code=ended.exit_code, log_tail=ended.log_tail)
        tx.append(ended.scan_id, events)
        for event in events:
            log.warning("scanner.ended", scan_id=ended.scan_id, exit_code=ended.exit_code, outcome=event.type)
            if isinstance(event, ScannerRestarted):
                # in the same transaction: a dispatcher that dies here does not forget the restart
                pause_s = _RESTART_AFTER_S * (4 ** (event.restarts - 1) - 1)
                tx.due.put(RELAUNCH, ended.scan_id, after=timedelta(seconds=pause_s), priority=scan.priority)

    async def _stop_if_superfluous(self, scan_id: str) -> None:
        """Stop a running scanner server whose scan is deleted, failed or unknown (not: just starting or finishing)."""
        async with self._on(scan_id) as tx:
            scan = tx.scan(scan_id)
            if scan is None or scan.is_over:
                tx.due.put(STOP, scan_id)
                log.warning("scanner.superfluous", scan_id=scan_id)

    async def _look(self, scan_id: str) -> Scan | None:
        async with self._on(scan_id) as tx:
            return tx.scan(scan_id)

    async def _until_next(self, kind: str) -> bool | float:
        next_s = await self._schedule.seconds_to_next([kind])
        return False if next_s is None else max(next_s, 0.2)

    def _on(self, scan_id: str) -> AbstractAsyncContextManager[Transaction]:
        return self._uow.on_scans(context_of_loop("watchdog", scan_id, str(uuid.uuid4())), [scan_id])


def _note(ended: ScannerExit) -> dict[str, Any]:
    return {name: getattr(ended, name) for name in ScannerExit.__slots__}
