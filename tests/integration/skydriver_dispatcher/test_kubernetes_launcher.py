"""The launcher against a Kubernetes API over HTTP: what it makes, and what every kind of answer means."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from skydriver_common.faults import TryLater
from skydriver_common.model.scan import Scan
from skydriver_dispatcher.adapters.kubernetes.launcher import KubernetesLauncher
from skydriver_dispatcher.pending_events import PendingEvents
from skydriver_dispatcher.ports import CapacityExceeded, LaunchRejected
from tests.support.kmock_cluster import NAMESPACE, Cluster, a_cluster
from tests.support.launchers import JOBS, a_queued_scan, kubernetes_launcher

QUOTA = 'jobs.batch "x" is forbidden: exceeded quota: scans, requested: count/jobs.batch=1, used: 5, limited: 5'


@dataclass
class Setup:
    """A cluster and a launcher for it."""

    cluster: Cluster
    launcher: KubernetesLauncher
    impatient: KubernetesLauncher
    scan: Scan

    @property
    def name(self) -> str:
        return f"skyscan-{self.scan.scan_id}"


@pytest.fixture
async def at() -> AsyncIterator[Setup]:
    async with a_cluster() as (cluster, client):
        launcher, impatient = (kubernetes_launcher(client, PendingEvents(), timeout_s=limit_s) for limit_s in (15.0, 0.5))
        yield Setup(cluster, launcher, impatient, a_queued_scan())


async def test_a_launch_makes_one_job_and_one_secret_which_the_job_owns(at: Setup) -> None:
    assert await at.launcher.launch(at.scan) == at.name
    job, secret = at.cluster.find("jobs", at.name), at.cluster.find("secrets", at.name)
    assert job is not None
    assert secret is not None
    assert secret["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert base64.b64decode(secret["data"]["scan-token"]).decode() == f"token-of-{at.scan.scan_id}"
    assert at.cluster.calls == [("POST", "jobs", ""), ("POST", "secrets", "")]


async def test_launching_again_changes_nothing(at: Setup) -> None:
    await at.launcher.launch(at.scan)
    before = dict(at.cluster.objects)
    assert await at.launcher.launch(at.scan) == at.name
    assert at.cluster.objects == before


async def test_a_launch_that_died_between_job_and_secret_is_completed(at: Setup) -> None:
    at.cluster.fail("POST", "secrets", 500, "etcdserver: leader changed")
    with pytest.raises(TryLater):
        await at.launcher.launch(at.scan)
    await at.launcher.launch(at.scan)
    job, secret = at.cluster.find("jobs", at.name), at.cluster.find("secrets", at.name)
    assert job is not None
    assert secret is not None
    assert secret["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]


@pytest.mark.parametrize("kind", ["jobs", "secrets"])
async def test_an_object_of_somebody_else_is_an_error_and_stays(at: Setup, kind: str) -> None:
    foreign = await at.cluster.place(kind, {"metadata": {"name": at.name, "labels": {"app": "theirs"}}, "data": {}})
    with pytest.raises(LaunchRejected, match="not ours"):
        await at.launcher.launch(at.scan)
    await at.launcher.stop(at.scan.scan_id)
    assert at.cluster.find(kind, at.name) == foreign


async def test_the_secret_of_a_former_job_is_not_taken_for_the_new_ones(at: Setup) -> None:
    await at.launcher.launch(at.scan)
    old = at.cluster.objects.pop(("jobs", NAMESPACE, at.name))
    with pytest.raises(TryLater):
        await at.launcher.launch(at.scan)
    await at.launcher.launch(at.scan)
    job, secret = at.cluster.find("jobs", at.name), at.cluster.find("secrets", at.name)
    assert job is not None
    assert secret is not None
    assert secret["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"] != old["metadata"]["uid"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        pytest.param({"status": 403, "message": QUOTA, "reason": "Forbidden"}, CapacityExceeded, id="quota"),
        pytest.param({"status": 429, "message": "too many", "headers": {"Retry-After": "7"}}, TryLater, id="429"),
        pytest.param({"status": 500, "message": "etcdserver: request timed out"}, TryLater, id="500"),
        pytest.param({"status": 503, "message": "unavailable"}, TryLater, id="503"),
        pytest.param({"status": 504, "message": "timeout"}, TryLater, id="504"),
        pytest.param({"status": 401, "message": "Unauthorized"}, TryLater, id="401"),
        pytest.param({"status": 404, "message": 'namespaces "scans" not found'}, TryLater, id="no namespace"),
        pytest.param({"drop": True}, TryLater, id="reset"),
        pytest.param({"delay_s": 2.0}, TryLater, id="slow"),
        pytest.param({"status": 422, "message": "Job.batch is invalid: spec"}, LaunchRejected, id="422"),
        pytest.param(
            {"status": 403, "message": "cannot create resource jobs", "reason": "Forbidden"}, LaunchRejected, id="403"
        ),
        pytest.param({"status": 400, "message": "strict decoding error"}, LaunchRejected, id="400"),
    ],
)
@pytest.mark.parametrize("kind", ["jobs", "secrets"])
async def test_answers_are_sorted_by_whether_trying_again_can_help(
    at: Setup, kind: str, fault: dict[str, Any], expected: type[Exception]
) -> None:
    at.cluster.fail("POST", kind, **fault)
    launcher = at.impatient if "delay_s" in fault else at.launcher
    with pytest.raises(expected) as raised:
        await launcher.launch(at.scan)
    assert isinstance(raised.value, CapacityExceeded) == (expected is CapacityExceeded)
    if isinstance(raised.value, TryLater):
        assert raised.value.after_s == (7.0 if fault.get("headers") else raised.value.after_s)
        await at.launcher.launch(at.scan)
    else:
        assert isinstance(raised.value, LaunchRejected)
        assert fault["message"] in str(raised.value)
        assert raised.value.is_final == (fault["status"] != 403)


async def test_a_job_that_was_made_although_the_answer_was_lost_is_found(at: Setup) -> None:
    at.cluster.fail("POST", "jobs", drop=True, after=True)
    with pytest.raises(TryLater):
        await at.launcher.launch(at.scan)
    assert await at.launcher.launch(at.scan) == at.name
    assert at.cluster.find("secrets", at.name) is not None


async def test_stop_deletes_job_and_secret_and_may_be_repeated(at: Setup) -> None:
    await at.launcher.stop(at.scan.scan_id)
    await at.launcher.launch(at.scan)
    other = a_queued_scan()
    await at.launcher.launch(other)
    await at.launcher.stop(at.scan.scan_id)
    await at.launcher.stop(at.scan.scan_id)
    assert {key[2] for key in at.cluster.objects} == {f"skyscan-{other.scan_id}"}


async def test_stop_deletes_the_secret_although_there_is_nothing_to_say_about_the_job(at: Setup) -> None:
    await at.launcher.launch(at.scan)
    at.cluster.fail("DELETE", "jobs", 404, "the server could not find the requested resource")
    await at.launcher.stop(at.scan.scan_id)
    assert at.cluster.find("secrets", at.name) is None


async def test_stop_says_so_when_it_could_not(at: Setup) -> None:
    await at.launcher.launch(at.scan)
    for fault in ({"status": 503}, {"drop": True, "times": 2}, {"status": 403, "message": "no right"}):
        at.cluster.fail("DELETE", "jobs", **fault)
        with pytest.raises(TryLater):
            await at.launcher.stop(at.scan.scan_id)
    await at.launcher.stop(at.scan.scan_id)
    assert not at.cluster.objects


async def test_what_is_there_is_read_page_by_page_and_only_ours(at: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skydriver_dispatcher.adapters.kubernetes.list_watch._PAGE_SIZE", 2)
    scans = [a_queued_scan() for _ in range(5)]
    await asyncio.gather(*(at.launcher.launch(scan) for scan in scans))
    await at.cluster.place("jobs", {"metadata": {"name": "theirs", "labels": {"app": "scanner-instance"}}})
    job = at.cluster.objects["jobs", NAMESPACE, f"skyscan-{scans[0].scan_id}"]
    job["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    assert await at.launcher.running_scans() == {scan.scan_id: scan is not scans[0] for scan in scans}
    assert at.cluster.count("GET", "jobs") == 3


async def test_no_secret_is_in_any_job(at: Setup) -> None:
    await at.launcher.launch(at.scan)
    assert f"token-of-{at.scan.scan_id}" not in str(at.cluster.find("jobs", at.name))
    assert JOBS.instance in str(at.cluster.find("jobs", at.name))
