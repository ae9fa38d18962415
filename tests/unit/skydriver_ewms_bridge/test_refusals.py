"""Which of EWMS's refusals are final, and what a scan is told of the others."""

from dataclasses import replace
from typing import cast

import pytest

from skydriver_common.model import events as ev
from skydriver_common.model.ids import ScanId
from skydriver_common.model.problems import problems_of
from skydriver_common.model.scan import Ewms, Launch, Scan
from skydriver_common.model.scan_request import ScanRequest
from skydriver_common.model.stages import LaunchState
from skydriver_ewms_bridge.decide.assignment import decide_refused_for_now
from skydriver_ewms_bridge.decide.refusals import is_final_refusal

FINAL = [
    "'tasks.0.worker_config.n_cores': must be type integer",
    "'tasks.0.task_image': must be type string",
    "'tasks.0.pilot_config.image_source': must be one of cvmfs, auto",
    "'tasks.0.x': additional properties are not allowed; 'priority': must be type integer",
    "'tasks.0.cluster_locations': unknown cluster",
    "condor location not found: nowhere",
    "tasks[0].pilot_config.environment cannot include the attribute 'EWMS_PILOT_TASK_IMAGE'. Use the top-level equivalent "
    "attribute instead.",
    "'tasks.0.pilot_config.environment': cannot override EWMS_PILOT_INIT_ARGS",
    "Image tag not found: v9; 'tasks.0.worker_config.n_cores': must be type integer",
]
PASSING = [
    "Image tag not found: test-alpha (it may not have finished uploading)",
    "'tasks.0.pilot_config.tag': no such pilot image",
    "the queue service is being upgraded",
    "",
]


@pytest.mark.parametrize("reason", FINAL)
def test_complaints_about_the_request_itself_are_final(reason: str) -> None:
    assert is_final_refusal(400, reason)


@pytest.mark.parametrize("reason", PASSING)
def test_every_other_400_may_pass(reason: str) -> None:
    assert not is_final_refusal(400, reason)


@pytest.mark.parametrize("status", [403, 409, 423, 429])
@pytest.mark.parametrize("reason", FINAL)
def test_rights_conflicts_locks_and_limits_pass_whatever_they_say(status: int, reason: str) -> None:
    assert not is_final_refusal(status, reason)


def a_scan(**ewms: object) -> Scan:
    scan = Scan(
        scan_id=ScanId("s"), version=2, timestamp=1.0, last_updated=1.0, scanner_server_args="", priority=0, classifiers={}, i3_event_id="",
        request=cast(ScanRequest, {}), request_scan_id=ScanId("s"), event_digest="",
        launch=Launch(state=LaunchState.LAUNCHED, launcher="local"),
    )  # fmt: skip
    return replace(scan, ewms=Ewms(**ewms))  # type: ignore[arg-type]


def test_the_time_for_asking_again_counts_from_the_first_refusal_whatever_the_later_ones_say() -> None:
    first = decide_refused_for_now(a_scan(), "no image", now=1000.0, limit_s=60.0)
    assert first == [ev.WorkflowAwaited(reason="no image", until=1060.0)]
    waiting = a_scan(refused_so_far="no image", asked_until=1060.0)
    assert decide_refused_for_now(waiting, "no image", now=1059.0, limit_s=60.0) == []
    assert decide_refused_for_now(waiting, "a lock", now=1059.0, limit_s=60.0) == [
        ev.WorkflowAwaited(reason="a lock", until=1060.0)
    ]
    assert decide_refused_for_now(waiting, "a lock", now=1060.0, limit_s=60.0) == [
        ev.WorkflowRefused(reason="EWMS rejected the workflow: a lock")
    ]


def test_a_scan_that_wants_no_workflow_any_more_is_told_nothing() -> None:
    gone = replace(a_scan(), is_deleted=True)
    assert decide_refused_for_now(gone, "no image", now=1000.0, limit_s=0.0) == []
    assert decide_refused_for_now(None, "no image", now=1000.0, limit_s=0.0) == []


def test_with_no_time_for_asking_again_the_first_refusal_is_final() -> None:
    assert decide_refused_for_now(a_scan(), "no", now=5.0, limit_s=0.0) == [
        ev.WorkflowRefused(reason="EWMS rejected the workflow: no")
    ]


def test_the_status_says_that_ewms_is_asked_again_until_when_and_why() -> None:
    (problem,) = problems_of(a_scan(refused_so_far="Image tag not found: v4.1.2", asked_until=1_700_000_000.0))
    assert problem["code"] == "waiting-for-workflow"
    assert "retries until 2023-11-14 22:13 UTC: Image tag not found: v4.1.2" in problem["text"]
