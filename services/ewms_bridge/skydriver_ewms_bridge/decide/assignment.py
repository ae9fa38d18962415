"""How a scan comes by exactly one workflow, or by none. Pure. Source: REST contract 4.16, 9.4, EWMS contract 12."""

from datetime import timedelta
from enum import Enum, auto

from skydriver_common.model.commands import AssignWorkflow
from skydriver_common.model.events import Event, WorkflowAssigned, WorkflowAwaited, WorkflowRefused
from skydriver_common.model.rejections import Code, Rejection, scan_not_found
from skydriver_common.model.scan import Scan
from skydriver_ewms_bridge.decide.scan import CLIENT_LOGS, may_order_workflow, stop_label, wants_workflow
from skydriver_ewms_bridge.decide.workflow import WorkflowChoice
from skydriver_ewms_bridge.ewms_types import Workflow, WorkflowOrder
from skydriver_ewms_bridge.records import Attempt
from skydriver_ewms_bridge.retry_policy import LOST_WORKFLOW_CHECK


class AssignmentStep(Enum):
    """What to do about a scan's workflow."""

    CLEAN_UP = auto()
    """It wants none, or none any more: abort what a request without a response may have made."""
    WAIT_FOR_NODE = auto()
    """Nothing yet; its turn comes when the scanner server has a node."""
    FIND_OR_CREATE = auto()


def assignment_step(scan: Scan, attempt: Attempt | None) -> AssignmentStep:
    """Return what to do. attempt: the last request whose outcome is open; it is followed up, whether there is a node or not."""
    if not wants_workflow(scan):
        return AssignmentStep.CLEAN_UP
    if attempt is None and not may_order_workflow(scan):
        return AssignmentStep.WAIT_FOR_NODE
    return AssignmentStep.FIND_OR_CREATE


def wait_before_create(attempt: Attempt | None) -> timedelta | None:
    """Return how long to wait before the next look for a workflow that was not found; None: create one now.

    As long as an earlier request may still make one, a second must not be made.
    """
    return LOST_WORKFLOW_CHECK if attempt is not None and attempt.may_take_effect else None


def unwanted_workflows(scan: Scan, choice: WorkflowChoice) -> tuple[Workflow, ...]:
    """Return the live workflows of a scan that wants no further one: all but the one assigned to it, if there is one."""
    if scan.has_workflow or choice.keep is None:
        return choice.abort
    return choice.keep, *choice.abort


def needs_no_credentials(scan: Scan) -> bool:
    """Whether the scan is over without a workflow. Credentials of others are removed when their workflow is stopped."""
    return stop_label(scan) is not None and not scan.has_workflow


def workflow_order_for(scan: Scan, *, instance: str, image_catalog: str, startup_url: str, queue_idle_s: int) -> WorkflowOrder:
    """Return what to ask EWMS for, from the scan's request. image_catalog: folder of worker images. Source: REST contract 9.4."""
    request = scan.request
    return WorkflowOrder(
        scan_id=scan.scan_id,
        instance=instance,
        worker_image=f"{image_catalog.rstrip('/')}/skymap_scanner:{request['docker_tag']}",
        clusters=tuple((name, n_workers) for name, n_workers in request["request_clusters"]),
        max_pixel_reco_time_s=request["max_pixel_reco_time"],
        priority=scan.priority,
        worker_memory_bytes=request["worker_memory_bytes"],
        worker_disk_bytes=request["worker_disk_bytes"],
        startup_url=startup_url,
        is_client_logs=CLIENT_LOGS in request["debug_mode"],
        queue_idle_s=queue_idle_s,
    )


def decide_assign(scan: Scan | None, command: AssignWorkflow) -> list[Event] | Rejection:
    """Set the workflow, once; the same again is fine, anything else is rejected. Source: REST contract 4.16."""
    if scan is None:
        return scan_not_found(command.scan_id)
    if scan.is_deleted:
        return Rejection(Code.WORKFLOW_NOT_WANTED, f"scan {scan.scan_id} is deleted; abort the workflow")
    if scan.has_workflow or scan.ewms_workflow_id is None:
        if (scan.ewms_workflow_id, scan.ewms_address) == (command.workflow_id, command.ewms_address):
            return []
        return Rejection(Code.WORKFLOW_IS_SET, f"scan {scan.scan_id} already has a different EWMS workflow")
    return [WorkflowAssigned(workflow_id=command.workflow_id, ewms_address=command.ewms_address)]


def decide_assign_own(scan: Scan | None, command: AssignWorkflow) -> list[Event] | None:
    """Set the workflow that the bridge has made; None: the scan does not want it any more, so it is to be aborted."""
    if scan is None or not wants_workflow(scan):
        return [] if scan is not None and scan.ewms_workflow_id == command.workflow_id else None
    events = decide_assign(scan, command)
    return None if isinstance(events, Rejection) else events


def rejection_reason(reason: str) -> str:
    """Return why a scan gets no workflow. reason: EWMS's own words."""
    return f"EWMS rejected the workflow: {reason}"


def decide_refused(scan: Scan | None, reason: str) -> list[Event]:
    """Record that the scan gets no workflow, or that its workflow gets no queues; nothing when that is known or does not matter."""
    if scan is None or scan.ewms.refused or not scan.may_run:
        return []
    return [WorkflowRefused(reason=reason)]


def decide_refused_for_now(scan: Scan | None, reason: str, *, now: float, limit_s: float) -> list[Event]:
    """Record that EWMS rejects the workflow for a reason that time may change, or that it has done so for long enough.

    now: Unix seconds. limit_s: for so long after the first such rejection EWMS is asked again. Recorded once per reason.
    """
    if scan is None or not wants_workflow(scan):
        return []
    until = scan.ewms.asked_until or now + limit_s
    if now >= until:
        return [WorkflowRefused(reason=rejection_reason(reason))]
    return [] if reason == scan.ewms.refused_so_far else [WorkflowAwaited(reason=reason, until=until)]
