"""Watch over scanner servers: tell how they do, restart or replace what died, and compare what should run with what does."""

import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import structlog

from skydriver_common.db.pool import Pool
from skydriver_common.db.schedule import Schedule
from skydriver_common.faults import TryLater
from skydriver_common.log.unit_of_work import Transaction, UnitOfWork
from skydriver_common.model import event_codec
from skydriver_common.model.events import ScannerFailed, ScannerRestarted
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_common.model.stages import ScannerStage
from skydriver_dispatcher import store
from skydriver_dispatcher.decide import (
    RESTARTS_WITHIN_S,
    can_end,
    decide_exit,
    decide_last_exit,
    decide_stage,
    has_reconstructed,
)
from skydriver_dispatcher.divergence import DivergenceGuard
from skydriver_dispatcher.pod_status import is_terminal_problem
from skydriver_dispatcher.ports import CapacityFreed, Launcher, ScannerExit, ScannerStatus
from skydriver_dispatcher.store import Running
from skydriver_dispatcher.usecases import CHECK, END, LAUNCH, RELAUNCH, STOP, UseCases, context_of_loop

logger = structlog.get_logger(__name__)

_RESTART_AFTER_S = 1.0
"""The first restart is immediate, later ones wait 3 and 15 times this long."""
_STANDBY_S = 1.0
"""Between two looks whether this replica may act again: nobody tells."""
_LAUNCH_GRACE_S = 2.0
"""A scanner server can end before the launch that started it is written down."""
_LAUNCH_GRACE_TRIES = 60
_BEHIND_S = 5.0
"""Between two looks whether what scanners have sent was handled, while it was not."""
_MOST_STARTING = 500
_AGAIN_S = 5.0
_GONE = "it is not there any more"
_FAULTS_IN_A_ROW = 3
"""So many scans one after the other that something unavailable stops: it is unavailable for all."""


async def _always() -> bool:
    return True


class Watchdog:
    """``follow`` news as they come; ``reconcile`` what should run with what does; ``settle`` and ``check`` what was put off.

    result_grace: after a clean end, how long a final result may still be under way. trouble_limit: how long a scan waits for an
    image that can't be pulled, a container or pod that can't be made. doubt_limit: for how long most scans are not replaced at once,
    lest we look at the wrong cluster; 0: no doubt at all. unknown_limit: for how long a scanner server's scan must have been unknown
    before it is stopped. have_arrived: whether what scanners had sent by now has been taken from the bus; raises TryLater.
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
        unknown_limit: timedelta = timedelta(0),
        may_act: Callable[[], bool] = lambda: True,
        have_arrived: Callable[[], Awaitable[bool]] = _always,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._uow = uow
        self._schedule = schedule
        self._launcher = launcher
        self._usecases = usecases
        self._result_grace = result_grace
        self._trouble_limit = trouble_limit
        self._unknown_limit_s = unknown_limit.total_seconds()
        self._unknown_since: dict[ScanId, float] = {}
        self._clock = clock
        self._behind: set[ScanId] = set()
        self._may_act = may_act
        self._have_arrived = have_arrived
        self._has_compared = False
        self._missing = DivergenceGuard("running scans without a Job", limit=doubt_limit, clock=clock)
        self._unknown = DivergenceGuard("Jobs of unknown scans", limit=None if doubt_limit else timedelta(0), clock=clock)

    async def reconcile(self) -> bool | float:
        """Find from the state alone what no news has told: start or replace what should run and is not there, stop what runs and should
        not, judge what has ended, note down how far the others are. Raises TryLater."""
        if not self._may_act():
            self._missing.reset()
            self._unknown.reset()
            self._unknown_since.clear()
            return False
        # in this order: what is launched in between is in neither of the two differences
        wanted = await store.should_run(self._pool)
        running_scans = await self._launcher.running_scans()
        running = {scan_id for scan_id, runs in running_scans.items() if runs}
        is_settled = await self._replace_missing(wanted, running_scans)
        await self._stop_superfluous(wanted, running)
        survey = {news.scan_id: news for news in await self._launcher.survey()}
        await self._each(survey.keys() & wanted.keys(), lambda scan_id: self._catch_up(wanted[scan_id], survey[scan_id]))
        starting = sorted(
            scan_id for scan_id, scan in wanted.items() if scan.stage == ScannerStage.SCHEDULED and scan_id in running
        )
        await self._each(starting[:_MOST_STARTING], self._look_for_lack)
        self._has_compared = True
        waits_s = [s for guard in (self._missing, self._unknown) if (s := guard.seconds_to_next()) is not None]
        return min([*waits_s, *([] if is_settled else [_AGAIN_S])], default=False)

    async def _replace_missing(self, wanted: dict[ScanId, Running], running_scans: dict[ScanId, bool]) -> bool:
        """False: something has happened to one of them meanwhile, so that it may not be missing any more: look again."""
        can_restart_in_place, is_settled = self._launcher.can_restart_in_place, True

        async def replace(scan_id: ScanId) -> None:
            nonlocal is_settled
            gone = ScannerExit(
                scan_id=scan_id, exit_code=None, log_tail="", cause="" if can_restart_in_place else _GONE,
                # a process that ended while no dispatcher ran has most likely ended with the system, or with the machine
                was_taken=not can_restart_in_place or not self._has_compared,
            )  # fmt: skip
            # where a scanner server is started again for the same scan, that may just have been done
            is_settled &= await self._ended(gone, if_version=wanted[scan_id].version if can_restart_in_place else None)

        await self._each(self._missing.believed(wanted.keys() - running_scans.keys(), len(wanted)), replace)
        return is_settled

    async def _stop_superfluous(self, wanted: dict[ScanId, Running], running: set[ScanId]) -> None:
        unknown = await store.unknown(self._pool, running - wanted.keys())
        now = self._clock()
        self._unknown_since = {scan_id: self._unknown_since.get(scan_id, now) for scan_id in unknown}
        lasting = {scan_id for scan_id, since in self._unknown_since.items() if now - since >= self._unknown_limit_s}
        believed = self._unknown.believed(lasting, len(running))
        if believed:
            logger.warning("reconcile.unknown", number=len(believed), scans=sorted(believed)[:20])
        await self._each((running - wanted.keys() - unknown) | believed, self._stop_if_superfluous)

    async def _catch_up(self, scan: Running, news: ScannerExit | ScannerStatus) -> None:
        """Handle what news should have told of this scan."""
        if isinstance(news, ScannerExit):
            logger.warning("reconcile.ended", scan_id=scan.scan_id, cause=news.cause, exit_code=news.exit_code)
            await self._ended(news)
        elif (scan.stage, scan.code) != (news.stage, news.code):
            await self._came_to(news)

    async def _look_for_lack(self, scan_id: ScanId) -> None:
        missing_prerequisite = await self._launcher.missing_prerequisite(scan_id)
        if missing_prerequisite:
            await self._ended(
                ScannerExit(scan_id=scan_id, exit_code=None, log_tail="", cause=missing_prerequisite, was_taken=True)
            )

    async def _each(self, scan_ids: Iterable[ScanId], act: Callable[[ScanId], Awaitable[None]]) -> None:
        """Act on each scan; one that breaks us does not keep the others from it. Raises TryLater: something was unavailable."""
        fault: TryLater | None = None
        in_a_row = 0
        for scan_id in sorted(scan_ids):
            try:
                await act(scan_id)
            except TryLater as error:
                fault, in_a_row = error, in_a_row + 1
                if in_a_row >= _FAULTS_IN_A_ROW:
                    break
            except Exception:
                logger.exception("reconcile.broke", scan_id=scan_id)
            else:
                in_a_row = 0
        if fault is not None:
            raise fault

    @property
    def in_doubt(self) -> int:
        """Scans about which database and cluster differ so much that nothing is done; 0: all is well."""
        return self._missing.number + self._unknown.number

    async def follow(self) -> bool | float:
        """Handle one piece of news; what can't be handled now is put back, and nothing is forgotten that ``reconcile`` does not find."""
        if not self._may_act():
            return _STANDBY_S
        board = self._launcher.news
        news = board.take()
        if news is None:
            wait_s = board.seconds_to_next()
            return False if wait_s is None else max(wait_s, 0.05)
        try:
            match news:
                case ScannerStatus():
                    await self._came_to(news)
                case ScannerExit():
                    await self._ended(news)
                case CapacityFreed():
                    await store.release_launches(self._pool)
                    self._schedule.ring(LAUNCH)
        except TryLater:
            board.put_back(news, has_failed=False)
            raise
        except Exception:
            # a bug that one scan meets must not hold up the news of the others
            if not board.put_back(news, has_failed=True):
                logger.error("news.given_up", news=news, help="the next comparison of database and cluster finds it")
            raise
        return True

    async def settle(self) -> bool | float:
        """Judge one end that was put off."""
        work = await self._schedule.claim(END)
        if work is None:
            return await self._until_next(END)
        scan = await self._look(work.scan_id)
        if scan is not None and scan.is_waiting and work.tries < _LAUNCH_GRACE_TRIES:
            await self._schedule.postpone(work, timedelta(seconds=_LAUNCH_GRACE_S))
            return True
        if scan is not None and can_end(scan):
            # what the broker has confirmed to the scanner counts, however late the service that takes it comes to it
            if not await self._has_all_arrived(work.scan_id):
                await self._schedule.postpone(work, timedelta(seconds=_BEHIND_S))
                return True
            if work.scan_id in self._behind:  # the last of it may be with whoever writes it down just now
                self._behind.discard(work.scan_id)
                await self._schedule.postpone(work, self._result_grace)
                return True
        self._behind.discard(work.scan_id)
        await self._ended(event_codec.read_as(ScannerExit, work.note), put_off=False)
        await self._schedule.finish(work)
        return True

    async def check(self) -> bool | float:
        """Give a scan up whose trouble lasts too long."""
        work = await self._schedule.claim(CHECK)
        if work is None:
            return await self._until_next(CHECK)
        async with self._on(work.scan_id) as tx:
            scan = tx.scan(work.scan_id)
            if scan is not None and can_end(scan) and scan.launch.trouble and is_terminal_problem(scan.launch.trouble["code"]):
                limit_s = self._trouble_limit.total_seconds()
                reason = f"given up after {limit_s:g} s: {scan.launch.trouble['text']}"
                tx.append(work.scan_id, [ScannerFailed(reason=reason)])
                tx.due.put(STOP, work.scan_id)
                logger.warning("scanner.given_up", scan_id=work.scan_id, reason=reason)
            tx.due.finish(work)
        return True

    async def relaunch(self) -> bool | float:
        """Start one scanner server again, if its scan still wants it."""
        work = await self._schedule.claim(RELAUNCH)
        if work is None:
            return await self._until_next(RELAUNCH)
        scan = await self._look(work.scan_id)
        if scan is not None and scan.may_run:
            try:
                await self._launcher.launch(scan)
            except TryLater as fault:
                logger.warning("relaunch.deferred", scan_id=work.scan_id, what=fault.what)
                await self._schedule.postpone(
                    work, timedelta(seconds=max(fault.after_s, min(30.0, 0.5 * 2 ** min(work.tries, 8))))
                )
                return True
            async with self._on(work.scan_id) as tx:
                now = tx.scan(work.scan_id)
                if now is None or now.is_over:
                    # deleted or given up while it was started: what stopped it then may have found nothing
                    tx.due.put(STOP, work.scan_id)
        await self._schedule.finish(work)
        return True

    async def _came_to(self, news: ScannerStatus) -> None:
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
            if events and is_terminal_problem(news.code):
                tx.due.put(CHECK, news.scan_id, after=self._trouble_limit)
            elif events:
                tx.due.drop(CHECK, news.scan_id)
        if events:
            logger.info("scanner.stage", scan_id=news.scan_id, stage=news.stage, code=news.code)

    async def _ended(self, ended: ScannerExit, *, put_off: bool = True, if_version: int | None = None) -> bool:
        """Decide what an end means, and act on it. Raises TryLater.

        if_version: only if nothing has happened to the scan since; False: something has.
        """
        is_behind = put_off and not await self._has_all_arrived(ended.scan_id)
        async with self._on(ended.scan_id) as tx:
            scan = tx.scan(ended.scan_id)
            if scan is None or not scan.may_run:
                return True
            if if_version not in (None, scan.version):
                return False
            if put_off and (scan.is_waiting or ended.exit_code == 0 or is_behind):
                grace = timedelta(seconds=_LAUNCH_GRACE_S) if scan.is_waiting else self._result_grace
                tx.due.put(END, ended.scan_id, after=grace, note=_note(ended))
                return True
            if self._launcher.can_restart_in_place:
                await self._revive(tx, scan, ended)
                return True
            if not ended.was_taken:
                events = decide_last_exit(scan, exit_code=ended.exit_code, log_tail=ended.log_tail, cause=ended.cause)
                tx.append(ended.scan_id, events)
        if not ended.was_taken:
            logger.warning("scanner.failed", scan_id=ended.scan_id, exit_code=ended.exit_code, cause=ended.cause)
            return True
        context = context_of_loop("watchdog", ended.scan_id, str(uuid.uuid4()))
        reason = f"the scanner server was lost: {ended.cause}"
        new = await self._usecases.replace_scan(ended.scan_id, reason, ended.exit_code, ended.log_tail, context)
        logger.warning("scanner.lost", scan_id=ended.scan_id, cause=ended.cause, replaced_by=new)
        return True

    async def _has_all_arrived(self, scan_id: ScanId) -> bool:
        """Whether what scanners had sent by now was taken from the bus; not if the broker can't say."""
        try:
            has_arrived = await self._have_arrived()
        except TryLater as fault:
            logger.warning("scanner.reports_unknown", what=fault.what)
            has_arrived = False
        if not has_arrived:
            self._behind.add(scan_id)
        return has_arrived

    async def _revive(self, tx: Transaction, scan: Scan, ended: ScannerExit) -> None:
        past = await store.restarts(tx.connection, scan.scan_id, within_s=RESTARTS_WITHIN_S)
        events = decide_exit(
            scan, exit_code=ended.exit_code, log_tail=ended.log_tail, was_planned=ended.was_taken,
            has_progressed=past.has_reported and has_reconstructed(scan.progress), n_recent=past.n_recent,
        )  # fmt: skip
        tx.append(ended.scan_id, events)
        for event in events:
            logger.warning("scanner.ended", scan_id=ended.scan_id, exit_code=ended.exit_code, outcome=event.type)
            if isinstance(event, ScannerRestarted):
                pause_s = 0.0 if ended.was_taken else _RESTART_AFTER_S * (4 ** (event.restarts - 1) - 1)
                # in the same transaction: a dispatcher that dies here does not forget the restart
                tx.due.put(RELAUNCH, ended.scan_id, after=timedelta(seconds=pause_s), priority=scan.priority)

    async def _stop_if_superfluous(self, scan_id: ScanId) -> None:
        """Stop a running scanner server whose scan is deleted, failed or unknown (not: just starting or finishing)."""
        async with self._on(scan_id) as tx:
            scan = tx.scan(scan_id)
            if scan is None or scan.is_over:
                tx.due.put(STOP, scan_id)
                logger.warning("scanner.superfluous", scan_id=scan_id)

    async def _look(self, scan_id: ScanId) -> Scan | None:
        async with self._on(scan_id) as tx:
            return tx.scan(scan_id)

    async def _until_next(self, kind: str) -> bool | float:
        next_s = await self._schedule.seconds_to_next([kind])
        return False if next_s is None else max(next_s, 0.2)

    def _on(self, scan_id: ScanId) -> AbstractAsyncContextManager[Transaction]:
        return self._uow.on_scans(context_of_loop("watchdog", scan_id, str(uuid.uuid4())), [scan_id])


def _note(ended: ScannerExit) -> dict[str, Any]:
    return {name: getattr(ended, name) for name in ScannerExit.__slots__}
