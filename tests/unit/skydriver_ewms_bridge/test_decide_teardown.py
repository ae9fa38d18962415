"""How a workflow is ended, and how its end is verified."""

from datetime import UTC, datetime, timedelta

import pytest

from skydriver_common.model import events as ev
from skydriver_common.model.scan import Scan
from skydriver_ewms_bridge.decide.teardown import (
    StopStep,
    decide_deactivated,
    decide_workers_came_back,
    first_stop_verification,
    further_workflows,
    next_stop_verification,
    returning,
    stop_delay,
    stop_step,
)
from skydriver_ewms_bridge.ewms_types import PhaseChange
from skydriver_ewms_bridge.retry_policy import (
    EARLY_STOP_VERIFICATION_DELAY,
    LAST_STOP_VERIFICATION_DELAY,
    STOP_VERIFICATION_DELAY,
    STOPPED_WORKERS_CHECK,
)
from tests.support.bridge_scans import (
    WORKFLOW_ID,
    a_launched_scan,
    a_taskforce,
    a_workflow,
    a_working_scan,
    deleted,
    failed,
    finished,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
DELAY = timedelta(seconds=60)


@pytest.mark.parametrize(
    ("scan", "step"),
    [
        (None, StopStep.NOTHING), (a_working_scan(), StopStep.NOTHING), (deleted(a_launched_scan()), StopStep.REMOVE_CREDENTIALS),
        (deleted(a_working_scan(deactivated="ABORTED")), StopStep.REMOVE_CREDENTIALS), (deleted(a_working_scan()), StopStep.STOP),
        (finished(a_working_scan()), StopStep.STOP), (failed(a_working_scan()), StopStep.STOP),
        (a_working_scan(refused="no"), StopStep.STOP),
    ],
    ids=["unknown", "working", "without a workflow", "stopped", "deleted", "finished", "failed", "refused"],
)  # fmt: skip
def test_the_workflow_of_a_scan_that_is_over_is_stopped(scan: Scan | None, step: StopStep) -> None:
    assert stop_step(scan) is step


def test_a_finished_scan_is_stopped_after_a_delay_and_others_at_once() -> None:
    def delay(scan: Scan | None) -> timedelta | None:
        return stop_delay(scan, since=NOW - 20 * SECOND, now=NOW, teardown_delay=DELAY)

    assert delay(finished(a_working_scan())) == 40 * SECOND
    assert delay(deleted(a_working_scan())) == timedelta(0)
    assert delay(failed(finished(a_working_scan()))) == 40 * SECOND
    assert delay(a_working_scan()) is None
    assert delay(deleted(a_working_scan(deactivated="FINISHED"))) is None
    assert delay(None) is None


def test_a_stop_is_recorded_once_and_only_that_of_the_scans_own_workflow() -> None:
    scan = a_working_scan()
    assert decide_deactivated(scan, WORKFLOW_ID, "aborted") == [
        ev.WorkflowDeactivated(workflow_id=WORKFLOW_ID, label="ABORTED")
    ]
    assert decide_deactivated(scan, "WF-2", "ABORTED") == []
    assert decide_deactivated(a_working_scan(deactivated="ABORTED"), WORKFLOW_ID, "FINISHED") == []
    assert decide_deactivated(None, WORKFLOW_ID, "ABORTED") == []


def test_a_stop_that_may_race_with_the_activation_is_verified_sooner() -> None:
    assert first_stop_verification(a_working_scan()) == EARLY_STOP_VERIFICATION_DELAY
    assert first_stop_verification(a_working_scan(statuses={"IDLE": {"null": 1}})) == STOP_VERIFICATION_DELAY


def test_a_stop_is_verified_twice_and_while_workers_run() -> None:
    first, last = STOP_VERIFICATION_DELAY.total_seconds(), LAST_STOP_VERIFICATION_DELAY.total_seconds()
    assert next_stop_verification(0, age_s=30.0) == timedelta(seconds=first - 30.0)
    assert next_stop_verification(0, age_s=first) == timedelta(seconds=last - first)
    assert next_stop_verification(0, age_s=last) is None
    assert next_stop_verification(3, age_s=last) == STOPPED_WORKERS_CHECK


def test_taskforces_on_their_way_to_a_pool_have_come_back_unless_ewms_gave_them_up() -> None:
    given_up = tuple(PhaseChange(target_phase="condor-submit", timestamp=t, was_successful=False) for t in (1.0, 2.0, 3.0))
    starting = [a_taskforce(phase) for phase in ("pre-mq-activation", "pre-launch", "pending-starter", "condor-submit")]
    ended = [a_taskforce("condor-complete"), a_taskforce("pending-stopper"), a_taskforce("condor-rm")]
    assert returning([*starting, *ended, a_taskforce("pending-starter", phase_changes=given_up)]) == starting


def test_a_change_in_the_workers_that_came_back_is_recorded() -> None:
    assert decide_workers_came_back(a_working_scan(), 3) == [ev.WorkersCameBack(workflow_id=WORKFLOW_ID, n_workers=3)]
    assert decide_workers_came_back(a_working_scan(n_came_back=3), 3) == []
    assert decide_workers_came_back(a_working_scan(n_came_back=3), 0) == [
        ev.WorkersCameBack(workflow_id=WORKFLOW_ID, n_workers=0)
    ]
    assert decide_workers_came_back(a_working_scan(), 0) == []
    assert decide_workers_came_back(None, 3) == []


def test_live_workflows_beside_the_assigned_one_are_further_ones() -> None:
    found = [a_workflow(), a_workflow("WF-2"), a_workflow("WF-3", deactivated="ABORTED")]
    assert further_workflows(a_working_scan(), found) == [a_workflow("WF-2")]
