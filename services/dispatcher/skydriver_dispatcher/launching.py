"""Loop steps: take scans from the backlog and start them; stop what must not run."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from skydriver_common.db.pool import Pool
from skydriver_common.db.schedule import DueWork, Schedule
from skydriver_common.faults import TryLater
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.model.ids import ScanId
from skydriver_common.model.priorities import URGENT_PRIORITY
from skydriver_common.runtime.loops import Step, retry_for
from skydriver_dispatcher import store
from skydriver_dispatcher.decide import (
    decide_attempt,
    decide_deferred_launch,
    decide_failed_launch,
    decide_launched,
)
from skydriver_dispatcher.ports import CapacityExceeded, Launcher, LaunchRefused
from skydriver_dispatcher.usecases import LAUNCH, STOP, context_of_loop

logger = structlog.get_logger(__name__)

_URGENT_CAP_S, _NO_ROOM_CAP_S, _OUTAGE_CAP_S = 15.0, 60.0, 5.0
"""Longest pauses of ours: of one urgent scan; of all others while there is no room; of these while Kubernetes is away."""
_NO_ROOM_AGAIN_S = 300.0
"""A scan that found no room lets the others try first for so long, or until something ends. Source: REST contract 9.6."""


class _LaunchWorker:
    """Claims a scan, launches it, and keeps hold of it when the database goes away in between.

    What is claimed nobody else may take before its lease ends, so a hand that was interrupted goes on with it: within keep_s of
    the claim, while the lease is surely its own.
    """

    def __init__(
        self,
        claim: Callable[[], Awaitable[DueWork | float | None]],
        launch: Callable[[DueWork], Awaitable[None]],
        keep_s: float,
    ) -> None:
        self._claim = claim
        self._launch = launch
        self._keep_s = keep_s
        self._work: DueWork | None = None
        self._until = 0.0

    async def step(self) -> bool | float:
        """Launch one scan, or tell when to ask again. Raises TryLater."""
        began = time.monotonic()
        if self._work is None or began >= self._until:
            self._work, self._until = None, began + self._keep_s
            claimed = await self._claim()
            if not isinstance(claimed, DueWork):
                return False if claimed is None else max(claimed, 0.05)
            self._work = claimed
        with structlog.contextvars.bound_contextvars(scan_id=self._work.scan_id):
            await self._launch(self._work)
        self._work = None
        return True


class Launching:
    """Hands that launch, and the step ``stop``; each does one scan at a time. Several loops, and several replicas, do so at once."""

    def __init__(self, pool: Pool, uow: UnitOfWork, schedule: Schedule, launcher: Launcher, *, max_attempts: int) -> None:
        self._pool = pool
        self._uow = uow
        self._schedule = schedule
        self._launcher = launcher
        self._max_attempts = max_attempts
        self._half_lease_s = schedule.lease.total_seconds() / 2
        self._holds, self._next_hold_at = 0, 0.0

    def hand(self) -> Step:
        """A step of its own: start the most urgent scan that may start. One loop takes it."""
        return _LaunchWorker(self._claim_next, self._launch, self._half_lease_s).step

    def urgent_hand(self) -> Step:
        """The same for urgent scans alone: a hand that is free when all others wait for answers about less urgent ones."""
        return _LaunchWorker(self._claim_urgent, self._launch, self._half_lease_s).step

    async def stop(self) -> bool | float:
        """End the scanner server of one scan that must not run."""
        work = await self._schedule.claim(STOP)
        if work is None:
            next_s = await self._schedule.seconds_to_next([STOP])
            return False if next_s is None else max(next_s, 0.2)
        try:
            if await self._is_over(work.scan_id):
                await self._launcher.stop(work.scan_id)
            else:
                logger.error("stop.not_wanted", scan_id=work.scan_id)
        except TryLater as fault:
            logger.warning("stop.deferred", scan_id=work.scan_id, what=fault.what)
            await self._schedule.postpone(work, timedelta(seconds=max(fault.after_s, min(30.0, 0.5 * 2 ** min(work.tries, 8)))))
            return True
        await self._schedule.finish(work)
        return True

    async def _is_over(self, scan_id: ScanId) -> bool:
        """Whether no scanner server may be left of it; nor of a scan that nobody knows."""
        async with self._uow.on_scans(context_of_loop("launcher", scan_id, str(uuid.uuid4())), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            return scan is None or scan.is_over

    async def _claim_next(self) -> DueWork | float | None:
        return await store.claim_launch(self._pool, holder=self._schedule.holder, lease=self._schedule.lease)

    async def _claim_urgent(self) -> DueWork | None:
        return await self._schedule.claim(LAUNCH, min_priority=URGENT_PRIORITY)

    async def _launch(self, work: DueWork) -> None:
        if await self._is_launched(work):
            return
        try:
            await store.give_back_interval(self._pool, work)
        except TryLater as fault:
            # the row is not ours any more, so this step must not be repeated; the place ends by itself
            logger.warning("throttle.place-kept", what=fault.what)

    async def _is_launched(self, work: DueWork) -> bool:
        """Try to start the scan; False when no scanner server was started. Raises TryLater."""
        scan_id, attempt_id = work.scan_id, str(uuid.uuid4())
        async with self._uow.on_scans(context_of_loop("launcher", scan_id, attempt_id), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is None or not scan.is_waiting:
                tx.due.finish(work)
                return False
            scan = tx.append(scan_id, decide_attempt(scan)) or scan
        try:
            # so that it is written down while the lease is surely ours; what was made after all is found by the next try
            async with asyncio.timeout(self._half_lease_s):
                job = await self._launcher.launch(scan)
        except TryLater as fault:
            await self._deferred(work, fault)
            return False
        except TimeoutError:
            await self._deferred(work, TryLater(f"the launch was not done within {self._half_lease_s:g} s"))
            return False
        except LaunchRefused as error:
            await self._failed(work, str(error), is_final=error.is_final)
            return False
        except Exception as error:
            # a bug that one scan meets must not keep the others waiting, nor be tried for ever
            logger.exception("launch.broke")
            await self._failed(work, f"unexpected {type(error).__name__}", is_final=False)
            return False
        self._holds = 0
        # insistently: until this is recorded nobody knows that the scan runs, and with the lease's end it is started again
        await retry_for(lambda: self._started(work, attempt_id, job), for_s=self._half_lease_s)
        logger.info("scan.launched", job=job)
        return True

    async def _started(self, work: DueWork, attempt_id: str, job: str) -> None:
        scan_id = work.scan_id
        async with self._uow.on_scans(context_of_loop("launcher", scan_id, f"{attempt_id}/launched"), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is not None:
                tx.append(scan_id, decide_launched(scan, launcher=self._launcher.name, job=job))
            if scan is None or scan.is_over:
                # deleted or given up while it was started: it may run by now, and what stopped it then found nothing
                tx.due.put(STOP, scan_id)
            tx.due.finish(work)

    async def _deferred(self, work: DueWork, fault: TryLater) -> None:
        """Wait for room or an answer: this scan, and with it all that are not urgent."""
        context = context_of_loop("launcher", work.scan_id, str(uuid.uuid4()))
        async with self._uow.on_scans(context, [work.scan_id]) as tx:
            scan = tx.scan(work.scan_id)
            if scan is None or not scan.is_waiting:
                tx.due.finish(work)
                if scan is None or scan.is_over:
                    # deleted meanwhile; the call may have had its effect all the same
                    tx.due.put(STOP, work.scan_id)
                # else another worker has launched it, for which this one was late
                return
            tx.append(work.scan_id, decide_deferred_launch(scan, fault.what))
        logger.warning("launch.deferred", reason=fault.what)
        has_no_room = isinstance(fault, CapacityExceeded)
        if work.priority >= URGENT_PRIORITY:
            pause_s = min(_URGENT_CAP_S, 0.5 * 2 ** min(work.tries, 8))
            await self._put_off(work, pause_s if has_no_room else max(fault.after_s, pause_s), for_room=has_no_room)
            return
        if time.monotonic() >= self._next_hold_at:  # else another hand of ours has met the same
            self._holds += 1
        pause_s = min(_NO_ROOM_CAP_S if has_no_room else _OUTAGE_CAP_S, 0.5 * 2 ** min(self._holds, 8))
        hold_s = pause_s if has_no_room else max(fault.after_s, pause_s)
        self._next_hold_at = time.monotonic() + hold_s
        await store.hold_launches(self._pool, for_s=hold_s, because=fault.what, for_room=has_no_room)
        await self._put_off(work, _NO_ROOM_AGAIN_S if has_no_room else hold_s, for_room=has_no_room)

    async def _put_off(self, work: DueWork, pause_s: float, *, for_room: bool = False) -> None:
        """for_room: and it is due as soon as there is room."""
        await self._schedule.postpone(work, timedelta(seconds=pause_s), note=store.WAITS_FOR_CAPACITY if for_room else {})

    async def _failed(self, work: DueWork, reason: str, *, is_final: bool) -> None:
        context = context_of_loop("launcher", work.scan_id, str(uuid.uuid4()))
        async with self._uow.on_scans(context, [work.scan_id]) as tx:
            scan = tx.scan(work.scan_id)
            after = scan and tx.append(
                work.scan_id,
                decide_failed_launch(scan, reason, is_final=is_final, max_attempts=self._max_attempts),
            )
            goes_on = after is not None and after.is_waiting
            if not goes_on:
                tx.due.finish(work)
                if after is None or after.is_over:
                    # half of it may have been made
                    tx.due.put(STOP, work.scan_id)
        logger.warning("launch.failed", reason=reason, again=goes_on)
        if after is not None and goes_on:
            await self._put_off(work, min(300.0, 4.0**after.launch.failures))
