"""What a scan's state says of why it waits or fails."""

import time
from dataclasses import replace
from typing import Any, cast

import pytest

from skydriver_common.model import events as ev
from skydriver_common.model.ids import ScanId
from skydriver_common.model.problems import problems_of
from skydriver_common.model.scan import Scan, fold
from skydriver_common.model.scan_request import ScanRequest
from skydriver_common.model.stages import LaunchState, ScannerStage

ID = "18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c"
REQUESTED = ev.ScanRequested(
    requested_at=1.0, request={"priority": 0, "i3_event_id": "e"}, request_scan_id=ScanId(ID), event_digest="sha256:0", classifiers={},
    scanner_server_args="",
)  # fmt: skip
LAUNCHED = ev.ScanLaunched(launcher="local", job="j")
IN_CLUSTER = ev.ScanLaunched(launcher="kubernetes", job="j")
ASSIGNED = ev.WorkflowAssigned(workflow_id="WF-1", ewms_address="http://ewms")
QUEUES = ev.QueuesActivated(queues={"a": "b"}, tokens_end_at=1_700_000_000.0)
AT_WORK = ev.WorkforceChanged(statuses={"RUNNING": {"Tasking": 3}}, n_running=3)
REPORTED = ev.ProgressReported(progress={"processing_stats": {"rate": {"all": 1}}})
RUNNING = (LAUNCHED, ASSIGNED, QUEUES, AT_WORK, REPORTED)


def a_scan(*events: ev.Event) -> Scan:
    scan = fold([(event, time.time()) for event in (REQUESTED, *events)], ScanId(ID))
    assert scan is not None
    return scan


def codes(*events: ev.Event) -> list[str]:
    return [problem["code"] for problem in problems_of(a_scan(*events))]


@pytest.mark.parametrize(
    ("events", "said"),
    [
        pytest.param((), [], id="waits for its launch"),
        pytest.param(RUNNING, [], id="at work"),
        pytest.param((ev.LaunchAttempted(attempt=1), ev.LaunchFailed(attempt=1, reason="no quota")), ["launch-failed"]),
        pytest.param((ev.LaunchAbandoned(reason="no image"),), ["launch-abandoned"]),
        pytest.param((ev.LaunchAttempted(attempt=1), ev.LaunchDeferred(reason="exceeded quota")), ["launch-deferred"]),
        pytest.param((ev.LaunchDeferred(reason="exceeded quota"), *RUNNING), []),
        pytest.param((*RUNNING, ev.ScannerStageChanged(stage=ScannerStage.PENDING)), ["scanner-pending"]),
        pytest.param((*RUNNING, ev.ScannerStageChanged(stage=ScannerStage.SCHEDULED)), ["scanner-starting"]),
        pytest.param((*RUNNING, ev.ScannerStageChanged(stage=ScannerStage.SCHEDULED, code="a-trouble", text="because")), ["a-trouble"]),
        pytest.param(
            (
                *RUNNING,
                ev.ScannerStageChanged(stage=ScannerStage.PENDING),
                ev.ScannerStageChanged(stage=ScannerStage.RUNNING),
            ),
            [],
        ),
        pytest.param(
            (*RUNNING, ev.ScannerStageChanged(stage=ScannerStage.PENDING, code="a-trouble", text="because"), ev.ScannerFailed(reason="it")),
            ["scanner-failed"],
        ),
        pytest.param((LAUNCHED,), ["waiting-for-workflow"]),
        pytest.param((IN_CLUSTER,), ["scanner-pending"], id="no pod yet"),
        pytest.param((IN_CLUSTER, ev.ScannerStageChanged(stage=ScannerStage.PENDING)), ["scanner-pending"], id="no node yet"),
        pytest.param(
            (IN_CLUSTER, ev.ScannerStageChanged(stage=ScannerStage.PENDING, code="a-trouble", text="because")), ["a-trouble"], id="no node"
        ),
        pytest.param(
            (IN_CLUSTER, ev.ScannerStageChanged(stage=ScannerStage.SCHEDULED)), ["scanner-starting", "waiting-for-workflow"], id="node"
        ),
        pytest.param((LAUNCHED, ev.WorkflowRefused(reason="tasks.0: no such cluster")), ["workflow-refused"]),
        pytest.param((LAUNCHED, ASSIGNED), ["waiting-for-queues"]),
        pytest.param((LAUNCHED, ASSIGNED, QUEUES), ["waiting-for-workers"]),
        pytest.param((*RUNNING, ev.ScannerRestarted(reason="evicted", restarts=1)), ["scanner-restarted"]),
        pytest.param((*RUNNING, ev.ScannerFailed(reason="exit code 1")), ["scanner-failed"]),
        pytest.param((*RUNNING, ev.StartupFileMissing(waited_s=900.0)), ["startup-file-missing"]),
        pytest.param((*RUNNING, ev.StartupFileMissing(waited_s=900.0), ev.StartupFileFound()), []),
        pytest.param((*RUNNING, ev.QueueTokensEnding(ends_at=1_700_000_000.0)), ["queue-tokens-ending"]),
        pytest.param((*RUNNING, ev.WorkflowDeactivated(workflow_id="WF-1", label="ABORTED")), ["workflow-stopped"]),
    ],
)  # fmt: skip
def test_each_cause_is_told_as_long_as_it_holds(events: tuple[ev.Event, ...], said: list[str]) -> None:
    assert codes(*events) == said


def test_a_scanners_own_reason_is_quoted() -> None:
    log = "Traceback (most recent call last):\n  File x\nValueError: nside 7 is not a power of two\n\n"
    failed = a_scan(*RUNNING, ev.ScannerFailed(reason="the scanner refused its input", exit_code=2, log_tail=log))
    assert problems_of(failed)[0]["text"] == (
        "The scanner server ended without a final result: the scanner refused its input; "
        "last line of its log: ValueError: nside 7 is not a power of two"
    )
    silent = a_scan(*RUNNING, ev.ScannerFailed(reason="it is gone"))
    assert problems_of(silent)[0]["text"] == "The scanner server ended without a final result: it is gone"


def test_variables_that_are_reserved_by_now_are_named() -> None:
    wanted = {"HOME": "/x", "MINE": 1, "SKYSCAN_SKYDRIVER_AUTH": "t"}
    scan = replace(a_scan(*RUNNING), request=cast(ScanRequest, {"priority": 0, "scanner_server_env_from_user": wanted}))
    (told,) = problems_of(scan)
    assert told["code"] == "variables-left-out"
    assert told["text"].endswith("since their names are reserved: HOME, SKYSCAN_SKYDRIVER_AUTH")


@pytest.mark.parametrize("end", [ev.ScanDeleted(), ev.ResultReceived(digest="d", size_bytes=1, is_final=True)])
def test_a_scan_that_is_over_as_was_wished_has_no_problems(end: ev.Event) -> None:
    assert codes(*RUNNING, ev.StartupFileMissing(waited_s=900.0), end) == []


@pytest.mark.parametrize(("place", "words"), [(0, "next in line"), (40, "40 workflows ahead, about 10 min")])
def test_the_place_in_the_line_for_queues_is_told(place: int, words: str) -> None:
    (problem,) = problems_of(a_scan(LAUNCHED, ASSIGNED, ev.QueuesAwaited(place_in_line=place)))
    assert words in problem["text"]


def test_workers_problems_come_with_their_most_common_error_on_one_short_line() -> None:
    trace = "Traceback (most recent call last):\n  File x\nMemoryError: " + "x" * 1000 + "\n"
    changed = ev.WorkforceChanged(
        statuses={"COMPLETED": {"FatalError": 5}}, n_running=0, top_errors={trace: 5, "other": 1},
        problems=[{"code": "all-workers-ended", "text": "all workers have ended (5 jobs)"}],
    )  # fmt: skip
    (problem,) = problems_of(a_scan(LAUNCHED, ASSIGNED, QUEUES, changed))

    assert problem["code"] == "all-workers-ended"
    assert problem["text"].startswith("All workers have ended (5 jobs); most common error (5 times): MemoryError: xxx")
    assert "\n" not in problem["text"]
    assert len(problem["text"]) < 300


def test_waiting_workers_are_told_from_workers_nobody_has_heard_of() -> None:
    waiting: dict[str, Any] = {"statuses": {"IDLE": {"null": 90}}, "n_running": 0}
    (problem,) = problems_of(a_scan(LAUNCHED, ASSIGNED, QUEUES, ev.WorkforceChanged(**waiting)))
    assert "90 are waiting" in problem["text"]


def some_pixels(done: Any, *, rate: dict[str, Any]) -> ev.ProgressReported:
    tallies = {"overall": {"pixels": {"done": done}}}
    return ev.ProgressReported(progress={"tallies": tallies, "processing_stats": {"rate": rate}})


NONE_RUNS = ev.WorkforceChanged(statuses={"IDLE": {"null": 4}}, n_running=0)


@pytest.mark.parametrize(
    ("events", "text"),
    [
        pytest.param((), "No worker is running yet: EWMS has not reported any", id="none yet"),
        pytest.param((some_pixels(0, rate={}),), "No worker is running yet: EWMS has not reported any", id="no pixel yet"),
        pytest.param(
            (AT_WORK, some_pixels(30, rate={"all": 1}), NONE_RUNS),
            "No worker is running now (since 2023-11-14 22:13 UTC; 30 pixels are done): 4 are waiting for a free slot in their pool",
            id="they ran",
        ),
        pytest.param(
            (some_pixels(1, rate={"all": 1}),),
            "No worker is running now (1 pixel is done): EWMS has not reported any",
            id="they ran between two counts",
        ),
        pytest.param(
            (some_pixels("30 %", rate={"all": 1}), NONE_RUNS),
            "No worker is running now: 4 are waiting for a free slot in their pool",
            id="tallies of another form",
        ),
    ],
)
def test_with_pixels_done_it_is_not_said_that_no_worker_runs_yet(events: tuple[ev.Event, ...], text: str) -> None:
    scan = fold([(event, 1_700_000_000.0) for event in (REQUESTED, LAUNCHED, ASSIGNED, QUEUES, *events)], ScanId(ID))
    assert scan is not None
    assert [problem["text"] for problem in problems_of(scan)] == [text]


def test_when_the_last_worker_stopped_is_told_until_one_runs_again() -> None:
    def idle_since(*events: ev.Event) -> float | None:
        scan = fold([(event, float(n)) for n, event in enumerate((REQUESTED, LAUNCHED, ASSIGNED, QUEUES, *events))], ScanId(ID))
        assert scan is not None
        return scan.ewms.idle_since

    held = ev.WorkforceChanged(statuses={"HELD": {"null": 4}}, n_running=0)
    assert idle_since(NONE_RUNS, held) is None
    assert idle_since(AT_WORK, NONE_RUNS, held) == 5.0
    assert idle_since(AT_WORK, NONE_RUNS, AT_WORK) is None


def test_an_end_time_of_tokens_is_told_in_utc() -> None:
    (problem,) = problems_of(a_scan(*RUNNING, ev.QueueTokensEnding(ends_at=1_700_000_000.0)))
    assert "2023-11-14 22:13 UTC" in problem["text"]


def test_a_reason_nobody_gave_is_not_made_up() -> None:
    scan = a_scan(LAUNCHED)
    problem = problems_of(replace(scan, launch=replace(scan.launch, state=LaunchState.FAILED, reason="")))[0]
    assert problem["text"].endswith("no reason given")
