"""How a scan comes by exactly one workflow."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from skydriver_common.model import events as ev
from skydriver_common.model.commands import AssignWorkflow
from skydriver_common.model.rejections import Code, Rejection
from skydriver_common.model.scan import Launch, Scan
from skydriver_common.model.stages import LaunchState, ScannerStage
from skydriver_ewms_bridge.decide.assignment import (
    AssignmentStep,
    assignment_step,
    decide_assign,
    decide_assign_own,
    decide_refused,
    needs_no_credentials,
    unwanted_workflows,
    wait_before_create,
)
from skydriver_ewms_bridge.decide.workflow import choose_workflow
from skydriver_ewms_bridge.records import Attempt
from skydriver_ewms_bridge.retry_policy import LOST_WORKFLOW_CHECK
from tests.support.bridge_scans import (
    ADDRESS,
    WORKFLOW_ID,
    a_launched_scan,
    a_workflow,
    a_working_scan,
    deleted,
    failed,
    finished,
)


def an_attempt(open_for_s: float) -> Attempt:
    return Attempt(attempted_at=datetime.now(UTC), longer_s=0.0, open_for_s=open_for_s)


def on_kubernetes(stage: ScannerStage) -> Scan:
    launch = Launch(state=LaunchState.LAUNCHED, launcher="kubernetes", stage=stage)
    return replace(a_launched_scan(), launch=launch)


def the_command(scan: Scan, workflow_id: str = WORKFLOW_ID, address: str = ADDRESS) -> AssignWorkflow:
    return AssignWorkflow(scan_id=scan.scan_id, workflow_id=workflow_id, ewms_address=address)


def test_a_launched_scan_gets_a_workflow_as_soon_as_it_has_a_node() -> None:
    assert assignment_step(a_launched_scan(), None) is AssignmentStep.FIND_OR_CREATE
    assert assignment_step(on_kubernetes(ScannerStage.SCHEDULED), None) is AssignmentStep.FIND_OR_CREATE
    assert assignment_step(on_kubernetes(ScannerStage.PENDING), None) is AssignmentStep.WAIT_FOR_NODE


def test_an_earlier_request_is_followed_up_without_a_node_too() -> None:
    assert assignment_step(on_kubernetes(ScannerStage.PENDING), an_attempt(open_for_s=5.0)) is AssignmentStep.FIND_OR_CREATE


@pytest.mark.parametrize("end", [deleted, failed, finished])
def test_a_scan_that_is_over_is_cleaned_up(end: Callable[[Scan], Scan]) -> None:
    assert assignment_step(end(a_launched_scan()), None) is AssignmentStep.CLEAN_UP
    assert assignment_step(a_working_scan(), None) is AssignmentStep.CLEAN_UP


def test_nothing_is_created_while_an_earlier_request_may_take_effect() -> None:
    assert wait_before_create(None) is None
    assert wait_before_create(an_attempt(open_for_s=1.0)) == LOST_WORKFLOW_CHECK
    assert wait_before_create(an_attempt(open_for_s=-1.0)) is None


def test_a_scan_without_a_workflow_wants_none_of_those_found_and_one_with_a_workflow_keeps_its_own() -> None:
    first, second = a_workflow("WF-1", timestamp=1.0), a_workflow("WF-2", timestamp=2.0)
    assert unwanted_workflows(deleted(a_launched_scan()), choose_workflow([second, first])) == (first, second)
    assert unwanted_workflows(a_working_scan(), choose_workflow([second, first], WORKFLOW_ID)) == (second,)
    assert unwanted_workflows(deleted(a_launched_scan()), choose_workflow([])) == ()


def test_credentials_are_removed_here_only_where_no_stop_does_it() -> None:
    assert needs_no_credentials(deleted(a_launched_scan()))
    assert not needs_no_credentials(a_launched_scan())
    assert not needs_no_credentials(deleted(a_working_scan()))


def test_the_workflow_is_assigned_once_and_the_same_again_changes_nothing() -> None:
    scan = a_launched_scan()
    assert decide_assign(scan, the_command(scan)) == [ev.WorkflowAssigned(workflow_id=WORKFLOW_ID, ewms_address=ADDRESS)]
    assert decide_assign(a_working_scan(), the_command(scan)) == []


@pytest.mark.parametrize(
    ("scan", "workflow_id", "code"),
    [
        (None, "WF-1", Code.SCAN_UNKNOWN), (deleted(a_launched_scan()), "WF-1", Code.WORKFLOW_NOT_WANTED),
        (a_working_scan(), "WF-2", Code.WORKFLOW_IS_SET),
    ],
    ids=["unknown", "deleted", "another"],
)  # fmt: skip
def test_another_workflow_or_none_wanted_is_rejected(scan: Scan | None, workflow_id: str, code: Code) -> None:
    answer = decide_assign(scan, the_command(a_launched_scan(), workflow_id))
    assert isinstance(answer, Rejection)
    assert answer.code == code


def test_the_bridges_own_workflow_is_kept_or_to_be_aborted() -> None:
    scan = a_launched_scan()
    assert decide_assign_own(scan, the_command(scan)) == [ev.WorkflowAssigned(workflow_id=WORKFLOW_ID, ewms_address=ADDRESS)]
    assert decide_assign_own(a_working_scan(), the_command(scan)) == [], "it is assigned already"
    assert decide_assign_own(a_working_scan(), the_command(scan, "WF-2")) is None
    assert decide_assign_own(deleted(scan), the_command(scan)) is None
    assert decide_assign_own(None, the_command(scan)) is None


def test_a_refusal_is_recorded_once_and_not_for_a_scan_that_is_over() -> None:
    assert decide_refused(a_launched_scan(), "no") == [ev.WorkflowRefused(reason="no")]
    assert decide_refused(a_working_scan(refused="no"), "no") == []
    assert decide_refused(deleted(a_launched_scan()), "no") == []
    assert decide_refused(None, "no") == []
