"""Words of the cluster about pods that it does not make, from whichever stream they come first."""

from typing import Any

from skydriver_dispatcher.adapters.kubernetes.tracker import Tracker
from skydriver_dispatcher.podfacts import POD_REFUSED, is_given_up, refused_pod
from skydriver_dispatcher.ports import News, ScannerStage

SCAN_ID = "abc"
QUOTA = 'Error creating: pods "skyscan-abc-x" is forbidden: exceeded quota: scans, requested: requests.memory=1Gi'


def _job(**status: Any) -> dict[str, Any]:
    labels = {"skydriver.icecube.wisc.edu/scan-id": SCAN_ID}
    return {"metadata": {"uid": "job-1", "labels": labels}, "status": status}


def _event(uid: str = "job-1") -> dict[str, Any]:
    return {"involvedObject": {"kind": "Job", "uid": uid}, "reason": "FailedCreate", "message": QUOTA}


def _tracker() -> tuple[Tracker, list[News]]:
    told: list[News] = []
    return Tracker(told.append), told


def test_a_refusal_is_told_once_with_the_words_of_the_cluster() -> None:
    tracker, told = _tracker()
    tracker.saw_job(_job())
    tracker.saw_refusal(_event())
    tracker.saw_refusal(_event())
    (stage,) = told
    assert isinstance(stage, ScannerStage)
    assert stage.code == POD_REFUSED
    assert "exceeded quota" in stage.text
    assert "Error creating" not in stage.text


def test_a_refusal_that_comes_before_its_job_is_told_with_it() -> None:
    tracker, told = _tracker()
    tracker.saw_refusal(_event())
    tracker.saw_refusal(_event("job-of-somebody-else"))
    assert told == []
    tracker.saw_job(_job())
    assert told == [refused_pod(SCAN_ID, QUOTA)]


def test_an_old_refusal_of_a_job_that_has_its_pod_is_not_told() -> None:
    tracker, told = _tracker()
    tracker.saw_job(_job(active=1))
    tracker.saw_refusal(_event())
    assert told == []


def test_a_full_quota_is_waited_for_another_refusal_is_not() -> None:
    full = refused_pod(SCAN_ID, QUOTA)
    ruled_out = refused_pod(SCAN_ID, "Error creating: pods is forbidden: violates PodSecurity restricted:latest")
    assert [is_given_up(stage.code, stage.text) for stage in (full, ruled_out)] == [False, True]
