"""Scans on a real control plane, from their request to every kind of end. The dispatcher has exactly the shipped Role."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from skydriver_common.kubernetes.client import open_client
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.adapters.profile_secrets import ProfileSecrets
from skydriver_ewms_bridge.ewms_types import StartupUpload
from tests.support.kube.api import Api, ApiError, eventually
from tests.support.kube.control_plane import ControlPlane
from tests.support.kube.installation import Installation
from tests.support.kube.rights import grant

Act = Callable[[Installation, ScanId], Awaitable[None]]


async def test_from_the_request_to_the_result(installation: Installation) -> None:
    await installation.start()
    scan_id = await installation.submit(scanner_server_env_from_user={"MY_NAME": "my $(PATH) value"})
    await installation.running_pod(scan_id)
    job = await installation.job(scan_id)
    assert job is not None
    secret = await installation.api.get("Secret", installation.namespace, f"skyscan-{scan_id}")
    assert secret is not None
    assert [owner["uid"] for owner in secret["metadata"]["ownerReferences"]] == [job["metadata"]["uid"]]
    assert "eyJ" not in json.dumps(job)  # how every token begins

    await installation.put_final_result(scan_id)
    await installation.give_end(scan_id, exit_code="0")

    async def complete() -> bool:
        conditions = (await installation.job(scan_id) or {}).get("status", {}).get("conditions", [])
        return any(each["type"] == "Complete" and each["status"] == "True" for each in conditions)

    await eventually(complete, "the Job is complete")
    assert (await installation.get(f"/scan/{scan_id}/result"))["is_final"]
    status = await installation.get(f"/scan/{scan_id}/status")
    assert status["problems"] == []
    await installation.delete(scan_id)
    await eventually(lambda: installation.gone(scan_id), "Job, pod and Secret are gone")


async def _delete_job(installation: Installation, scan_id: ScanId) -> None:
    await installation.running_pod(scan_id)
    await installation.api.delete("Job", installation.namespace, f"skyscan-{scan_id}", propagationPolicy="Background")


async def _delete_pod(installation: Installation, scan_id: ScanId) -> None:
    name = await installation.running_pod(scan_id)
    await installation.api.delete("Pod", installation.namespace, name)


def _ends(**annotations: str) -> Act:
    async def act(installation: Installation, scan_id: ScanId) -> None:
        await installation.give_end(scan_id, **annotations)

    return act


async def _crash_loop(installation: Installation, scan_id: ScanId) -> None:
    name = await installation.running_pod(scan_id)
    pod = await installation.api.get("Pod", installation.namespace, name)
    assert pod is not None
    (scanner,) = pod["status"]["containerStatuses"]
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}}
    change = {"status": {"containerStatuses": [scanner | {"state": waiting, "ready": False}]}}
    await installation.api.patch("Pod", installation.namespace, name, change, status=True)


TAKEN: dict[str, Act] = {
    "OOMKilled": _ends(exit_code="137", exit_reason="OOMKilled"),
    "Evicted": _ends(evicted="The node was low on resource: memory."),
    "exit code 143": _ends(exit_code="143"),
    "exit code 137": _ends(exit_code="137"),
    "keeps crashing": _crash_loop,
    "StartError": _ends(exit_code="128", exit_reason="StartError"),
    "Job was deleted": _delete_job,
    "pod": _delete_pod,
}
"""A word of the reason that is told, and what takes the scanner server away."""


async def test_what_was_taken_away_goes_on_as_a_new_scan(installation: Installation) -> None:
    await installation.start()
    scans = {word: await installation.submit() for word in TAKEN}

    async def one(word: str, act: Act) -> None:
        scan_id = scans[word]
        await act(installation, scan_id)
        lost = await installation.event(scan_id, "scan.scanner-lost")
        assert word in lost["reason"], (word, lost)
        new = (await installation.event(scan_id, "scan.replaced"))["by_scan_id"]
        await installation.running_pod(new)
        await eventually(lambda: installation.gone(scan_id), f"nothing is left of the scan that met {word}")
        assert (await installation.get(f"/scan/{scan_id}/manifest"))["scan_id"] == new, "readers are sent to the new scan"

    await asyncio.gather(*(one(word, act) for word, act in TAKEN.items()))


async def test_a_scan_is_replaced_three_times_at_most(installation: Installation) -> None:
    await installation.start()
    scan_id = await installation.submit()
    for _ in range(3):
        await installation.give_end(scan_id, exit_code="137", exit_reason="OOMKilled")
        scan_id = (await installation.event(scan_id, "scan.replaced"))["by_scan_id"]
    await installation.give_end(scan_id, exit_code="137", exit_reason="OOMKilled")
    failed = await installation.event(scan_id, "scan.scanner-failed")
    assert "OOMKilled" in failed["reason"]
    await eventually(lambda: installation.gone(scan_id), "Job, pod and Secret are gone")


async def test_an_end_of_its_own_is_told_and_final(installation: Installation) -> None:
    await installation.start()
    for code in ("1", "2"):
        scan_id = await installation.submit()
        await installation.give_end(scan_id, exit_code=code)
        failed = await installation.event(scan_id, "scan.scanner-failed")
        assert failed["exit_code"] == int(code)
        status = await installation.get(f"/scan/{scan_id}/status")
        assert status["scan_state"].startswith("STOPPED")
        assert [problem["code"] for problem in status["problems"]] == ["scanner-failed"]
        kinds = [event["type"] for event in await installation.events(scan_id)]
        assert "scan.replaced" not in kinds


async def test_a_scan_that_has_used_its_time_up_has_failed_and_is_not_started_once_more(installation: Installation) -> None:
    await installation.start()
    scan_id = await installation.submit()
    await installation.running_pod(scan_id)
    await installation.api.patch(
        "Job", installation.namespace, f"skyscan-{scan_id}", {"spec": {"activeDeadlineSeconds": 1}}
    )  # fmt: skip
    failed = await installation.event(scan_id, "scan.scanner-failed")
    assert "longer than allowed" in failed["reason"]
    assert "scan.replaced" not in [event["type"] for event in await installation.events(scan_id)]


async def test_what_the_job_owns_goes_with_it_without_any_help_of_ours(installation: Installation) -> None:
    await installation.start()
    scan_id = await installation.submit()
    await installation.running_pod(scan_id)
    for replica in [replica for replica in installation.replicas if replica.startswith("dispatcher")]:
        await installation.kill(replica)
    await installation.api.delete("Job", installation.namespace, f"skyscan-{scan_id}", propagationPolicy="Background")
    await eventually(lambda: installation.gone(scan_id), "pod and Secret are gone")


async def test_with_what_the_bridge_adds_the_secret_has_all_that_the_pod_waits_for(
    installation: Installation, control_plane: ControlPlane
) -> None:
    await installation.start()
    scan_id = await installation.submit()
    await installation.event(scan_id, "scan.launched")

    async def keys() -> set[str]:
        secret = await installation.api.get("Secret", installation.namespace, f"skyscan-{scan_id}")
        return set() if secret is None else set(secret["data"])

    job = await installation.job(scan_id)
    assert job is not None
    pod = job["spec"]["template"]["spec"]
    mounted = {item["key"] for volume in pod["volumes"] for item in (volume.get("secret") or {}).get("items", ())}
    variables = [each for container in pod["containers"] + pod["initContainers"] for each in container.get("env", ())]
    read = {each["valueFrom"]["secretKeyRef"]["key"] for each in variables if "secretKeyRef" in each.get("valueFrom", {})}
    assert read
    assert read <= await keys()
    assert not mounted & await keys(), "the pod does not start before EWMS has queues"
    kubeconfig = await grant(control_plane, installation.api, installation.namespace, "skydriver-ewms-bridge")
    async with open_client(str(kubeconfig)) as client:
        sink = ProfileSecrets(client, namespace=installation.namespace)
        await sink.put_upload(scan_id, StartupUpload("http://127.0.0.1/startup.json"))
        await sink.put_profile(scan_id, {"toclient": {}, "fromclient": {}})
    assert mounted | read == await keys()


async def test_an_image_that_cannot_be_pulled_is_told_and_given_up(installation: Installation) -> None:
    await installation.start(scanner_trouble_limit_s=4)
    scan_id = await installation.submit(docker_tag="missing")

    async def stage() -> dict[str, Any] | None:
        told = [event["data"] for event in await installation.events(scan_id) if event["type"] == "scan.scanner-stage-changed"]
        return next((each for each in told if each["code"]), None)

    trouble = await installation.explained(scan_id, eventually(stage, "the trouble is told"))
    assert "ImagePullBackOff" in trouble["text"]
    failed = await installation.event(scan_id, "scan.scanner-failed")
    assert "ImagePullBackOff" in failed["reason"]
    await eventually(lambda: installation.gone(scan_id), "Job, pod and Secret are gone")


async def test_a_lost_node(installation: Installation, api: Api) -> None:
    node: dict[str, Any] = {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": f"doomed-{installation.namespace}", "labels": {"tests/doomed": installation.namespace}},
        "status": {name: {"cpu": "10", "memory": "1Ti", "ephemeral-storage": "1Ti", "pods": "9"} for name in ("capacity", "allocatable")},
    }  # fmt: skip
    await api.create(node)
    await installation.start(scanner_node_selector=json.dumps({"tests/doomed": installation.namespace}))
    scan_id = await installation.submit()
    await installation.running_pod(scan_id)
    await api.delete("Node", "", node["metadata"]["name"])
    lost = await installation.event(scan_id, "scan.scanner-lost", limit_s=150)
    assert "Kubernetes evicted its pod" in lost["reason"], lost
    new = (await installation.event(scan_id, "scan.replaced"))["by_scan_id"]

    async def unschedulable() -> bool:
        problems = (await installation.get(f"/scan/{new}/status"))["problems"]
        return any("no node has room" in problem["text"] for problem in problems)

    await installation.explained(new, eventually(unschedulable, "the status says why the new scan waits"))
    await installation.delete(new)
    await eventually(lambda: installation.gone(new), "Job, pod and Secret are gone")


@pytest.fixture
async def refused_jobs(api: Api, namespace: str) -> AsyncIterator[str]:
    """A rule of the cluster by which no Job is valid in the namespace; its words."""
    words = "the tests take no Job"
    kind = "ValidatingAdmissionPolicy"
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": namespace},
        "spec": {
            "matchConstraints": {
                "resourceRules": [{"apiGroups": ["batch"], "apiVersions": ["v1"], "resources": ["jobs"], "operations": ["CREATE"]}]
            },
            "validations": [{"expression": "false", "message": words}],
        },
    }  # fmt: skip
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": f"{kind}Binding", "metadata": {"name": namespace},
        "spec": {"policyName": namespace, "validationActions": ["Deny"], "matchResources": here},
    }  # fmt: skip
    await api.create(policy)
    await api.create(binding)
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": {"spec": pod}}}

    async def in_force() -> bool:
        try:
            await api.create(job, namespace=namespace, dry_run=True)
        except ApiError as error:
            return (error.status, words in error.message) == (422, True)
        return False

    await eventually(in_force, "the rule is in force")
    yield words
    await api.delete(f"{kind}Binding", "", namespace)
    await api.delete(kind, "", namespace)


async def test_what_the_api_server_never_takes_fails_visibly(installation: Installation, refused_jobs: str) -> None:
    await installation.start()
    scan_id = await installation.submit()
    abandoned = await installation.event(scan_id, "scan.launch-abandoned")
    assert refused_jobs in abandoned["reason"], abandoned
    (problem,) = (await installation.get(f"/scan/{scan_id}/status"))["problems"]
    assert refused_jobs in problem["text"]
    assert (await installation.get("/scans/backlog"))["entries"] == []


async def test_pods_that_are_never_admitted_are_told_and_given_up(installation: Installation) -> None:
    # a Job may name any class of priority; its pods are refused then, for ever
    await installation.start(scanner_priority_class="no-such-class", scanner_trouble_limit_s=6)
    scan_id = await installation.submit()
    await installation.event(scan_id, "scan.launched")

    async def told() -> str:
        problems = (await installation.get(f"/scan/{scan_id}/status"))["problems"]
        return next((problem["text"] for problem in problems if "no-such-class" in problem["text"]), "")

    await installation.explained(scan_id, eventually(told, "the status says why the scan does not start", limit_s=30))
    failed = await installation.event(scan_id, "scan.scanner-failed")
    assert "no-such-class" in failed["reason"]
    await eventually(lambda: installation.gone(scan_id), "Job and Secret are gone")


@pytest.mark.parametrize("when", ["at once", "while it runs"])
async def test_a_deleted_scan_leaves_nothing(installation: Installation, when: str) -> None:
    await installation.start()
    scans = [await installation.submit() for _ in range(5)]
    for scan_id in scans:
        if when == "while it runs":
            await installation.running_pod(scan_id)
        await installation.delete(scan_id)
    for scan_id in scans:
        await installation.explained(scan_id, eventually(partial(installation.gone, scan_id), "all is gone"))
