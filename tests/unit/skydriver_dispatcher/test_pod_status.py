"""What pod and Job statuses mean. Source of what is transient: REST contract 9.6."""

from typing import Any

import pytest

from skydriver_common.model.ids import ScanId
from skydriver_dispatcher.adapters.kubernetes.tracker import POD_GRACE_S, Tracker
from skydriver_dispatcher.launcher_events import CapacityFreed, LauncherEvent, ScannerExit, ScannerStatus
from skydriver_dispatcher.pod_status import event_of_pod
from tests.support import pods

S = "0193a1b2c3dx0123456789abcdef0123"
LABELS = {"skydriver.icecube.wisc.edu/scan-id": S}


def a_pod(status: dict[str, Any], uid: str = "job-1", **metadata: Any) -> dict[str, Any]:
    owner = {"kind": "Job", "uid": uid}
    return {"metadata": {"name": "p", "labels": LABELS, "ownerReferences": [owner], **metadata}, "status": status}


def a_job(uid: str = "job-1", condition: str = "", reason: str = "", **metadata: Any) -> dict[str, Any]:
    conditions = [{"type": condition, "status": "True", "reason": reason}] if condition else []
    return {"metadata": {"name": "j", "uid": uid, "labels": LABELS, **metadata}, "status": {"conditions": conditions}}


@pytest.mark.parametrize(
    ("status", "stage", "code"),
    [
        pytest.param({}, "pending", "", id="new"),
        pytest.param(pods.unschedulable(), "pending", "scanner-unschedulable", id="unschedulable"),
        pytest.param(pods.waiting(ScanId(S)), "scheduled", "", id="starting"),
        pytest.param(pods.waiting(ScanId(S), "ErrImagePull"), "scheduled", "scanner-image-pull-failed", id="pull"),
        pytest.param(pods.waiting(ScanId(S), "ImagePullBackOff"), "scheduled", "scanner-image-pull-failed", id="backoff"),
        pytest.param(pods.waiting(ScanId(S), "InvalidImageName"), "scheduled", "scanner-image-pull-failed", id="bad name"),
        pytest.param(
            pods.waiting(ScanId(S), "CreateContainerConfigError"), "scheduled", "scanner-container-refused", id="config"
        ),
        pytest.param(pods.running(ScanId(S)), "running", "", id="running"),
    ],
)
def test_stages(status: dict[str, Any], stage: str, code: str) -> None:
    news = event_of_pod(a_pod(status))
    assert isinstance(news, ScannerStatus)
    assert (news.scan_id, news.stage, news.code) == (S, stage, code)
    assert bool(news.text) == bool(code)


def test_an_upload_that_keeps_failing_is_told_beside_the_stage() -> None:
    status = pods.running(ScanId(S))
    status["initContainerStatuses"][0]["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    news = event_of_pod(a_pod(status))
    assert isinstance(news, ScannerStatus)
    assert (news.stage, news.code) == ("running", "startup-upload-failing")


@pytest.mark.parametrize(
    ("status", "was_taken", "exit_code", "words"),
    [
        pytest.param(pods.terminated(ScanId(S), 0), False, 0, "", id="done"),
        pytest.param({"phase": "Succeeded"}, False, 0, "", id="succeeded without a container"),
        pytest.param(pods.terminated(ScanId(S), 137, "OOMKilled"), True, 137, "OOMKilled", id="OOMKilled"),
        pytest.param(pods.terminated(ScanId(S), 1, "OOMKilled"), True, 1, "OOMKilled", id="OOMKilled with another code"),
        pytest.param(pods.terminated(ScanId(S), 137), True, 137, "exit code 137", id="SIGKILL"),
        pytest.param(pods.terminated(ScanId(S), 143), True, 143, "exit code 143", id="SIGTERM"),
        pytest.param(pods.terminated(ScanId(S), 128, "StartError"), True, 128, "StartError", id="StartError"),
        pytest.param(pods.evicted(), True, None, "Evicted", id="evicted"),
        pytest.param({"phase": "Failed", "reason": "DeadlineExceeded"}, True, None, "DeadlineExceeded", id="deadline"),
        pytest.param({"phase": "Failed", "reason": "NodeShutdown"}, True, None, "NodeShutdown", id="node shutdown"),
        pytest.param({"phase": "Running", "reason": "NodeLost"}, True, None, "NodeLost", id="node lost"),
        pytest.param(pods.waiting(ScanId(S), "CrashLoopBackOff"), True, None, "CrashLoopBackOff", id="crash loop"),
        pytest.param(pods.terminated(ScanId(S), 1), False, 1, "exit code 1", id="failed"),
        pytest.param(pods.terminated(ScanId(S), 2), False, 2, "exit code 2", id="refused its input"),
        pytest.param({"phase": "Failed"}, True, None, "before it ran", id="failed, nothing known"),
    ],
)
def test_ends(status: dict[str, Any], was_taken: bool, exit_code: int | None, words: str) -> None:
    news = event_of_pod(a_pod(status))
    assert isinstance(news, ScannerExit)
    assert (news.was_taken, news.exit_code) == (was_taken, exit_code)
    assert words in news.cause


ADMISSION_FAILURES = (
    "OutOfcpu", "OutOfmemory", "OutOfephemeral-storage", "OutOfpods", "OutOfhugepages-2Mi", "OutOfnvidia.com/gpu",
    "InsufficientResourceError", "UnexpectedAdmissionError", "NodeAffinity", "NodeName", "NodePorts", "NodeUnschedulable",
    "TaintToleration", "TopologyAffinityError", "InvalidNodeInfo", "PodOSSelectorNodeLabelDoesNotMatch", "PodOSNotSupported",
    "AppArmor", "SysctlForbidden", "PodFeatureUnsupported", "Preempting", "NodeShutdown", "SomethingThatANewKubeletSays",
)  # fmt: skip
"""Reasons with which kubelets refuse pods at admission. Source: kubernetes/pkg/kubelet, pkg/kubelet/lifecycle/predicate.go."""


@pytest.mark.parametrize("reason", ADMISSION_FAILURES)
def test_a_pod_that_a_kubelet_refuses_never_ran_and_is_not_the_scanners_fault(reason: str) -> None:
    status = {"phase": "Failed", "reason": reason, "message": f"Pod was rejected: {reason}", "conditions": [pods.SCHEDULED]}
    news = event_of_pod(a_pod(status))
    assert isinstance(news, ScannerExit)
    assert (news.was_taken, news.exit_code) == (True, None)
    assert reason in news.cause


@pytest.mark.parametrize("waiting", [{"reason": "ContainerCreating"}, {"reason": "PodInitializing"}])
def test_nor_is_one_whose_container_was_still_waiting(waiting: dict[str, Any]) -> None:
    status = pods.waiting(ScanId(S)) | {"phase": "Failed"}
    status["containerStatuses"][0]["state"] = {"waiting": waiting}
    news = event_of_pod(a_pod(status))
    assert isinstance(news, ScannerExit)
    assert news.was_taken


def test_a_pod_on_a_lost_node_has_ended_when_it_is_to_be_deleted() -> None:
    status = pods.lost_node(ScanId(S))
    assert isinstance(event_of_pod(a_pod(status)), ScannerStatus)
    news = event_of_pod(a_pod(status, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert isinstance(news, ScannerExit)
    assert news.was_taken
    assert "DeletionByTaintManager" in news.cause


def test_the_end_of_the_log_comes_along_bounded() -> None:
    news = event_of_pod(a_pod(pods.terminated(ScanId(S), 1, message="x" * 10_000 + "the reason")))
    assert isinstance(news, ScannerExit)
    assert news.log_tail.endswith("the reason")
    assert len(news.log_tail) <= 4000


def test_a_pod_of_somebody_else_is_no_news() -> None:
    assert event_of_pod({"metadata": {"labels": {"app": "x"}}, "status": {}}) is None


class Told:
    """A tracker, what it told, and its clock."""

    def __init__(self) -> None:
        self.news: list[LauncherEvent] = []
        self.now = 0.0
        self.tracker = Tracker(self.news.append, clock=lambda: self.now)

    def ends(self) -> list[ScannerExit]:
        return [news for news in self.news if isinstance(news, ScannerExit)]


def test_a_thousand_updates_of_a_pod_that_change_nothing_are_one_piece_of_news() -> None:
    told = Told()
    for n in range(1000):
        told.tracker.observe_pod(a_pod(pods.unschedulable(f"0/{n} nodes are available")))
    assert len(told.news) == 1


def test_an_end_is_told_once_by_whoever_knows_it_best() -> None:
    told = Told()
    told.tracker.observe_job(a_job())
    told.tracker.observe_job(a_job(condition="Failed", reason="BackoffLimitExceeded"))
    assert told.ends() == []
    told.tracker.observe_pod(a_pod(pods.terminated(ScanId(S), 1)))
    told.now += 2 * POD_GRACE_S
    told.tracker.emit_overdue()
    told.tracker.observe_job(a_job(condition="Failed"), is_gone=True)
    (end,) = told.ends()
    assert (end.exit_code, end.was_taken) == (1, False)


def test_a_failed_job_whose_pod_is_never_seen_is_judged_after_a_while() -> None:
    told = Told()
    told.tracker.observe_job(a_job(condition="Failed", reason="BackoffLimitExceeded"))
    told.now += POD_GRACE_S - 0.1
    told.tracker.emit_overdue()
    assert told.ends() == []
    told.now += 0.2
    told.tracker.emit_overdue()
    (end,) = told.ends()
    assert end.was_taken


def test_a_scan_that_has_used_up_its_time_has_failed_and_is_not_started_once_more() -> None:
    told = Told()
    told.tracker.observe_job(a_job(condition="Failed", reason="DeadlineExceeded"))
    told.now += 2 * POD_GRACE_S
    told.tracker.emit_overdue()
    (end,) = told.ends()
    assert not end.was_taken
    assert "longer than allowed" in end.cause


@pytest.mark.parametrize(
    ("deleted_at", "was_taken"), [("2026-01-03T00:00:30Z", False), ("2026-01-02T23:00:30Z", True)], ids=["deadline", "by hand"]
)
def test_a_pod_that_goes_at_its_jobs_deadline_was_not_taken_away_even_if_it_tells_its_end_first(
    deleted_at: str, was_taken: bool
) -> None:
    told = Told()
    job = a_job()
    job["spec"], job["status"]["startTime"] = {"activeDeadlineSeconds": 2 * 86_400}, "2026-01-01T00:00:00Z"
    told.tracker.observe_job(job)
    going: dict[str, Any] = {"deletionTimestamp": deleted_at, "deletionGracePeriodSeconds": 30}
    told.tracker.observe_pod(a_pod(pods.terminated(ScanId(S), 143), **going))
    (end,) = told.ends()
    assert (end.exit_code, end.was_taken) == (143, was_taken)


@pytest.mark.parametrize("how", ["deleted", "deleting", "missing in a new list"])
def test_a_job_that_goes_without_an_end_was_deleted_by_somebody(how: str) -> None:
    told = Told()
    told.tracker.observe_job(a_job())
    match how:
        case "deleted":
            told.tracker.observe_job(a_job(), is_gone=True)
        case "deleting":
            told.tracker.observe_job(a_job(deletionTimestamp="2026-01-01T00:00:00Z"))
        case _:
            told.tracker.observe_list("jobs", set())
    (end,) = told.ends()
    assert end.was_taken
    assert "deleted" in end.cause


def test_a_job_younger_than_the_list_is_not_missing_in_it() -> None:
    told = Told()
    told.tracker.observe_pod(a_pod(pods.running(ScanId(S)), uid="young"))
    told.tracker.observe_list("jobs", set())
    assert told.ends() == []


def test_nothing_is_kept_of_jobs_that_are_gone() -> None:
    told = Told()
    for n in range(100):
        told.tracker.observe_job(a_job(uid=f"u{n}", condition="Complete"))
        told.tracker.observe_job(a_job(uid=f"u{n}"), is_gone=True)
        told.tracker.observe_pod(a_pod(pods.terminated(ScanId(S), 0), uid=f"u{n}"), is_gone=True)
    assert not told.tracker._jobs
    assert CapacityFreed() in told.news
