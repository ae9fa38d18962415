"""Pod statuses as the kubelet and the controllers write them."""

from typing import Any

from skydriver_common.model.ids import ScanId

SCHEDULED = {"type": "PodScheduled", "status": "True"}


def unschedulable(message: str = "0/3 nodes are available: 3 Insufficient memory.") -> dict[str, Any]:
    """No node has room."""
    return {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}],
    }


def waiting(scan_id: ScanId, reason: str = "PodInitializing", message: str = "") -> dict[str, Any]:
    """On a node, the scanner container not started."""
    return _with(scan_id, "Pending", {"waiting": {"reason": reason, "message": message}})


def running(scan_id: ScanId) -> dict[str, Any]:
    """The scanner runs."""
    return _with(scan_id, "Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}})


def terminated(scan_id: ScanId, exit_code: int, reason: str = "Error", message: str = "", **more: Any) -> dict[str, Any]:
    """The scanner container has ended."""
    phase = "Succeeded" if exit_code == 0 else "Failed"
    state = {"terminated": {"exitCode": exit_code, "reason": "Completed" if exit_code == 0 else reason, "message": message}}
    return _with(scan_id, phase, state) | more


def evicted() -> dict[str, Any]:
    """By the kubelet, for want of a resource."""
    return {
        "phase": "Failed",
        "reason": "Evicted",
        "message": "The node was low on resource: memory.",
        "conditions": [SCHEDULED],
    }


def lost_node(scan_id: ScanId) -> dict[str, Any]:
    """The node is gone, the pod is to be deleted (its metadata say so, too)."""
    status = running(scan_id)
    status["conditions"].append(
        {
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
        }
    )  # fmt: skip
    return status


def _with(scan_id: ScanId, phase: str, state: dict[str, Any]) -> dict[str, Any]:
    return {
        "phase": phase,
        "conditions": [SCHEDULED],
        "containerStatuses": [{"name": f"skyscan-server-{scan_id}", "state": state}],
        "initContainerStatuses": [{"name": f"sidecar-s3-{scan_id}", "state": {"running": {}}}],
    }
