"""Words of the cluster about pods that it does not make, from whichever stream they come first."""

from typing import Any

import pytest

from skydriver_common.model.ids import ScanId
from skydriver_common.model.problem_codes import ProblemCode
from skydriver_dispatcher.adapters.kubernetes.tracker import Tracker
from skydriver_dispatcher.decide.stages import is_terminal_problem
from skydriver_dispatcher.launcher_events import LauncherEvent, ScannerStatus
from skydriver_dispatcher.pod_status import rejected_pod

SCAN_ID = ScanId("abc")
QUOTA = 'Error creating: pods "skyscan-abc-x" is forbidden: exceeded quota: scans, requested: requests.memory=1Gi'
RULE = "Error creating: pods is forbidden: violates PodSecurity restricted:latest"


def _job(**status: Any) -> dict[str, Any]:
    labels = {"skydriver.icecube.wisc.edu/scan-id": SCAN_ID}
    return {"metadata": {"uid": "job-1", "labels": labels}, "status": status}


def _event(uid: str = "job-1", message: str = QUOTA, minute: int = 0) -> dict[str, Any]:
    at = f"2026-01-01T00:{minute:02}:00Z"
    return {"involvedObject": {"kind": "Job", "uid": uid}, "reason": "FailedCreate", "message": message, "lastTimestamp": at}


def _tracker() -> tuple[Tracker, list[LauncherEvent]]:
    told: list[LauncherEvent] = []
    return Tracker(told.append), told


def test_a_refusal_is_told_once_with_the_words_of_the_cluster() -> None:
    tracker, told = _tracker()
    tracker.observe_job(_job())
    tracker.observe_rejection(_event())
    tracker.observe_rejection(_event())
    (stage,) = told
    assert isinstance(stage, ScannerStatus)
    assert stage.code == ProblemCode.SCANNER_POD_WITHOUT_QUOTA
    assert "exceeded quota" in stage.text
    assert "Error creating" not in stage.text


def test_a_refusal_that_comes_before_its_job_is_told_with_it() -> None:
    tracker, told = _tracker()
    tracker.observe_rejection(_event())
    tracker.observe_rejection(_event("job-of-somebody-else"))
    assert told == []
    tracker.observe_job(_job())
    assert told == [rejected_pod(SCAN_ID, QUOTA)]


def test_an_old_refusal_of_a_job_that_has_its_pod_is_not_told() -> None:
    tracker, told = _tracker()
    tracker.observe_job(_job(active=1))
    tracker.observe_rejection(_event())
    assert told == []


def test_a_full_quota_is_waited_for_another_refusal_is_not() -> None:
    texts = (QUOTA, "Error creating: pods is forbidden: status unknown for quota: scans", RULE)
    assert [is_terminal_problem(rejected_pod(SCAN_ID, text).code) for text in texts] == [False, False, True]


@pytest.mark.parametrize(
    "message",
    [
        'Internal error occurred: failed calling webhook "rules.example.org": failed to call webhook: Post "https://rules": '
        "context deadline exceeded",
        'Internal error occurred: failed calling webhook "rules.example.org": Post "https://rules": x509: certificate has expired '
        "or is not yet valid; the certificate is invalid",
        "Timeout: request did not complete within requested timeout - context deadline exceeded",
        "the server was unable to return a response in the time allotted, but may still be processing the request",
        "etcdserver: request timed out",
        'pods "skyscan-abc-x" is forbidden: not yet ready to handle request',
        "Unauthorized",
        "something that no version has said yet",
    ],
)
def test_a_webhook_or_server_that_does_not_respond_is_waited_for_without_limit(message: str) -> None:
    stage = rejected_pod(SCAN_ID, f"Error creating: {message}")
    assert (stage.stage, stage.code, is_terminal_problem(stage.code)) == ("pending", ProblemCode.SCANNER_POD_DELAYED, False)
    assert message[:20] in stage.text


@pytest.mark.parametrize(
    "message",
    [
        'admission webhook "rules.example.org" denied the request: no label team',
        'pods "skyscan-abc-x" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes',
        'pods "skyscan-abc-x" is forbidden: no PriorityClass with name urgent was found',
        'Pod "skyscan-abc-x" is invalid: spec.containers[0].image: Required value',
    ],
)
def test_what_was_looked_at_and_refused_is_given_up_in_the_end(message: str) -> None:
    stage = rejected_pod(SCAN_ID, f"Error creating: {message}")
    assert (stage.code, is_terminal_problem(stage.code)) == (ProblemCode.SCANNER_POD_REFUSED, True)


@pytest.mark.parametrize("messages", [(RULE, QUOTA), (QUOTA, RULE)], ids=["first a rule", "first the quota"])
def test_a_refusal_for_another_reason_is_told_and_an_old_one_that_is_listed_again_is_not(messages: tuple[str, str]) -> None:
    tracker, told = _tracker()
    tracker.observe_job(_job())
    first, second = (_event(message=message, minute=minute) for minute, message in enumerate(messages))
    for event in (first, second, first, second):
        tracker.observe_rejection(event)
    assert [stage.code for stage in told if isinstance(stage, ScannerStatus)] == [
        rejected_pod(SCAN_ID, message).code for message in messages
    ]


def test_of_refusals_that_come_before_their_job_the_newest_is_told_with_it() -> None:
    tracker, told = _tracker()
    tracker.observe_rejection(_event(message=RULE, minute=1))
    tracker.observe_rejection(_event(message=QUOTA, minute=0))
    tracker.observe_job(_job())
    assert told == [rejected_pod(SCAN_ID, RULE)]


def test_words_about_other_jobs_are_kept_for_as_long_as_the_cluster_keeps_them() -> None:
    tracker, _ = _tracker()
    for number in range(100):
        tracker.observe_rejection(_event(f"job-{number}"))
        tracker.observe_rejection(_event(f"job-{number}"), is_gone=True)
    assert not tracker._early_rejections
