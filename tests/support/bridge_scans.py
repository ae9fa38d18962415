"""Scans as the EWMS bridge meets them, as values: no database needed."""

from dataclasses import replace
from typing import Any

from skydriver_common.model.scan import Ewms, Launch, ResultRef, Scan
from skydriver_common.model.stages import LaunchState
from skydriver_ewms_bridge.ewms_types import Taskforce, Workflow
from tests.support.launchers import a_queued_scan

WORKFLOW_ID = "WF-1"
ADDRESS = "http://ewms.example"
FINAL = ResultRef(digest="sha256:0", size_bytes=1, is_final=True)


def a_launched_scan(**request: Any) -> Scan:
    """A scan whose scanner server runs, without a workflow yet."""
    return replace(a_queued_scan(**request), launch=Launch(state=LaunchState.LAUNCHED, launcher="local"))


def a_working_scan(*, request: dict[str, Any] | None = None, **ewms: Any) -> Scan:
    """A scan with a live workflow. ewms: what EWMS reported of it."""
    return replace(
        a_launched_scan(**request or {}), ewms_workflow_id=WORKFLOW_ID, ewms_address=ADDRESS, ewms=Ewms(**ewms)
    )  # fmt: skip


def deleted(scan: Scan) -> Scan:
    """The scan after its deletion."""
    return replace(scan, is_deleted=True)


def finished(scan: Scan) -> Scan:
    """The scan with its final result."""
    return replace(scan, result=FINAL)


def failed(scan: Scan) -> Scan:
    """The scan after its scanner server has failed for good."""
    return replace(scan, launch=replace(scan.launch, state=LaunchState.FAILED))


def a_workflow(workflow_id: str = WORKFLOW_ID, *, timestamp: float = 1.0, deactivated: str | None = None) -> Workflow:
    """A workflow as EWMS shows it."""
    return Workflow(workflow_id=workflow_id, timestamp=timestamp, deactivated=deactivated)


def a_taskforce(phase: str = "condor-submit", **values: Any) -> Taskforce:
    """A taskforce of that workflow."""
    fields = {"taskforce_uuid": "TF-1", "task_id": "TD-1", "workflow_id": WORKFLOW_ID, "timestamp": 1.0, "n_workers": 5}
    return Taskforce(**{**fields, "phase": phase, **values})
