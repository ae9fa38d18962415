"""Loop steps: launch scans from the backlog; stop what must not run."""

import asyncio
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

import structlog

from skydriver_common.db.pool import Pool
from skydriver_common.db.schedule import ANY_PRIORITY, DueWork, Schedule
from skydriver_common.faults import TryLater
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.model.ids import ScanId
from skydriver_common.model.priorities import URGENT_PRIORITY
from skydriver_common.runtime.due_work import SETTLED, Claim, DueWorkConsumer, Settled
from skydriver_common.runtime.loops import Step, retry_for
from skydriver_dispatcher import retry_policy, store
from skydriver_dispatcher.decide.launches import (
    decide_attempt,
    decide_deferred_launch,
    decide_failed_launch,
    decide_launched,
    must_not_run,
)
from skydriver_dispatcher.due_kinds import DueKind
from skydriver_dispatcher.ports import CapacityExceeded, Launcher, LaunchRejected
from skydriver_dispatcher.usecases import context_of_loop

logger = structlog.get_logger(__name__)


class LaunchSteps:
    """Launch workers, and the step ``stop_next``; each handles one scan at a time. Several loops and several replicas run them."""

    def __init__(
        self, pool: Pool, uow: UnitOfWork, schedule: Schedule, launcher: Launcher, *, max_attempts: int,
        on_launched: Callable[[bool, float], None] = lambda *_: None,
    ) -> None:  # fmt: skip
        """on_launched: called with whether the scan was urgent, and the seconds since its request, for metrics."""
        self._on_launched = on_launched
        self._pool = pool
        self._uow = uow
        self._schedule = schedule
        self._launcher = launcher
        self._max_attempts = max_attempts
        self._half_lease_s = schedule.lease.total_seconds() / 2
        self._n_pauses, self._next_pause_at = 0, 0.0
        self.stop_next = DueWorkConsumer(schedule, DueKind.STOP, self._stop, postpones_failures=False).step
        """Loop step: end the scanner server of one scan that must not run."""

    def new_worker(self) -> Step:
        """Return the step of a new worker: launch the most urgent scan that may start. One loop runs it."""
        return self._launch_worker(claim=self._claim_next)

    def new_urgent_worker(self) -> Step:
        """Return the same for urgent scans alone: a worker that is free when all others wait for responses about less urgent ones."""
        return self._launch_worker(min_priority=URGENT_PRIORITY)

    def _launch_worker(self, *, claim: Claim | None = None, min_priority: int = ANY_PRIORITY) -> Step:
        """A worker keeps its claim, whatever fails, while the lease is surely its own: nobody else may take the scan before that ends."""
        return DueWorkConsumer(
            self._schedule, DueKind.LAUNCH, self._launch, claim=claim, min_priority=min_priority, keeps_claim_s=self._half_lease_s,
            postpones_failures=False,
        ).step  # fmt: skip

    async def _stop(self, work: DueWork) -> timedelta | None:
        try:
            if await self._must_not_run(work.scan_id):
                await self._launcher.stop(work.scan_id)
            else:
                logger.error("stop.refused", scan_id=work.scan_id)
        except TryLater as fault:
            logger.warning("stop.deferred", scan_id=work.scan_id, what=fault.what)
            return timedelta(seconds=retry_policy.unavailable_backoff_s(work.tries, after_s=fault.after_s))
        return None

    async def _must_not_run(self, scan_id: ScanId) -> bool:
        async with self._uow.on_scans(context_of_loop("launcher", scan_id, str(uuid.uuid4())), [scan_id]) as tx:
            return must_not_run(tx.scan(scan_id))

    async def _claim_next(self) -> DueWork | float | None:
        return await store.claim_launch(self._pool, holder=self._schedule.holder, lease=self._schedule.lease)

    async def _launch(self, work: DueWork) -> Settled:
        if not await self._is_launched(work):
            try:
                await store.release_interval(self._pool, work)
            except TryLater as fault:
                # the claim has been given back, so this step must not be repeated; the place in the interval expires by itself
                logger.warning("throttle.release-failed", what=fault.what)
        return SETTLED

    async def _is_launched(self, work: DueWork) -> bool:
        """Try to start the scan; False when no scanner server was started. Raises TryLater."""
        scan_id, attempt_id, claimed_at = work.scan_id, str(uuid.uuid4()), time.monotonic()
        async with self._uow.on_scans(context_of_loop("launcher", scan_id, attempt_id), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is None or not scan.is_waiting:
                tx.due.finish(work)
                return False
            scan = tx.append(scan_id, decide_attempt(scan)) or scan
        try:
            # so that it is recorded while the lease is surely ours; what was created all the same is found by the next attempt
            async with asyncio.timeout(self._half_lease_s):
                job = await self._launcher.launch(scan)
        except TryLater as fault:
            await self._defer(work, fault)
            return False
        except TimeoutError:
            await self._defer(work, TryLater(f"the launch did not complete within {self._half_lease_s:g} s"))
            return False
        except LaunchRejected as error:
            await self._fail(work, str(error), is_final=error.is_final)
            return False
        except Exception as error:
            # a bug that one scan meets must not keep the others waiting, nor be retried forever
            logger.exception("launch.crashed")
            reason = f"internal error ({type(error).__name__}); see the dispatcher's log, event launch.crashed"
            await self._fail(work, reason, is_final=False)
            return False
        self._n_pauses = 0
        # retried: until this is recorded nobody knows that the scan runs, and when the lease ends it is started again
        await retry_for(lambda: self._record_launch(work, attempt_id, job), for_s=self._half_lease_s)
        logger.info("scan.launched", job=job)
        self._on_launched(work.priority >= URGENT_PRIORITY, work.age_s + time.monotonic() - claimed_at)
        return True

    async def _record_launch(self, work: DueWork, attempt_id: str, job: str) -> None:
        scan_id = work.scan_id
        async with self._uow.on_scans(context_of_loop("launcher", scan_id, f"{attempt_id}/launched"), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is not None:
                tx.append(scan_id, decide_launched(scan, launcher=self._launcher.name, job=job))
            if must_not_run(scan):
                # deleted or abandoned while it was started: it may run by now, and what stopped it then found nothing
                tx.due.put(DueKind.STOP, scan_id)
            tx.due.finish(work)

    async def _defer(self, work: DueWork, fault: TryLater) -> None:
        """Wait for capacity or a response: this scan, and with it all that are not urgent."""
        context = context_of_loop("launcher", work.scan_id, str(uuid.uuid4()))
        async with self._uow.on_scans(context, [work.scan_id]) as tx:
            scan = tx.scan(work.scan_id)
            if scan is None or not scan.is_waiting:
                tx.due.finish(work)
                if must_not_run(scan):
                    # deleted meanwhile; the call may have had its effect all the same
                    tx.due.put(DueKind.STOP, work.scan_id)
                # else another worker has launched it, for which this one was late
                return
            tx.append(work.scan_id, decide_deferred_launch(scan, fault.what))
        logger.warning("launch.deferred", reason=fault.what)
        has_no_capacity = isinstance(fault, CapacityExceeded)
        if work.priority >= URGENT_PRIORITY:
            pauses = retry_policy.urgent_deferral(work.tries, after_s=fault.after_s, has_no_capacity=has_no_capacity)
        else:
            if time.monotonic() >= self._next_pause_at:  # else another worker of this replica has met the same
                self._n_pauses += 1
            pauses = retry_policy.deferral(self._n_pauses, after_s=fault.after_s, has_no_capacity=has_no_capacity)
        if pauses.others_s is not None:
            self._next_pause_at = time.monotonic() + pauses.others_s
            await store.pause_launches(self._pool, for_s=pauses.others_s, because=fault.what, until_capacity=has_no_capacity)
        await self._postpone(work, pauses.scan_s, until_capacity=has_no_capacity)

    async def _postpone(self, work: DueWork, pause_s: float, *, until_capacity: bool = False) -> None:
        """until_capacity: it is due earlier, as soon as there is capacity."""
        note = store.WAITS_FOR_CAPACITY if until_capacity else {}
        await self._schedule.postpone(work, timedelta(seconds=pause_s), note=note)

    async def _fail(self, work: DueWork, reason: str, *, is_final: bool) -> None:
        context = context_of_loop("launcher", work.scan_id, str(uuid.uuid4()))
        async with self._uow.on_scans(context, [work.scan_id]) as tx:
            scan = tx.scan(work.scan_id)
            after = scan and tx.append(
                work.scan_id,
                decide_failed_launch(scan, reason, is_final=is_final, max_attempts=self._max_attempts),
            )
            is_retried = after is not None and after.is_waiting
            if not is_retried:
                tx.due.finish(work)
                if must_not_run(after):
                    # half of it may have been created
                    tx.due.put(DueKind.STOP, work.scan_id)
        logger.warning("launch.failed", reason=reason, again=is_retried)
        if after is not None and is_retried:
            await self._postpone(work, retry_policy.launch_backoff_s(after.launch.failures))
