"""What a scan wants of EWMS: a workflow, more workers, or an end. Source: REST contract 4.7, 4.16, 8.8."""

from collections.abc import Iterable

from skydriver_common.model.commands import AddWorkers, AssignWorkflow
from skydriver_common.model.events import Event, WorkflowAssigned, WorkflowAwaited, WorkflowDeactivated, WorkflowRefused
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Code, Rejection, scan_not_found
from skydriver_common.model.scan import Scan
from skydriver_common.model.stages import LaunchState
from skydriver_common.model.worker_limits import WorkerLimits
from skydriver_ewms_bridge.ewms_types import WorkflowOrder

ABORTED = "ABORTED"
FINISHED = "FINISHED"
CLIENT_LOGS = "client-logs"
_NO_OTHER_LIMITS = WorkerLimits()


def wants_workflow(scan: Scan) -> bool:
    """Whether a workflow is to be made, or one that was made is to be assigned."""
    return scan.may_run and scan.launch.state == LaunchState.LAUNCHED and not scan.has_workflow and not scan.ewms.refused


def may_order_workflow(scan: Scan) -> bool:
    """Whether a workflow may be ordered now: not before the scanner server has a node.

    Its workers give up half an hour after their start if no scanner server has uploaded `startup.json`, and EWMS replaces none.
    """
    return wants_workflow(scan) and scan.launch.has_node


def wants_queues(scan: Scan) -> bool:
    """Whether its scanner still waits for queues."""
    return scan.may_run and scan.has_workflow and scan.ewms.deactivated is None and not scan.ewms.refused


def is_working(scan: Scan) -> bool:
    """Whether its workers have something to do: there is a live workflow and no final result yet."""
    return scan.may_run and scan.has_workflow and scan.ewms.deactivated is None


def may_race_with_activation(scan: Scan) -> bool:
    """Whether its workflow, stopped now, may just be on its way through EWMS's activation and launch: no worker was reported yet.

    EWMS moves all taskforces of the workflow on at the end of an activation, also those that were stopped during it.
    """
    return not scan.ewms.statuses


def stop_label(scan: Scan) -> str | None:
    """With which word the workflow is to be stopped now or soon; None: it is to go on.

    A scan that was deleted, given up, or whose scanner has failed for good is aborted; one with its final result finished.
    """
    if scan.is_deleted:
        return ABORTED
    if scan.has_final_result:
        return FINISHED
    if scan.launch.state in (LaunchState.ABANDONED, LaunchState.FAILED) or scan.ewms.refused:
        return ABORTED
    return None


def workflow_order_for(scan: Scan, *, instance: str, image_catalog: str, startup_url: str, queue_idle_s: int) -> WorkflowOrder:
    """What to ask EWMS for, from the scan's request. image_catalog: folder of worker images. Source: REST contract 9.4."""
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
    """Set the workflow, once; the same again is fine, anything else is refused. Source: REST contract 4.16."""
    if scan is None:
        return unknown(command.scan_id)
    if scan.is_deleted:
        return Rejection(Code.WORKFLOW_NOT_WANTED, f"Scan {scan.scan_id} is deleted: abort the workflow")
    if scan.has_workflow or scan.ewms_workflow_id is None:
        if (scan.ewms_workflow_id, scan.ewms_address) == (command.workflow_id, command.ewms_address):
            return []
        return Rejection(Code.WORKFLOW_IS_SET, f"Scan {scan.scan_id} has another workflow already")
    return [WorkflowAssigned(workflow_id=command.workflow_id, ewms_address=command.ewms_address)]


def refusal(reason: str) -> str:
    """Why a scan gets no workflow. reason: EWMS's own words."""
    return f"EWMS rejected the workflow: {reason}"


def decide_refused_for_now(scan: Scan | None, reason: str, *, now: float, limit_s: float) -> list[Event]:
    """What to note when EWMS refuses the workflow for a reason that time may change: that it is asked again, or that it was long enough.

    now: Unix seconds. limit_s: for so long after the first such refusal EWMS is asked again.
    """
    if scan is None or not wants_workflow(scan):
        return []
    until = scan.ewms.asked_until or now + limit_s
    if now >= until:
        return [WorkflowRefused(reason=refusal(reason))]
    return [] if reason == scan.ewms.refused_so_far else [WorkflowAwaited(reason=reason, until=until)]


def decide_add_workers(
    scan: Scan | None, command: AddWorkers, *, added: Iterable[tuple[str, int]] = (), limits: WorkerLimits = _NO_OTHER_LIMITS
) -> Rejection | None:
    """Why no workers are to be added, or None: EWMS is to be asked. Source: REST contract 4.7, in its order.

    added: (cluster, workers) of the requests before, also of those without an answer yet.
    """
    if scan is None:
        return unknown(command.scan_id)
    if scan.is_deleted:
        return Rejection(Code.SCAN_IS_DELETED, "The scan is deleted: it takes no more workers")
    if not scan.has_workflow:
        return Rejection(Code.WORKFLOW_IS_MISSING, "The scan has no EWMS workflow yet: there is nothing to add workers to")
    if scan.has_final_result:
        return Rejection(Code.SCAN_HAS_FINAL_RESULT, "The scan has its final result: it takes no more workers")
    if scan.ewms.deactivated:
        return workflow_ended()
    asked = [(name, n_workers) for name, n_workers in scan.request["request_clusters"]]
    if too_many := limits.exceeded([*asked, *added, (command.cluster_location, command.n_workers)]):
        return Rejection(Code.TOO_MANY_WORKERS, f"n_workers: {'; '.join(too_many)}", ("n_workers",))
    cap = command.debug_cap
    if CLIENT_LOGS in scan.request["debug_mode"] and cap is not None and command.n_workers > cap:
        return Rejection(
            Code.TOO_MANY_DEBUG_WORKERS,
            f"n_workers: at most {cap} workers in {command.cluster_location} for a scan with client-logs",
            ("n_workers",),
        )
    return None


def decide_deactivated(scan: Scan | None, workflow_id: str, label: str) -> list[Event]:
    """Note that EWMS shows the workflow stopped; nothing when that is known, or it is not this scan's workflow."""
    if scan is None or scan.ewms_workflow_id != workflow_id or scan.ewms.deactivated:
        return []
    return [WorkflowDeactivated(workflow_id=workflow_id, label=label.upper())]


def unknown(scan_id: ScanId) -> Rejection:
    """No such scan."""
    return scan_not_found(scan_id)


def workflow_ended() -> Rejection:
    """EWMS' 422, or what we know ourselves."""
    return Rejection(Code.WORKFLOW_HAS_ENDED, "The scan's EWMS workflow has ended: it takes no more workers")


def cluster_refused() -> Rejection:
    """EWMS' 400 to a request for workers."""
    return Rejection(
        Code.CLUSTER_REFUSED,
        "cluster_location: rejected by EWMS; check the cluster name and the number of workers",
        ("cluster_location",),
    )


def ewms_failed() -> Rejection:
    """EWMS could not be asked, or gave no clear answer. Never recorded: asking again may help."""
    return Rejection(Code.EWMS_FAILED, "EWMS could not add workers; please contact the admins if this persists")
