"""Due work: exactly one workflow per scan, and its queues in the scanner's hands. Source: EWMS contract 8, 12."""

import time
from datetime import datetime, timedelta

import structlog

from skydriver_common.db.pool import Pool
from skydriver_common.db.schedule import DueWork, Schedule
from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_ewms_bridge import store
from skydriver_ewms_bridge.decide.assignment import (
    AssignmentStep,
    assignment_step,
    needs_no_credentials,
    rejection_reason,
    unwanted_workflows,
    wait_before_create,
    workflow_order_for,
)
from skydriver_ewms_bridge.decide.queues import (
    all_activated,
    not_activated_in_time,
    place_in_line,
    queue_profile,
    tokens_end_at,
)
from skydriver_ewms_bridge.decide.scan import wants_queues, wants_workflow
from skydriver_ewms_bridge.decide.workflow import (
    CLOCK_SKEW_S,
    WorkflowChoice,
    choose_workflow,
    startup_object_key,
    workflow_spec,
)
from skydriver_ewms_bridge.due_kinds import DueKind
from skydriver_ewms_bridge.ewms_types import StartupUpload, Taskforce, Workflow
from skydriver_ewms_bridge.ports import (
    CredentialSink,
    Ewms,
    EwmsNotFound,
    EwmsRejected,
    EwmsRejectedForNow,
    ObjectStore,
    OutcomeUnknown,
)
from skydriver_ewms_bridge.records import Attempt
from skydriver_ewms_bridge.retry_policy import (
    CONCURRENT_REQUEST_CHECK,
    LOST_WORKFLOW_CHECK,
    queue_poll_s,
    refused_workflow_pause_s,
)
from skydriver_ewms_bridge.settings import BridgeSettings
from skydriver_ewms_bridge.usecases import UseCases

logger = structlog.get_logger(__name__)


class Workflows:
    """Handlers of due work `ASSIGN`, `DUPLICATES` and `QUEUES`."""

    def __init__(
        self,
        pool: Pool,
        usecases: UseCases,
        schedule: Schedule,
        ewms: Ewms,
        objects: ObjectStore,
        sink: CredentialSink,
        settings: BridgeSettings,
    ) -> None:
        self._pool = pool
        self._usecases = usecases
        self._schedule = schedule
        self._ewms = ewms
        self._objects = objects
        self._sink = sink
        self._settings = settings
        self._line_known: tuple[float, tuple[Taskforce, ...]] | None = None

    async def assign(self, work: DueWork) -> timedelta | None:
        """Look; adopt what is there, or create; look again; assign the one to keep and abort the others."""
        scan = await self._usecases.scan(work.scan_id)
        if scan is None:
            return None
        attempt = await self._attempt(scan.scan_id)
        match assignment_step(scan, attempt):
            case AssignmentStep.CLEAN_UP:
                return await self._clean_up(scan, attempt)
            case AssignmentStep.WAIT_FOR_NODE:
                return None
        key = startup_object_key(scan.scan_id)
        await self._sink.put_upload(scan.scan_id, StartupUpload(self._objects.presigned_put(key)))
        begun_at = None
        choice = await self._look(scan)
        if choice.keep is None:
            if (wait := wait_before_create(attempt)) is not None:
                return wait
            begun_at = await store.begin_attempt(self._pool, scan.scan_id, unclear_wait=self._settings.unclear_wait)
            if begun_at is None:
                return CONCURRENT_REQUEST_CHECK
            try:
                created = await self._create(scan, begun_at, attempt)
            except EwmsRejectedForNow as refused:
                return await self._refused_for_now(scan, refused, work)
            if created is None:
                return None if (await self._usecases.scan(scan.scan_id) or scan).ewms.refused else CONCURRENT_REQUEST_CHECK
            choice = await self._look(scan, created)
        assert choice.keep is not None
        await self._abort(choice.abort)  # before the request is forgotten by which they would be found again
        await self._assign(scan, choice.keep, begun_at, earlier=attempt)
        return None

    async def duplicates(self, work: DueWork) -> timedelta | None:
        """After the longest time in which a lost request can come true: abort every workflow but the assigned one."""
        scan = await self._usecases.scan(work.scan_id)
        attempt = await self._attempt(work.scan_id)  # before the look: what it does not find then will not come
        if scan is None or wants_workflow(scan):
            return None
        await self._abort(unwanted_workflows(scan, await self._look(scan)))
        if attempt is None:
            return None
        if attempt.may_take_effect:  # there was another request since this was noted
            return attempt.open_for
        await store.forget_attempt(self._pool, work.scan_id, attempt.attempted_at)
        return None

    async def queues(self, work: DueWork) -> timedelta | None:
        """Hand the queues over as soon as all are activated; give up when that can not or does not happen."""
        scan = await self._usecases.scan(work.scan_id)
        if scan is None or not wants_queues(scan):
            return None
        assert scan.ewms_workflow_id is not None
        profiles = await self._ewms.queue_profiles(scan.ewms_workflow_id)
        if all_activated(profiles):
            key = startup_object_key(scan.scan_id)
            await self._sink.put_upload(scan.scan_id, StartupUpload(self._objects.presigned_put(key)))
            await self._sink.put_profile(scan.scan_id, queue_profile(profiles))
            queues = {p.alias: p.mqid for p in profiles}
            await self._usecases.queues_activated(scan.scan_id, queues, tokens_end_at(profiles))
            logger.info("queues.activated", waited_s=work.age_s)
            return None
        try:
            workflow = await self._ewms.get_workflow(scan.ewms_workflow_id)
        except EwmsNotFound:
            logger.warning("queues.workflow-unknown", workflow_id=scan.ewms_workflow_id)
        else:
            if workflow.deactivated is not None:
                # stopped before its turn: its queues are never activated
                await self._usecases.workflow_deactivated(scan.scan_id, workflow.workflow_id, workflow.deactivated)
                return None
        if work.age_s > self._settings.queue_activation_timeout_s:
            logger.error("queues.given-up", workflow_id=scan.ewms_workflow_id)
            reason = not_activated_in_time(self._settings.queue_activation_timeout_s)
            await self._usecases.refuse_workflow(scan.scan_id, reason)
            return None
        pause_s = queue_poll_s(work.tries, longest_s=self._settings.queue_activation_poll_s)
        if pause_s < self._settings.queue_activation_poll_s:
            return timedelta(seconds=pause_s)
        # not during the first looks: most queues are active by then, and nobody has begun to wonder
        place = place_in_line(await self._line(), scan.ewms_workflow_id)
        if place is not None:
            await self._usecases.queues_awaited(scan.scan_id, place)
        return timedelta(seconds=pause_s)

    async def _line(self) -> tuple[Taskforce, ...]:
        """Who waits for queues, asked once for all scans that wait."""
        now = time.monotonic()
        if self._line_known is None or now - self._line_known[0] > self._settings.queue_activation_poll_s:
            self._line_known = now, await self._ewms.waiting_for_queues()
        return self._line_known[1]

    async def _look(self, scan: Scan, created: Workflow | None = None) -> WorkflowChoice:
        """Which of the scan's workflows to keep. created: counts also if EWMS's query does not show it yet."""
        found = {w.workflow_id: w for w in await self._ewms.find_workflows_of(scan.scan_id, scan.timestamp - CLOCK_SKEW_S)}
        if created is not None:
            found.setdefault(created.workflow_id, created)
        return choose_workflow(found.values(), scan.ewms_workflow_id if scan.has_workflow else None)

    async def _attempt(self, scan_id: ScanId) -> Attempt | None:
        return await store.attempt(self._pool, scan_id, unclear_wait=self._settings.unclear_wait)

    async def _create(self, scan: Scan, begun_at: datetime, earlier: Attempt | None) -> Workflow | None:
        """Ask for a workflow, once, with the intent on disk. None: there is none, or nobody knows; look again.

        begun_at: of the intent. earlier: the last request before it. Raises EwmsRejectedForNow.
        """
        order = workflow_order_for(
            scan,
            instance=self._settings.instance,
            image_catalog=self._settings.worker_image_catalog,
            startup_url=self._objects.presigned_get(startup_object_key(scan.scan_id)),
            queue_idle_s=self._settings.worker_idle_timeout_s,
        )
        try:
            workflow = await self._ewms.create_workflow(workflow_spec(order))
        except OutcomeUnknown as unclear:
            logger.warning("workflow.outcome-unknown", longer_by_s=unclear.longer_by_s)
            if unclear.longer_by_s:
                await store.lengthen_attempt(self._pool, scan.scan_id, begun_at, longer_s=unclear.longer_by_s)
            return None
        except (TryLater, EwmsRejectedForNow):
            await store.withdraw_attempt(self._pool, scan.scan_id, begun_at, earlier)  # surely nothing was made
            raise
        except EwmsRejected as refused:
            logger.error("workflow.refused", reason=refused.reason)
            await self._usecases.refuse_workflow(scan.scan_id, rejection_reason(refused.reason))
            await store.withdraw_attempt(self._pool, scan.scan_id, begun_at, earlier)
            await self._look_for_twins(scan.scan_id)
            return None
        logger.info("workflow.created", workflow_id=workflow.workflow_id)
        return workflow

    async def _refused_for_now(self, scan: Scan, refused: EwmsRejectedForNow, work: DueWork) -> timedelta | None:
        """Say that EWMS refuses the workflow so far, and ask again later; after `ewms_refusal_retry_s` it is refused."""
        limit = self._settings.refusal_retry
        await self._usecases.workflow_refused_for_now(scan.scan_id, refused.reason, limit=limit)
        now = await self._usecases.scan(scan.scan_id)
        if now is not None and wants_workflow(now):
            pause_s = refused_workflow_pause_s(work.tries, after_s=refused.after_s)
            logger.warning("workflow.refused-for-now", reason=refused.reason, retry_in_s=round(pause_s, 1))
            return timedelta(seconds=pause_s)
        if now is not None and now.ewms.refused:
            logger.error("workflow.refused", reason=refused.reason)
        await self._look_for_twins(scan.scan_id)
        return None

    async def _look_for_twins(self, scan_id: ScanId) -> None:
        """Note that a request without an answer may have made one more workflow: they are looked for when it can't any more."""
        attempt = await self._attempt(scan_id)
        if attempt is not None:
            await self._schedule.put(DueKind.DUPLICATES, scan_id, after=attempt.open_for)

    async def _assign(self, scan: Scan, keep: Workflow, begun_at: datetime | None, *, earlier: Attempt | None) -> None:
        """begun_at: of the request that has made `keep`, if it was answered. earlier: the last one without an answer."""
        assigned = await self._usecases.assign_own(scan.scan_id, keep.workflow_id, self._settings.ewms_url)
        if not assigned:
            # deleted, or given another workflow, while we were at it
            await self._abort((keep,))
            await self._remove_credentials(scan.scan_id)
        if earlier is None and begun_at is not None:
            await store.forget_attempt(self._pool, scan.scan_id, begun_at)  # it is the only one, and was answered
        await self._look_for_twins(scan.scan_id)
        logger.info("workflow.assigned" if assigned else "workflow.not-wanted", workflow_id=keep.workflow_id)

    async def _clean_up(self, scan: Scan, attempt: Attempt | None) -> timedelta | None:
        """The scan wants no workflow (any more): what a request of ours has made besides the assigned one is aborted."""
        await self._remove_credentials(scan.scan_id)
        if attempt is None:
            return None
        await self._abort(unwanted_workflows(scan, await self._look(scan)))
        if attempt.may_take_effect:
            return LOST_WORKFLOW_CHECK
        await store.forget_attempt(self._pool, scan.scan_id, attempt.attempted_at)
        return None

    async def _remove_credentials(self, scan_id: ScanId) -> None:
        """Remove those of a scan that is over without a workflow; as it is now."""
        scan = await self._usecases.scan(scan_id)
        if scan is not None and needs_no_credentials(scan):
            await self._sink.remove(scan_id)

    async def _abort(self, workflows: tuple[Workflow, ...]) -> None:
        for workflow in workflows:
            logger.warning("workflow.duplicate-aborted", workflow_id=workflow.workflow_id)
            try:
                await self._ewms.abort(workflow.workflow_id)
            except EwmsNotFound:
                continue  # stopped meanwhile
