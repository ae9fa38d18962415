"""Loop steps that watch over scanner servers: record how they do, restart or replace what died, compare what should run with what does."""

import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import structlog

from skydriver_common.db.pool import Pool
from skydriver_common.db.schedule import DueWork, Schedule
from skydriver_common.faults import TryLater
from skydriver_common.log.unit_of_work import Transaction, UnitOfWork
from skydriver_common.model import event_codec
from skydriver_common.model.events import ScannerRestarted
from skydriver_common.model.ids import ScanId
from skydriver_common.model.progress_report import has_reconstructed
from skydriver_common.model.scan import Scan
from skydriver_common.runtime.due_work import SETTLED, DueWorkConsumer, Handler, Settled
from skydriver_common.runtime.loops import Step
from skydriver_dispatcher import retry_policy, store
from skydriver_dispatcher.decide.exits import (
    RESTARTS_WITHIN_S,
    can_end,
    decide_exit,
    decide_last_exit,
    further_grace_s,
    grace_before_judging_s,
)
from skydriver_dispatcher.decide.launches import must_not_run
from skydriver_dispatcher.decide.reconciliation import (
    ExpectedScan,
    compare,
    next_comparison_s,
    unknown_for_long,
    unknown_since,
)
from skydriver_dispatcher.decide.stages import decide_stage, decide_stuck, is_terminal_problem
from skydriver_dispatcher.divergence_guard import DivergenceGuard
from skydriver_dispatcher.due_kinds import DueKind
from skydriver_dispatcher.launcher_events import CapacityFreed, ScannerExit, ScannerStatus
from skydriver_dispatcher.ports import Launcher
from skydriver_dispatcher.usecases import UseCases, context_of_loop

logger = structlog.get_logger(__name__)

_STANDBY_S = 1.0
"""Between two checks whether this replica may act again: nothing wakes it then."""
_JOB_GONE = "its Job no longer exists"
_FAULTS_IN_A_ROW = 3
"""After so many scans one after the other that something unavailable stops, the rest is not tried: it is unavailable for all."""


async def _always() -> bool:
    return True


class Watchdog:
    """Its loop steps: handle events of the launcher and due work, and ``reconcile`` what should run with what does.

    result_grace: after a clean exit, how long a final result may still be on its way. trouble_limit: how long a scan waits for an
    image that cannot be pulled, or a container or pod that cannot be created. divergence_limit: an implausible number of missing
    scanner servers is acted on after so long; 0: at once. unknown_limit: how long a scanner server's scan must have been unknown
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
        divergence_limit: timedelta = timedelta(0),
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
        self._missing = DivergenceGuard("running scans without a Job", limit=divergence_limit, clock=clock)
        self._unknown = DivergenceGuard("Jobs of unknown scans", limit=None if divergence_limit else timedelta(0), clock=clock)
        self.judge_exit = self._consumer(DueKind.END, self._judge_exit)
        """Loop step: judge one exit that was put off."""
        self.check_stuck = self._consumer(DueKind.CHECK, self._check_stuck)
        """Loop step: fail one scan whose problem has lasted too long."""
        self.relaunch = self._consumer(DueKind.RELAUNCH, self._relaunch)
        """Loop step: restart one scanner server in place, if its scan still needs it."""

    def _consumer(self, kind: DueKind, handle: Handler) -> Step:
        return DueWorkConsumer(self._schedule, kind, handle, postpones_failures=False).step

    async def reconcile(self) -> bool | float:
        """Find from the state alone what no event has reported. Raises TryLater.

        Starts or replaces what should run and does not, stops what runs and should not, judges what has ended, and records how far
        the others are.
        """
        if not self._may_act():
            self._missing.reset()
            self._unknown.reset()
            self._unknown_since.clear()
            return False
        # in this order: what is launched in between is in neither of the two differences
        expected = await store.load_expected(self._pool)
        found = await self._launcher.running_scans()
        comparison = compare(expected, found)
        is_settled = await self._replace_missing(comparison.missing, expected)
        await self._stop_unexpected(comparison.unexpected, n_running=sum(found.values()))
        survey = {event.scan_id: event for event in await self._launcher.survey()}
        await self._each(survey.keys() & expected.keys(), lambda scan_id: self._catch_up(expected[scan_id], survey[scan_id]))
        await self._each(comparison.starting, self._check_prerequisite)
        self._has_compared = True
        next_s = next_comparison_s((guard.seconds_to_next() for guard in (self._missing, self._unknown)), is_settled=is_settled)
        return False if next_s is None else next_s

    async def _replace_missing(self, missing: frozenset[ScanId], expected: dict[ScanId, ExpectedScan]) -> bool:
        """Return False when one of them has changed meanwhile, so that it may not be missing any more: compare again."""
        in_place, is_settled = self._launcher.can_restart_in_place, True

        async def replace(scan_id: ScanId) -> None:
            nonlocal is_settled
            gone = ScannerExit(
                scan_id=scan_id, exit_code=None, log_tail="", cause="" if in_place else _JOB_GONE,
                # a process that ended while no dispatcher ran has most likely ended with the system, or with the machine
                was_taken=not in_place or not self._has_compared,
            )  # fmt: skip
            # where a scanner server is restarted for the same scan, that may just have been done
            is_settled &= await self._handle_exit(gone, if_version=expected[scan_id].version if in_place else None)

        await self._each(self._missing.actionable(missing, len(expected)), replace)
        return is_settled

    async def _stop_unexpected(self, unexpected: frozenset[ScanId], *, n_running: int) -> None:
        unknown = await store.find_unknown(self._pool, unexpected)
        now = self._clock()
        self._unknown_since = unknown_since(self._unknown_since, unknown, now=now)
        lasting = unknown_for_long(self._unknown_since, now=now, limit_s=self._unknown_limit_s)
        actionable = self._unknown.actionable(lasting, n_running)
        if actionable:
            logger.warning("reconcile.unknown", number=len(actionable), scans=sorted(actionable)[:20])
        await self._each((unexpected - unknown) | actionable, self._stop_orphan)

    async def _catch_up(self, scan: ExpectedScan, event: ScannerExit | ScannerStatus) -> None:
        """Handle what an event should have reported of this scan."""
        if isinstance(event, ScannerExit):
            logger.warning("reconcile.ended", scan_id=scan.scan_id, cause=event.cause, exit_code=event.exit_code)
            await self._handle_exit(event)
        elif (scan.stage, scan.code) != (event.stage, event.code):
            await self._handle_status(event)

    async def _check_prerequisite(self, scan_id: ScanId) -> None:
        missing = await self._launcher.missing_prerequisite(scan_id)
        if missing:
            await self._handle_exit(ScannerExit(scan_id=scan_id, exit_code=None, log_tail="", cause=missing, was_taken=True))

    async def _each(self, scan_ids: Iterable[ScanId], act: Callable[[ScanId], Awaitable[None]]) -> None:
        """Act on each scan; a bug that one meets does not keep the others from it. Raises TryLater: something was unavailable."""
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
                logger.exception("reconcile.failed", scan_id=scan_id)
            else:
                in_a_row = 0
        if fault is not None:
            raise fault

    @property
    def n_suspended(self) -> int:
        """Scans about which database and cluster differ so implausibly that nothing is done; 0: none."""
        return self._missing.n_suspended + self._unknown.n_suspended

    async def handle_event(self) -> bool | float:
        """Handle one event of the launcher.

        What cannot be handled now is put back; nothing is dropped that ``reconcile`` does not find.
        """
        if not self._may_act():
            return _STANDBY_S
        pending = self._launcher.events
        event = pending.take()
        if event is None:
            wait_s = pending.seconds_to_next()
            return False if wait_s is None else max(wait_s, 0.05)
        try:
            match event:
                case ScannerStatus():
                    await self._handle_status(event)
                case ScannerExit():
                    await self._handle_exit(event)
                case CapacityFreed():
                    await store.release_launches(self._pool)
                    self._schedule.notify(DueKind.LAUNCH)
        except TryLater:
            pending.put_back(event, has_failed=False)
            raise
        except Exception:
            # a bug that one scan meets must not hold up the events of the others
            if not pending.put_back(event, has_failed=True):
                logger.error("launcher-event.dropped", news=event, help="the next comparison of database and cluster finds it")
            raise
        return True

    async def _judge_exit(self, work: DueWork) -> timedelta | None:
        scan_id = work.scan_id
        scan = await self._load(scan_id)
        was_behind = scan_id in self._behind
        has_arrived = scan is None or not can_end(scan) or await self._have_all_arrived(scan_id)
        grace_s = further_grace_s(
            scan, tries=work.tries, has_arrived=has_arrived, was_behind=was_behind,
            result_grace_s=self._result_grace.total_seconds(),
        )  # fmt: skip
        if has_arrived and (scan is None or not scan.is_waiting or grace_s is None):
            self._behind.discard(scan_id)
        if grace_s is not None:
            return timedelta(seconds=grace_s)
        await self._handle_exit(event_codec.read_as(ScannerExit, work.note), put_off=False)
        return None

    async def _check_stuck(self, work: DueWork) -> Settled:
        async with self._on(work.scan_id) as tx:
            events = decide_stuck(tx.scan(work.scan_id), limit_s=self._trouble_limit.total_seconds())
            tx.append(work.scan_id, events)
            for event in events:
                tx.due.put(DueKind.STOP, work.scan_id)
                logger.warning("scanner.start-timed-out", scan_id=work.scan_id, reason=event.reason)
            tx.due.finish(work)
        return SETTLED

    async def _relaunch(self, work: DueWork) -> timedelta | None:
        scan = await self._load(work.scan_id)
        if scan is not None and scan.may_run:
            try:
                await self._launcher.launch(scan)
            except TryLater as fault:
                logger.warning("relaunch.deferred", scan_id=work.scan_id, what=fault.what)
                return timedelta(seconds=retry_policy.unavailable_backoff_s(work.tries, after_s=fault.after_s))
            async with self._on(work.scan_id) as tx:
                if must_not_run(tx.scan(work.scan_id)):
                    # deleted or abandoned while it was started: what stopped it then may have found nothing
                    tx.due.put(DueKind.STOP, work.scan_id)
        return None

    async def _handle_status(self, status: ScannerStatus) -> None:
        async with self._on(status.scan_id) as tx:
            scan = tx.scan(status.scan_id)
            if scan is None:
                return  # somebody else's, or the database is not ours: the next comparison of all decides
            if must_not_run(scan):
                # created by a launch that lost its race with a deletion
                tx.due.put(DueKind.STOP, status.scan_id)
                return
            events = decide_stage(scan, stage=status.stage, code=status.code, text=status.text)
            tx.append(status.scan_id, events)
            if events and is_terminal_problem(status.code):
                tx.due.put(DueKind.CHECK, status.scan_id, after=self._trouble_limit)
            elif events:
                tx.due.drop(DueKind.CHECK, status.scan_id)
        if events:
            logger.info("scanner.stage", scan_id=status.scan_id, stage=status.stage, code=status.code)

    async def _handle_exit(self, ended: ScannerExit, *, put_off: bool = True, if_version: int | None = None) -> bool:
        """Decide what an exit means, and act on it. Raises TryLater.

        put_off: whether it may be judged a little later. if_version: only if nothing has happened to the scan since; False:
        something has.
        """
        has_arrived = not put_off or await self._have_all_arrived(ended.scan_id)
        async with self._on(ended.scan_id) as tx:
            scan = tx.scan(ended.scan_id)
            if scan is None or not scan.may_run:
                return True
            if if_version not in (None, scan.version):
                return False
            if put_off:
                grace_s = grace_before_judging_s(
                    scan, exit_code=ended.exit_code, has_arrived=has_arrived,
                    result_grace_s=self._result_grace.total_seconds(),
                )  # fmt: skip
                if grace_s is not None:
                    tx.due.put(DueKind.END, ended.scan_id, after=timedelta(seconds=grace_s), note=_as_note(ended))
                    return True
            if self._launcher.can_restart_in_place:
                await self._restart(tx, scan, ended)
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

    async def _have_all_arrived(self, scan_id: ScanId) -> bool:
        """Return whether what scanners had sent by now was taken from the bus; False if the broker cannot say."""
        try:
            has_arrived = await self._have_arrived()
        except TryLater as fault:
            logger.warning("scanner.reports-unknown", what=fault.what)
            has_arrived = False
        if not has_arrived:
            self._behind.add(scan_id)
        return has_arrived

    async def _restart(self, tx: Transaction, scan: Scan, ended: ScannerExit) -> None:
        """Restart the scanner server in place, or fail the scan."""
        past = await store.count_restarts(tx.connection, scan.scan_id, within_s=RESTARTS_WITHIN_S)
        events = decide_exit(
            scan, exit_code=ended.exit_code, log_tail=ended.log_tail, was_planned=ended.was_taken,
            has_progressed=past.has_reported and has_reconstructed(scan.progress), n_recent=past.n_recent,
        )  # fmt: skip
        tx.append(ended.scan_id, events)
        for event in events:
            logger.warning("scanner.ended", scan_id=ended.scan_id, exit_code=ended.exit_code, outcome=event.type)
            if isinstance(event, ScannerRestarted):
                pause_s = retry_policy.restart_pause_s(event.restarts, was_planned=ended.was_taken)
                # in the same transaction: a dispatcher that dies here does not forget the restart
                tx.due.put(DueKind.RELAUNCH, ended.scan_id, after=timedelta(seconds=pause_s), priority=scan.priority)

    async def _stop_orphan(self, scan_id: ScanId) -> None:
        """Stop a running scanner server whose scan is deleted, failed or unknown (not: just starting or finishing)."""
        async with self._on(scan_id) as tx:
            if must_not_run(tx.scan(scan_id)):
                tx.due.put(DueKind.STOP, scan_id)
                logger.warning("scanner.orphan-stopped", scan_id=scan_id)

    async def _load(self, scan_id: ScanId) -> Scan | None:
        async with self._on(scan_id) as tx:
            return tx.scan(scan_id)

    def _on(self, scan_id: ScanId) -> AbstractAsyncContextManager[Transaction]:
        return self._uow.on_scans(context_of_loop("watchdog", scan_id, str(uuid.uuid4())), [scan_id])


def _as_note(ended: ScannerExit) -> dict[str, Any]:
    return {name: getattr(ended, name) for name in ScannerExit.__slots__}
