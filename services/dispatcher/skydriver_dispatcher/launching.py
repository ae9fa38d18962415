"""Loop steps: take scans from the backlog and start them; stop what must not run."""

import time
import uuid
from datetime import timedelta

import structlog

from skydriver_common.db.bell import DUE_CHANNEL
from skydriver_common.db.pool import Pool
from skydriver_common.db.schedule import Schedule, Work
from skydriver_common.faults import TryLater
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.runtime.loops import insistently
from skydriver_dispatcher import store
from skydriver_dispatcher.decide import (
    decide_attempt,
    decide_deferred_launch,
    decide_failed_launch,
    decide_launched,
)
from skydriver_dispatcher.ports import Launcher, LaunchRefused, NoRoom
from skydriver_dispatcher.usecases import LAUNCH, STOP, context_of_loop

log = structlog.get_logger(__name__)

URGENT = 100
"""From this priority on, a scan never waits for the throttle. Source: REST contract 8.5."""
_URGENT_CAP_S, _NO_ROOM_CAP_S, _OUTAGE_CAP_S = 15.0, 60.0, 5.0
"""Longest pauses of ours: of one urgent scan; of all others while there is no room; of these while Kubernetes is away."""
_NO_ROOM_AGAIN_S = 300.0
"""A scan that found no room lets the others try first for so long, or until something ends. Source: REST contract 9.6."""


class Launching:
    """Steps ``launch`` and ``stop``; each does one scan. Several loops, and several replicas, may take them at once."""

    def __init__(self, pool: Pool, uow: UnitOfWork, schedule: Schedule, launcher: Launcher, *, max_attempts: int) -> None:
        self._pool = pool
        self._uow = uow
        self._schedule = schedule
        self._launcher = launcher
        self._max_attempts = max_attempts
        self._holds = 0
        self._in_hand: Work | None = None
        self._in_hand_until = 0.0

    async def launch(self) -> bool | float:
        """Start the most urgent scan that may start."""
        began = time.monotonic()
        if self._in_hand is not None and began < self._in_hand_until:
            work = self._in_hand  # claimed before the database went away: nobody else may take it before its lease ends
        else:
            claimed = await store.claim_launch(self._pool, holder=self._schedule.holder, lease=self._schedule.lease)
            if not isinstance(claimed, Work):
                self._in_hand = None
                return False if claimed is None else max(claimed, 0.05)
            work, self._in_hand_until = claimed, began + self._schedule.lease.total_seconds() / 2
        self._in_hand = work
        with structlog.contextvars.bound_contextvars(scan_id=work.scan_id):
            await self._launch(work)
        self._in_hand = None
        return True

    async def launch_urgent(self) -> bool:
        """Start an urgent scan: for a hand that is free when all others wait for answers about less urgent ones."""
        work = await self._schedule.claim(LAUNCH, min_priority=URGENT)
        if work is None:
            return False
        with structlog.contextvars.bound_contextvars(scan_id=work.scan_id):
            await self._launch(work)
        return True

    async def stop(self) -> bool | float:
        """End the scanner server of one scan that must not run."""
        work = await self._schedule.claim(STOP)
        if work is None:
            next_s = await self._schedule.seconds_to_next([STOP])
            return False if next_s is None else max(next_s, 0.2)
        try:
            await self._launcher.stop(work.scan_id)
        except TryLater as fault:
            log.warning("stop.deferred", scan_id=work.scan_id, what=fault.what)
            await self._schedule.postpone(work, timedelta(seconds=max(fault.after_s, min(30.0, 0.5 * 2 ** min(work.tries, 8)))))
            return True
        await self._schedule.finish(work)
        return True

    async def _launch(self, work: Work) -> None:
        scan_id, attempt_id = work.scan_id, str(uuid.uuid4())
        async with self._uow.on_scans(context_of_loop("launcher", scan_id, attempt_id), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is None or not scan.is_waiting:
                await self._schedule.finish(work, connection=tx.connection)
                return
            scan = tx.append(scan_id, decide_attempt(scan)) or scan
        try:
            job = await self._launcher.launch(scan)
        except TryLater as fault:
            await self._deferred(work, fault)
            return
        except LaunchRefused as error:
            await self._failed(work, str(error), is_final=error.is_final)
            return
        except Exception as error:
            # a bug that one scan meets must not keep the others waiting, nor be tried for ever
            log.exception("launch.broke")
            await self._failed(work, f"unexpected {type(error).__name__}", is_final=False)
            return
        self._holds = 0
        # insistently: until this is recorded nobody knows that the scan runs, and with the lease's end it is started again
        await insistently(lambda: self._started(work, attempt_id, job), for_s=self._schedule.lease.total_seconds() / 2)
        log.info("scan.launched", job=job)

    async def _started(self, work: Work, attempt_id: str, job: str) -> None:
        scan_id = work.scan_id
        async with self._uow.on_scans(context_of_loop("launcher", scan_id, f"{attempt_id}/launched"), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is not None:
                tx.append(scan_id, decide_launched(scan, launcher=self._launcher.name, job=job))
            if scan is None or scan.is_over:
                # deleted or given up while it was started: it may run by now, and what stopped it then found nothing
                await self._schedule.put(STOP, scan_id, anew=True, connection=tx.connection)
                tx.rings.append((DUE_CHANNEL, STOP))
            await self._schedule.finish(work, connection=tx.connection)

    async def _deferred(self, work: Work, fault: TryLater) -> None:
        """Wait for room or an answer: this scan, and with it all that are not urgent."""
        context = context_of_loop("launcher", work.scan_id, str(uuid.uuid4()))
        async with self._uow.on_scans(context, [work.scan_id]) as tx:
            scan = tx.scan(work.scan_id)
            if scan is None or not scan.is_waiting:
                # deleted meanwhile; the call may have had its effect all the same
                await self._schedule.finish(work, connection=tx.connection)
                await self._schedule.put(STOP, work.scan_id, anew=True, connection=tx.connection)
                tx.rings.append((DUE_CHANNEL, STOP))
                return
            tx.append(work.scan_id, decide_deferred_launch(scan, fault.what))
        log.warning("launch.deferred", reason=fault.what)
        has_no_room = isinstance(fault, NoRoom)
        if work.priority >= URGENT:
            pause_s = min(_URGENT_CAP_S, 0.5 * 2 ** min(work.tries, 8))
            await self._schedule.postpone(work, timedelta(seconds=pause_s if has_no_room else max(fault.after_s, pause_s)))
            return
        self._holds += 1
        pause_s = min(_NO_ROOM_CAP_S if has_no_room else _OUTAGE_CAP_S, 0.5 * 2 ** min(self._holds, 8))
        hold_s = pause_s if has_no_room else max(fault.after_s, pause_s)
        await store.hold_launches(self._pool, for_s=hold_s, because=fault.what)
        await self._schedule.postpone(work, timedelta(seconds=_NO_ROOM_AGAIN_S if has_no_room else hold_s))

    async def _failed(self, work: Work, reason: str, *, is_final: bool) -> None:
        context = context_of_loop("launcher", work.scan_id, str(uuid.uuid4()))
        async with self._uow.on_scans(context, [work.scan_id]) as tx:
            scan = tx.scan(work.scan_id)
            after = scan and tx.append(
                work.scan_id,
                decide_failed_launch(scan, reason, is_final=is_final, max_attempts=self._max_attempts),
            )
            goes_on = after is not None and after.is_waiting
            if not goes_on:
                await self._schedule.finish(work, connection=tx.connection)
                # half of it may have been made
                await self._schedule.put(STOP, work.scan_id, anew=True, connection=tx.connection)
                tx.rings.append((DUE_CHANNEL, STOP))
        log.warning("launch.failed", reason=reason, again=goes_on)
        if after is not None and goes_on:
            await self._schedule.postpone(work, timedelta(seconds=min(300, 4**after.launch.failures)))
