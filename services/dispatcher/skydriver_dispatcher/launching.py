"""Loop steps: take scans from the backlog and start them; stop what must not run."""

import uuid
from datetime import UTC, datetime, timedelta

import structlog

from skydriver_common.db.pool import Pool
from skydriver_common.db.schedule import ANY_PRIORITY, Schedule, Work
from skydriver_common.faults import TryLater
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_dispatcher import store
from skydriver_dispatcher.decide import decide_attempt, decide_failed_launch, decide_launched
from skydriver_dispatcher.ports import Launcher, LaunchRefused
from skydriver_dispatcher.usecases import LAUNCH, STOP, context_of_loop

log = structlog.get_logger(__name__)

URGENT = 100
"""From this priority on, a scan never waits for the throttle. Source: REST contract 8.5."""


class Launching:
    """Steps ``launch`` and ``stop``; each does one scan."""

    def __init__(
        self, pool: Pool, uow: UnitOfWork, schedule: Schedule, launcher: Launcher, *, interval: timedelta, max_attempts: int
    ) -> None:
        self._pool = pool
        self._uow = uow
        self._schedule = schedule
        self._launcher = launcher
        self._interval = interval
        self._max_attempts = max_attempts

    async def launch(self) -> bool | float:
        """Start the most urgent scan that may start."""
        wait_s = await self._throttled_for()
        work = await self._schedule.claim(LAUNCH, min_priority=URGENT if wait_s > 0 else ANY_PRIORITY)
        if work is None:
            next_s = await self._schedule.seconds_to_next([LAUNCH])
            return False if next_s is None else max(next_s, wait_s, 0.2)
        if work.priority < URGENT and self._interval and not await self._take_slot():
            await self._schedule.postpone(work, timedelta(seconds=1))
            return True
        with structlog.contextvars.bound_contextvars(scan_id=work.scan_id):
            await self._launch(work)
        return True

    async def stop(self) -> bool | float:
        """End the scanner server of one deleted scan."""
        work = await self._schedule.claim(STOP)
        if work is None:
            next_s = await self._schedule.seconds_to_next([STOP])
            return False if next_s is None else max(next_s, 0.2)
        await self._launcher.stop(work.scan_id)
        await self._schedule.finish(work)
        return True

    async def _launch(self, work: Work) -> None:
        scan_id, attempt_id = work.scan_id, str(uuid.uuid4())
        async with self._uow.on_scans(context_of_loop("launcher", scan_id, attempt_id), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            events = decide_attempt(scan) if scan else []
            if events:
                scan = tx.append(scan_id, events)
            else:
                await self._schedule.finish(work, connection=tx.connection)
        if scan is None or not events:
            return
        try:
            job = await self._launcher.launch(scan)
        except TryLater as fault:
            await self._failed(work, fault.what, is_final=False)
            return
        except LaunchRefused as error:
            await self._failed(work, str(error), is_final=True)
            return
        async with self._uow.on_scans(context_of_loop("launcher", scan_id, f"{attempt_id}/launched"), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            assert scan is not None
            tx.append(scan_id, decide_launched(scan, launcher=self._launcher.name, job=job))
            await self._schedule.finish(work, connection=tx.connection)
        log.info("scan.launched", job=job, attempt=scan.launch.attempts)
        if scan.is_deleted:
            await self._schedule.put(STOP, scan_id)

    async def _failed(self, work: Work, reason: str, *, is_final: bool) -> None:
        context = context_of_loop("launcher", work.scan_id, str(uuid.uuid4()))
        async with self._uow.on_scans(context, [work.scan_id]) as tx:
            scan = tx.scan(work.scan_id)
            assert scan is not None
            after = tx.append(
                work.scan_id,
                decide_failed_launch(scan, reason, is_final=is_final, max_attempts=self._max_attempts),
            )
            goes_on = after is not None and after.is_waiting
            if not goes_on:
                await self._schedule.finish(work, connection=tx.connection)
        log.warning("launch.failed", reason=reason, again=goes_on)
        if goes_on:
            await self._schedule.postpone(work, timedelta(seconds=min(300, 2**scan.launch.attempts)))

    async def _throttled_for(self) -> float:
        """Seconds until a low-priority scan may be launched."""
        if not self._interval:
            return 0.0
        opens_at = await store.throttle_opens_at(self._pool)
        return 0.0 if opens_at is None else max(0.0, (opens_at - datetime.now(UTC)).total_seconds())

    async def _take_slot(self) -> bool:
        return await store.pass_throttle(self._pool, now=datetime.now(UTC), interval=self._interval)
