"""The command "add workers": asked of EWMS once per request, although its responses may be lost, and ours too.

EWMS has no idempotency key and users repeat a request after a 500. So a request is on disk before EWMS is asked, and one of
the same shape (scan, cluster, number) whose response nobody has got is continued instead of making another: its workers are
looked for first. Source: REST contract 4.7, EWMS contract 7, 12.
"""

import asyncio
from datetime import timedelta

import structlog

from skydriver_common.bus.envelope import seconds_left
from skydriver_common.clock import CLOCK
from skydriver_common.db.notifier import DUE_CHANNEL
from skydriver_common.db.pool import Pool
from skydriver_common.db.schedule import DueWork, Schedule
from skydriver_common.faults import TryLater
from skydriver_common.log.unit_of_work import Transaction, UnitOfWork
from skydriver_common.model import event_codec
from skydriver_common.model.commands import AddWorkers, Context
from skydriver_common.model.events import WorkersAdded
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Rejection, Reply
from skydriver_common.model.worker_limits import WorkerLimits
from skydriver_ewms_bridge import store
from skydriver_ewms_bridge.decide.worker_requests import (
    OpenRequestStep,
    RequestStep,
    cluster_refused,
    decide_add_workers,
    ewms_failed,
    may_take_effect,
    open_request_step,
    request_step,
    workflow_ended,
)
from skydriver_ewms_bridge.decide.workflow import added_taskforce, task_for_cluster
from skydriver_ewms_bridge.due_kinds import WORKFORCE, DueKind
from skydriver_ewms_bridge.due_work import context_of
from skydriver_ewms_bridge.ewms_types import Taskforce
from skydriver_ewms_bridge.ports import Ewms, EwmsNotFound, EwmsRejected, EwmsRejectedForNow, OutcomeUnknown, WorkflowEnded
from skydriver_ewms_bridge.records import Addition
from skydriver_ewms_bridge.retry_policy import (
    ADD_WORKERS_TIMEOUT_S,
    LOST_WORKERS_CHECK,
    SAME_REQUEST_RETRY_S,
    WORKER_REQUEST_LEASE,
    add_workers_timeout_s,
)

logger = structlog.get_logger(__name__)


class WorkerRequests:
    """Handlers of the command and of due work `ADDITIONS`."""

    def __init__(
        self, pool: Pool, uow: UnitOfWork, schedule: Schedule, ewms: Ewms, *, unclear_wait: timedelta, limits: WorkerLimits
    ) -> None:
        self._pool = pool
        self._uow = uow
        self._schedule = schedule
        self._ewms = ewms
        self._unclear_wait = unclear_wait
        self._limits = limits

    async def add_workers(self, command: AddWorkers, context: Context) -> Reply:
        """Replies ``{"taskforce_uuid", "n_workers"}``. EWMS failing is a refusal that is not recorded: it may be repeated."""
        addition = await self._open(command, context)
        if isinstance(addition, Reply):
            return addition
        try:
            async with asyncio.timeout(add_workers_timeout_s(seconds_left(context.deadline))):
                outcome = await self._ask(addition)
        except (TryLater, EwmsNotFound, OutcomeUnknown, TimeoutError) as fault:
            logger.warning("workers.not-added", fault=str(fault), addition_id=addition.addition_id)
            await self._release(addition)
            return Reply.refused(ewms_failed())
        if isinstance(outcome, Rejection):
            return await self._refuse(addition, outcome, context)
        return await self._added(addition, outcome, context)

    async def replace_workers(self, scan_id: ScanId, workflow_id: str, cluster_location: str, n_workers: int) -> bool:
        """Add workers without a user's request; False when the outcome of an earlier replacement is open, or EWMS rejects these.

        Raises TryLater, EwmsNotFound, OutcomeUnknown; `resolve` then finds out what became of the request.
        """
        async with self._uow.on_scans(context_of(DueKind.ADDITIONS, scan_id, "top-up"), [scan_id]) as tx:
            if await store.has_open_replacement(tx.connection, scan_id):
                return False
            addition = await store.new_addition(
                tx.connection,
                scan_id,
                workflow_id,
                cluster_location,
                n_workers,
                now=tx.now,
                hold=WORKER_REQUEST_LEASE,
                is_automatic=True,
            )
            tx.due.put(DueKind.ADDITIONS, scan_id, after=WORKER_REQUEST_LEASE + LOST_WORKERS_CHECK)
        try:
            async with asyncio.timeout(ADD_WORKERS_TIMEOUT_S):  # shorter than the request is held
                outcome = await self._ask(addition)
        except TimeoutError as fault:
            await self._release(addition)
            raise TryLater("EWMS takes too long to add workers") from fault
        except (TryLater, EwmsNotFound, OutcomeUnknown):
            await self._release(addition)
            raise
        if isinstance(outcome, Rejection):
            await store.drop_addition(self._pool, addition)
            return False
        await self._added(addition, outcome, None)
        return True

    async def resolve(self, work: DueWork) -> timedelta | None:
        """Find out what became of requests without a response; what is found is the response to the next request of the same shape."""
        async with self._uow.on_scans(context_of(DueKind.ADDITIONS, work.scan_id, "look"), [work.scan_id]) as tx:
            addition = await store.unclear_addition(tx.connection, work.scan_id)
            if addition is not None:
                addition = await store.hold_addition(tx.connection, addition, until=tx.now + WORKER_REQUEST_LEASE)
            held_s = None if addition is not None else await store.seconds_held(tx.connection, work.scan_id)
        if addition is None:
            # a replica processes the last one, and may die with it
            return None if held_s is None else timedelta(seconds=held_s) + LOST_WORKERS_CHECK
        if addition.attempted_at is None:
            await store.drop_addition(self._pool, addition)
            return timedelta(0)
        found = await self._find(addition, await self._taskforces(addition))
        match open_request_step(addition, found, now=CLOCK.now(), unclear_wait=self._unclear_wait):
            case OpenRequestStep.RECORD:
                assert found is not None
                await self._added(addition, found, None)
            case OpenRequestStep.DROP:
                await store.drop_addition(self._pool, addition)
            case OpenRequestStep.LOOK_AGAIN:
                await store.release_addition(self._pool, addition, now=CLOCK.now())
                return LOST_WORKERS_CHECK
        return timedelta(0)

    async def _open(self, command: AddWorkers, context: Context) -> Addition | Reply:
        """Lease the request; or return the reply, if EWMS need not be asked."""
        async with self._uow.on_scans(context, [command.scan_id]) as tx:
            if tx.recorded_reply is not None:
                return tx.recorded_reply
            scan = tx.scan(command.scan_id)
            shape = command.scan_id, command.cluster_location, command.n_workers
            addition = None if scan is None else await store.unclaimed_addition(tx.connection, *shape)
            added = () if addition is not None else await store.users_additions(tx.connection, command.scan_id)
            no = decide_add_workers(scan, command, added=added, limits=self._limits)
            if no is not None:
                tx.record(Reply.refused(no))
                return Reply.refused(no)
            assert scan is not None
            assert scan.ewms_workflow_id is not None
            # should this process die before EWMS responds, another finds out what became of the request
            tx.due.put(DueKind.ADDITIONS, command.scan_id, after=WORKER_REQUEST_LEASE + LOST_WORKERS_CHECK)
            step = request_step(addition, now=tx.now)
            if step is RequestStep.WAIT:
                raise TryLater("an identical request for workers is in progress", SAME_REQUEST_RETRY_S)
            if addition is not None and step is RequestStep.TAKE_UP:
                return await store.hold_addition(tx.connection, addition, until=tx.now + WORKER_REQUEST_LEASE)
            if addition is not None:
                assert addition.taskforce_uuid is not None
                assert addition.got_n_workers is not None
                uuid, n_workers = addition.taskforce_uuid, addition.got_n_workers
                await store.resolve_addition(tx.connection, addition, uuid, n_workers, is_replied=True)
                if step is RequestStep.REPLY:
                    return _recorded(tx, uuid, n_workers)
            workflow_id = scan.ewms_workflow_id if addition is None else addition.workflow_id
            return await store.new_addition(
                tx.connection, shape[0], workflow_id, shape[1], shape[2], now=tx.now, hold=WORKER_REQUEST_LEASE
            )  # fmt: skip

    async def _ask(self, addition: Addition) -> Taskforce | Rejection:
        """Look for the workers of an earlier attempt, else ask EWMS. Raises TryLater, EwmsNotFound, OutcomeUnknown."""
        there = await self._taskforces(addition)
        if addition.attempted_at is not None:
            found = await self._find(addition, there)
            if found is not None:
                return found
            if may_take_effect(addition, now=CLOCK.now(), unclear_wait=self._unclear_wait):
                raise OutcomeUnknown("add workers")  # the earlier one may still take effect
        task = task_for_cluster(await self._ewms.task_directives(addition.workflow_id), addition.cluster_location)
        if task is None:
            raise EwmsNotFound
        before = [t.taskforce_uuid for t in there]
        if not await store.attempt_addition(self._pool, addition, task.task_id, before, now=CLOCK.now()):
            raise TryLater("another replica has taken over the request for workers", SAME_REQUEST_RETRY_S)
        try:
            return await self._ewms.add_workers(task.task_id, addition.cluster_location, addition.n_workers)
        except EwmsRejected as refused:
            logger.warning("workers.refused", reason=refused.reason)
            return cluster_refused()
        except WorkflowEnded:
            return workflow_ended()
        except EwmsRejectedForNow as refused:
            logger.warning("workers.refused-for-now", reason=refused.reason)
            await store.unattempt_addition(self._pool, addition)
            raise TryLater(
                "EWMS rejected these workers for now", refused.after_s or LOST_WORKERS_CHECK.total_seconds()
            ) from refused
        except (TryLater, EwmsNotFound):
            await store.unattempt_addition(self._pool, addition)
            raise

    async def _taskforces(self, addition: Addition) -> list[Taskforce]:
        return [t async for page in self._ewms.find_taskforces([addition.workflow_id]) for t in page]

    async def _find(self, addition: Addition, there: list[Taskforce]) -> Taskforce | None:
        assert addition.attempted_at is not None
        assert addition.task_id is not None
        taken = await store.taken_taskforces(self._pool, addition.scan_id)
        return added_taskforce(
            there,
            before={*addition.before, *taken},
            task_id=addition.task_id,
            n_workers=addition.n_workers,
            since=addition.attempted_at.timestamp(),
        )

    async def _release(self, addition: Addition) -> None:
        now = CLOCK.now()
        await store.release_addition(self._pool, addition, now=now)
        await self._schedule.put(DueKind.ADDITIONS, addition.scan_id, after=LOST_WORKERS_CHECK)

    async def _refuse(self, addition: Addition, no: Rejection, context: Context) -> Reply:
        reply = Reply.refused(no)
        async with self._uow.on_scans(_without_deadline(context), [addition.scan_id]) as tx:
            await store.drop_addition(tx.connection, addition)
            if tx.recorded_reply is None:
                tx.record(reply)
        await store.hasten_watched(self._pool, addition.scan_id, now=CLOCK.now())
        return reply

    async def _added(self, addition: Addition, taskforce: Taskforce, context: Context | None) -> Reply:
        """Record the workers. context: of the caller; None, or one whose time is up, gets no answer: the next one does."""
        is_replied = addition.is_automatic or (context is not None and seconds_left(context.deadline) > 0)
        own = context_of(DueKind.ADDITIONS, addition.scan_id, taskforce.taskforce_uuid)
        async with self._uow.on_scans(_without_deadline(context) if context else own, [addition.scan_id]) as tx:
            tx.append(
                addition.scan_id,
                [
                    WorkersAdded(
                        taskforce_uuid=taskforce.taskforce_uuid,
                        n_workers=taskforce.n_workers,
                        cluster_location=addition.cluster_location,
                        is_automatic=addition.is_automatic,
                    )
                ],
            )
            uuid, n_workers = taskforce.taskforce_uuid, taskforce.n_workers
            await store.resolve_addition(tx.connection, addition, uuid, n_workers, is_replied=is_replied)
            tx.notifications.append((DUE_CHANNEL, WORKFORCE))
            reply = _recorded(tx, uuid, n_workers) if context is not None else _reply(uuid, n_workers)
        await store.hasten_watched(self._pool, addition.scan_id, now=CLOCK.now())
        logger.info("workers.added", taskforce_uuid=uuid, n_workers=n_workers, is_replied=is_replied)
        return reply


def _recorded(tx: Transaction, taskforce_uuid: str, n_workers: int) -> Reply:
    reply = _reply(taskforce_uuid, n_workers)
    if tx.recorded_reply is None:
        tx.record(reply)
    return reply


def _reply(taskforce_uuid: str, n_workers: int) -> Reply:
    return Reply(body=event_codec.encode({"taskforce_uuid": taskforce_uuid, "n_workers": n_workers}))


def _without_deadline(context: Context) -> Context:
    """For recording what EWMS has done already: that takes effect however late it is."""
    return Context(
        command_id=context.command_id,
        correlation_id=context.correlation_id,
        actor=context.actor,
        fingerprint=context.fingerprint,
    )
