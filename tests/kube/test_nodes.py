"""The played nodes do what real ones do, as far as the other tests count on it."""

import uuid
from typing import Any

import pytest

from tests.support.kube.api import Api, Object, eventually


def _job(image: str = "example/image:v1") -> Object:
    locked: Object = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "main", "image": image, "securityContext": locked}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"job-{uuid.uuid4().hex[:8]}"},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }


async def _pod(api: Api, namespace: str, job: Object) -> Object | None:
    pods = await api.list("Pod", namespace, f"batch.kubernetes.io/job-name={job['metadata']['name']}")
    return pods[0] if pods else None


async def _condition(api: Api, namespace: str, job: Object) -> dict[str, Any] | None:
    now = await api.get("Job", namespace, job["metadata"]["name"])
    assert now is not None
    return next(
        (
            each
            for each in now["status"].get("conditions", [])
            if each["type"] in ("Complete", "Failed") and each["status"] == "True"
        ),
        None,
    )


@pytest.mark.parametrize(
    ("fate", "ends", "state"),
    [
        ({"tests/exit-code": "0"}, "Complete", {"exitCode": 0, "reason": "Completed"}),
        ({"tests/exit-code": "137", "tests/exit-reason": "OOMKilled"}, "Failed", {"exitCode": 137, "reason": "OOMKilled"}),
        ({"tests/evicted": "low on memory"}, "Failed", {"exitCode": 137, "reason": "ContainerStatusUnknown"}),
    ],
)  # fmt: skip
async def test_a_pod_runs_and_ends_as_told(
    api: Api, namespace: str, fate: dict[str, str], ends: str, state: dict[str, Any]
) -> None:
    job = await api.create(_job(), namespace=namespace)

    async def running() -> Object | None:
        pod = await _pod(api, namespace, job)
        return pod if pod and pod["status"]["phase"] == "Running" else None

    pod = await eventually(running, "the pod runs")
    await api.patch("Pod", namespace, pod["metadata"]["name"], {"metadata": {"annotations": fate}})
    condition = await eventually(lambda: _condition(api, namespace, job), "the job ends")
    assert condition["type"] == ends
    ended = await _pod(api, namespace, job)
    assert ended is not None
    terminated = ended["status"]["containerStatuses"][0]["state"]["terminated"]
    assert {name: terminated[name] for name in state} == state


async def test_an_image_that_is_missing(api: Api, namespace: str) -> None:
    job = await api.create(_job("example/image:missing"), namespace=namespace)

    async def reason() -> str:
        pod = await _pod(api, namespace, job)
        statuses = pod["status"].get("containerStatuses", []) if pod else []
        return str(statuses[0]["state"]["waiting"]["reason"]) if statuses else ""

    assert await eventually(reason, "the container waits") == "ImagePullBackOff"


async def test_a_deleted_job_takes_its_pods_along(api: Api, namespace: str) -> None:
    job = await api.create(_job(), namespace=namespace)
    await eventually(lambda: _pod(api, namespace, job), "the job has a pod")
    await api.delete("Job", namespace, job["metadata"]["name"], propagationPolicy="Foreground")

    async def gone() -> bool:
        return await _pod(api, namespace, job) is None and await api.get("Job", namespace, job["metadata"]["name"]) is None

    await eventually(gone, "job and pod are gone")
