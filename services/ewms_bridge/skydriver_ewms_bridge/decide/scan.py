"""What the state of a scan calls for: a workflow, queues, workers, or an end. Pure. Source: REST contract 4.7, 4.16, 8.8."""

from skydriver_common.model.scan import Scan
from skydriver_common.model.stages import LaunchState

ABORTED = "ABORTED"
FINISHED = "FINISHED"
CLIENT_LOGS = "client-logs"


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


def stop_label(scan: Scan) -> str | None:
    """Return the label with which the workflow is to be stopped now or soon; None: it is to go on.

    A scan that was deleted, given up, or whose scanner has failed for good is aborted; one with its final result finished.
    """
    if scan.is_deleted:
        return ABORTED
    if scan.has_final_result:
        return FINISHED
    if scan.launch.state in (LaunchState.ABANDONED, LaunchState.FAILED) or scan.ewms.refused:
        return ABORTED
    return None
