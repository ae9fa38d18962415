"""What the workers are doing, and what is wrong with them."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_common.model.problem_codes import ProblemCode
from skydriver_ewms_bridge.decide.workforce import WorkforceFold, aggregate
from skydriver_ewms_bridge.decide.workforce_problems import is_ended
from skydriver_ewms_bridge.ewms_types import PhaseChange, Taskforce

Statuses = Mapping[str, Mapping[str, int]]


def a_taskforce(
    statuses: Statuses | None = None,
    errors: Mapping[str, int] | None = None,
    *,
    n_workers: int = 0,
    phase: str = "condor-submit",
    cluster_id: int | None = 7,
    changes: tuple[PhaseChange, ...] = (),
) -> Taskforce:
    return Taskforce(
        "TF-1", "TK-1", "WF-1", 1.0, n_workers, phase,
        cluster_id=cluster_id, statuses=statuses or {}, top_errors=errors or {}, phase_changes=changes,
    )  # fmt: skip


def codes(*taskforces: Taskforce) -> list[ProblemCode]:
    return [problem.code for problem in aggregate(taskforces).problems]


def test_the_rest_contracts_example_adds_up() -> None:
    workforce = aggregate(
        [
            a_taskforce({"IDLE": {"null": 1}, "RUNNING": {"Tasking": 24}}, {"MemoryError": 3, "TimeoutError": 2}),
            a_taskforce(
                {"IDLE": {"foo": 99}, "RUNNING": {"Tasking": 20, "FatalError": 2}}, {"MemoryError": 1, "NetworkError": 4}
            ),
            a_taskforce({"RUNNING": {"Processing": 7, "Done": 5}, "REMOVED": {"Error": 1}}),
        ]
    )

    assert workforce.statuses == {
        "IDLE": {"null": 1, "foo": 99},
        "RUNNING": {"Tasking": 44, "FatalError": 2, "Processing": 7, "Done": 5},
        "REMOVED": {"Error": 1},
    }
    assert workforce.n_running == 51
    assert workforce.top_errors == {"MemoryError": 4, "TimeoutError": 2, "NetworkError": 4}


def test_the_ewms_contracts_example_adds_up() -> None:
    workforce = aggregate(
        [
            a_taskforce(
                {
                    "IDLE": {"null": 40, "Tasking": 3},
                    "RUNNING": {
                        "null": 2,
                        "RunningInitCommand": 10,
                        "AwaitingFirstMessage": 25,
                        "Tasking": 110,
                        "FatalError": 4,
                    },
                    "HELD: over its memory limit": {"Tasking": 1},
                    "COMPLETED": {"Done": 3, "FatalError": 2},
                },
                {"task failed (exit code 1): MemoryError": 5, "init-container failed (exit code 22): 404": 1},
                n_workers=200,
            ),
            a_taskforce({"IDLE": {"null": 50}}, n_workers=50),
            a_taskforce(n_workers=30, phase="pending-starter", cluster_id=None),
        ]
    )

    assert workforce.n_running == 147
    assert workforce.n_idle == 93
    assert workforce.n_unsubmitted == 30
    assert workforce.n_requested == 280
    assert workforce.statuses["IDLE"] == {"null": 90, "Tasking": 3}
    assert workforce.problems == ()


def test_no_taskforce_is_an_empty_workforce() -> None:
    workforce = aggregate([])

    assert (workforce.statuses, workforce.n_running, workforce.top_errors, workforce.problems) == ({}, 0, {}, ())
    assert not workforce.has_ended


counts = st.dictionaries(st.sampled_from(["null", "Tasking", "Done", "FatalError"]), st.integers(0, 50))
a_status = st.dictionaries(st.sampled_from(["IDLE", "RUNNING", "HELD: why", "COMPLETED"]), counts)


@given(st.lists(a_status), st.randoms())
def test_the_order_of_taskforces_does_not_matter_and_no_job_is_lost(reports: list[Statuses], rng: object) -> None:
    taskforces = [a_taskforce(report) for report in reports]
    forwards, backwards = aggregate(taskforces), aggregate(reversed(taskforces))

    assert forwards.statuses == backwards.statuses
    assert forwards.n_running == backwards.n_running
    total = sum(n for report in reports for by_pilot in report.values() for n in by_pilot.values())
    assert sum(n for by_pilot in forwards.statuses.values() for n in by_pilot.values()) == total


def test_a_result_is_not_changed_by_what_is_folded_later() -> None:
    fold = WorkforceFold()
    fold.add(a_taskforce({"RUNNING": {"Tasking": 1}}))
    early = fold.result()
    fold.add(a_taskforce({"RUNNING": {"Tasking": 1}}))

    assert (early.n_running, early.statuses) == (1, {"RUNNING": {"Tasking": 1}})


@pytest.mark.parametrize(
    ("phase", "cluster_id", "ended"),
    [
        ("condor-complete", 7, True),
        ("pending-stopper", None, True),
        ("condor-rm", None, True),
        ("pending-stopper", 7, False),
        ("condor-rm", 7, False),
        ("pending-starter", None, False),
        ("condor-submit", 7, False),
    ],
)
def test_a_taskforce_stopped_before_it_was_submitted_has_ended(phase: str, cluster_id: int | None, ended: bool) -> None:
    assert is_ended(a_taskforce(phase=phase, cluster_id=cluster_id)) is ended


def test_three_failed_submissions_are_noticed_and_two_are_not() -> None:
    failed = PhaseChange("condor-submit", 1.0, was_successful=False)
    twice = a_taskforce(phase="pending-starter", cluster_id=None, n_workers=30, changes=(failed, failed))
    thrice = a_taskforce(phase="pending-starter", cluster_id=None, n_workers=30, changes=(failed, failed, failed))

    assert codes(twice) == []
    assert codes(thrice) == [ProblemCode.SUBMISSION_FAILED]


def test_all_workers_held_is_noticed_unless_others_are_coming() -> None:
    held = a_taskforce({"HELD: over its memory limit": {"null": 3}, "COMPLETED": {"Done": 1}}, n_workers=4)

    assert codes(held) == [ProblemCode.ALL_WORKERS_HELD]
    assert codes(held, a_taskforce(n_workers=5, phase="pre-launch", cluster_id=None)) == []
    assert codes(held, a_taskforce({"IDLE": {"null": 1}})) == []


def test_all_workers_ended_is_noticed_in_either_form() -> None:
    assert codes(a_taskforce({"COMPLETED": {"Done": 2}}, phase="condor-complete")) == [ProblemCode.ALL_WORKERS_ENDED]
    assert codes(a_taskforce({"COMPLETED": {"Done": 1}, "REMOVED": {"Tasking": 1}}, n_workers=2)) == [
        ProblemCode.ALL_WORKERS_ENDED
    ]
    assert codes(a_taskforce({"COMPLETED": {"Done": 1}, "RUNNING": {"Tasking": 1}})) == []


def test_the_same_error_on_every_started_worker_is_noticed() -> None:
    broken = {"COMPLETED": {"FatalError": 2}, "RUNNING": {"FatalError": 3}, "IDLE": {"null": 40}}
    error = {"init-container failed (exit code 22): 404": 5}

    assert codes(a_taskforce(broken, error, n_workers=45)) == [ProblemCode.SAME_ERROR_EVERYWHERE]
    assert codes(a_taskforce({**broken, "RUNNING": {"FatalError": 3, "Tasking": 1}}, error, n_workers=46)) == []


def test_of_very_many_different_texts_the_common_ones_stay_and_no_job_is_lost() -> None:
    fold = WorkforceFold()
    for number in range(5_000):
        fold.add(
            a_taskforce(
                statuses={f"HELD: reason {number}": {"null": 1}, "RUNNING": {"Tasking": 1}},
                errors={f"error {number}": 1, "MemoryError": 2},
            )
        )
    workforce = fold.result()

    assert workforce.top_errors["MemoryError"] == 10_000
    assert len(workforce.top_errors) <= 500
    assert len(workforce.statuses) <= 201
    assert sum(sum(counts.values()) for counts in workforce.statuses.values()) == 10_000
    assert workforce.n_running == 5_000
