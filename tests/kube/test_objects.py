"""The objects that the dispatcher makes, judged by the API server: strict validation, and admission of their pods."""

from dataclasses import replace
from typing import Any

import pytest
from kubernetes_asyncio.client import ApiClient

from skydriver_common.model.scan import Scan
from skydriver_dispatcher.jobspec import WORKING_DIR, JobSettings, job_of, secret_of
from skydriver_dispatcher.scanner_environment import scanner_environment
from tests.support.kube.api import Api, ApiError, Object
from tests.support.launchers import JOBS, a_queued_scan

FULL = JobSettings(
    namespace="", instance="Sky_Driver.1", upload_image="registry.example.org/skydriver@sha256:" + "0" * 64, service_account="scanner",
    user_id=65534, priority_class="low", urgent_priority_class="high", spread_over="topology.kubernetes.io/zone",
    node_selector={"kubernetes.io/arch": "amd64"}, deadline_s=60, keep_finished_s=60,
)  # fmt: skip
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "long tag": {"docker_tag": "t" * 128},
    "tag of a commit": {"docker_tag": "eqscan-6207146_.x-"},
    "negative priority": {"priority": -5},
    "urgent": {"priority": 2**31 - 1},
    "much memory": {"scanner_server_memory_bytes": 2**40},
    "environment": {"scanner_server_env_from_user": {"A": "$(PATH) $$ ä\n", "B_1": True, "C": 1.5, "D": None, "E": ""}},
    "many nsides": {"nsides": {"8": 0, "64": 12, "512": 24}},
}


async def _make(api: Api, namespace: str, scan: Scan, settings: JobSettings) -> tuple[Object, Object]:
    """Job and Secret as they go over the wire."""
    environment = scanner_environment(
        scan, address="https://skydriver.example.org", profile_path="/common-space/ewms.json", working_dir=WORKING_DIR, bus={},
        forwarded={"SKYSCAN_LOG": "INFO"},
    )  # fmt: skip
    async with ApiClient() as client:
        job = client.sanitize_for_serialization(job_of(scan, settings, environment))
        secret = client.sanitize_for_serialization(secret_of(scan, settings, job_uid="1", token="a token"))
    return job, secret


@pytest.mark.parametrize("settings", [JOBS, FULL], ids=["default settings", "all settings"])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_what_is_made_is_valid_and_admitted_where_pods_are_restricted(
    api: Api, namespace: str, settings: JobSettings, request_: dict[str, Any]
) -> None:
    settings = replace(settings, namespace=namespace)
    if settings.service_account:
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": settings.service_account}}
        await api.create(account, namespace=namespace)
    for value, name in enumerate((settings.priority_class, settings.urgent_priority_class)):
        if name:
            thing = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value}
            try:
                await api.create(thing)
            except ApiError as error:
                if error.status != 409:  # of an earlier test
                    raise
    job, secret = await _make(api, namespace, a_queued_scan(**request_), settings)
    made = await api.create(job, namespace=namespace, dry_run=True)
    await api.create(secret, namespace=namespace, dry_run=True)
    template = made["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", **template["metadata"]}, "spec": template["spec"]}
    admitted = await api.create(pod, namespace=namespace, dry_run=True)
    assert not any("serviceAccountToken" in str(volume) for volume in admitted["spec"]["volumes"])
    scanner = admitted["spec"]["containers"][0]
    assert scanner["resources"]["limits"]["memory"]
    assert admitted["spec"]["initContainers"][0]["restartPolicy"] == "Always", "the upload is a sidecar"


async def test_the_namespace_does_refuse_what_is_not_restricted(api: Api, namespace: str) -> None:
    pod: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    with pytest.raises(ApiError, match="violates PodSecurity"):
        await api.create(pod, namespace=namespace, dry_run=True)
