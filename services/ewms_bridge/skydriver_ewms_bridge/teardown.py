"""Due work: a workflow that is to end is stopped for certain. Source: EWMS contract 5, 9; REST contract 8.8."""

from datetime import timedelta

import structlog

from skydriver_common.db.schedule import DueWork
from skydriver_common.model.scan import Scan
from skydriver_ewms_bridge.decide.scan import ABORTED, stop_label
from skydriver_ewms_bridge.decide.teardown import StopStep, further_workflows, next_stop_verification, returning, stop_step
from skydriver_ewms_bridge.decide.workflow import CLOCK_SKEW_S
from skydriver_ewms_bridge.ewms_types import Workflow
from skydriver_ewms_bridge.ports import CredentialSink, Ewms, EwmsNotFound
from skydriver_ewms_bridge.retry_policy import stop_confirmation
from skydriver_ewms_bridge.usecases import UseCases

logger = structlog.get_logger(__name__)


class Teardown:
    """Handlers of due work `STOP` and `STOP_VERIFICATION`."""

    def __init__(self, usecases: UseCases, ewms: Ewms, sink: CredentialSink) -> None:
        self._usecases = usecases
        self._ewms = ewms
        self._sink = sink

    async def stop(self, work: DueWork) -> timedelta | None:
        """Stop the workflow and look, until EWMS shows it stopped."""
        scan = await self._usecases.scan(work.scan_id)
        step = stop_step(scan)
        if scan is None or step is StopStep.NOTHING:
            return None
        if step is StopStep.REMOVE_CREDENTIALS:
            await self._sink.remove(scan.scan_id)
            return None
        label = stop_label(scan)
        assert scan.ewms_workflow_id is not None
        workflow = await self._look(scan.ewms_workflow_id)
        if workflow is not None and workflow.deactivated is None:
            # looked at before, so that a repeat after a crash does not stop it twice
            try:
                await (self._ewms.abort if label == ABORTED else self._ewms.finish)(workflow.workflow_id)
            except EwmsNotFound:
                logger.info("workflow.stopped-meanwhile", workflow_id=workflow.workflow_id)
            workflow = await self._look(scan.ewms_workflow_id)
        if workflow is None:
            logger.warning("workflow.unknown", workflow_id=scan.ewms_workflow_id, label=label)
            await self._sink.remove(scan.scan_id)
            await self._usecases.workflow_gone(scan.scan_id)
        elif workflow.deactivated is None:
            return stop_confirmation(work.tries)
        else:
            # before the end is recorded: until then a retry does the rest
            await self._sink.remove(scan.scan_id)
            await self._stop_others(scan)
            await self._usecases.workflow_deactivated(scan.scan_id, workflow.workflow_id, workflow.deactivated)
            logger.info("workflow.stopped", workflow_id=workflow.workflow_id, label=workflow.deactivated)
        return None

    async def verify_stop(self, work: DueWork) -> timedelta | None:
        """Check whether workers of a stopped workflow have come back; EWMS has no call that stops them, so it is logged for a human."""
        scan = await self._usecases.scan(work.scan_id)
        if scan is None or scan.ewms_workflow_id is None:
            return None
        await self._sink.remove(scan.scan_id)  # whoever stopped the workflow: its queues are gone
        n_workers = 0
        async for page in self._ewms.find_taskforces([scan.ewms_workflow_id]):
            for taskforce in returning(page):
                n_workers += taskforce.n_workers
                logger.error(
                    "workflow.workers-came-back", workflow_id=taskforce.workflow_id, phase=taskforce.phase,
                    taskforce_uuid=taskforce.taskforce_uuid, n_workers=taskforce.n_workers, cluster_id=taskforce.cluster_id,
                )  # fmt: skip
        await self._usecases.workers_came_back(scan.scan_id, n_workers)
        after = next_stop_verification(n_workers, age_s=work.age_s)
        if after is None:
            await self._usecases.workflow_gone(scan.scan_id)
        return after

    async def _stop_others(self, scan: Scan) -> None:
        """Abort what else is alive of this scan: a request whose response was lost may have made another workflow."""
        for other in further_workflows(scan, await self._ewms.find_workflows_of(scan.scan_id, scan.timestamp - CLOCK_SKEW_S)):
            logger.warning("workflow.duplicate-aborted", workflow_id=other.workflow_id)
            try:
                await self._ewms.abort(other.workflow_id)
            except EwmsNotFound:
                continue  # stopped meanwhile

    async def _look(self, workflow_id: str) -> Workflow | None:
        try:
            return await self._ewms.get_workflow(workflow_id)
        except EwmsNotFound:
            return None
