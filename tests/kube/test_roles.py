"""The shipped Roles are enough, and every right in them is needed: each is taken away in turn."""

import asyncio
import copy
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration

from skydriver_common.faults import TryLater
from skydriver_common.kubernetes import names
from skydriver_common.model.ids import ScanId
from skydriver_dispatcher.adapters.kubernetes.job_informer import JobInformer
from skydriver_dispatcher.adapters.kubernetes.lease import Leadership
from skydriver_dispatcher.pending_events import PendingEvents
from skydriver_dispatcher.ports import LaunchRejected
from skydriver_ewms_bridge.adapters.profile_secrets import ProfileSecrets
from skydriver_ewms_bridge.ewms_types import StartupUpload
from tests.support.kube.api import Api, eventually
from tests.support.kube.control_plane import ControlPlane
from tests.support.kube.manifests import DEPLOY
from tests.support.kube.rights import grant, role_of
from tests.support.launchers import JOBS, a_queued_scan, kubernetes_launcher

WATCHED = ("jobs", "pods", "events")


class Right(NamedTuple):
    """A verb on a resource, as Roles name them."""

    verb: str
    resource: str


def _shipped(account: str) -> list[Right]:
    documents = yaml.safe_load_all((DEPLOY / "base" / "scans" / "roles.yaml").read_text())
    (role,) = [each for each in documents if (each["kind"], each["metadata"]["name"]) == ("Role", account)]
    return list(_rights(role["rules"]))


def _rights(rules: list[dict[str, Any]]) -> Iterator[Right]:
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        yield from (Right(verb, resource) for resource in rule["resources"] for verb in rule["verbs"])


def _without(rules: list[dict[str, Any]], right: Right) -> list[dict[str, Any]]:
    """The same rights but one, a rule per resource."""
    left = []
    for rule in copy.deepcopy(rules):
        for resource in rule["resources"]:
            verbs = [verb for verb in rule["verbs"] if Right(verb, resource) != right]
            if verbs:
                left.append({**rule, "resources": [resource], "verbs": verbs})
    return left


DISPATCHER, BRIDGE = "skydriver-dispatcher", "skydriver-ewms-bridge"


@asynccontextmanager
async def _client(kubeconfig: Path) -> AsyncIterator[ApiClient]:
    configuration = Configuration()
    await config.load_kube_config(str(kubeconfig), client_configuration=configuration, persist_config=False)
    async with ApiClient(configuration) as client:
        yield client


async def _all_that_the_dispatcher_does(plane: ControlPlane, api: Api, client: ApiClient, namespace: str) -> None:
    """Launch, launch again, launch beside what a former Job has left, look, lead, watch, stop."""
    settings = replace(JOBS, namespace=namespace)
    launcher = kubernetes_launcher(client, PendingEvents(), settings, timeout_s=10)
    scan = a_queued_scan()
    secret = names.secret_name(scan.scan_id)
    for _ in range(2):
        with suppress(TryLater, LaunchRejected):
            await launcher.launch(scan)
    if (left := await api.get("Secret", namespace, secret)) is not None:
        await api.delete("Secret", namespace, secret)
        left["metadata"] = {"name": secret, "labels": left["metadata"]["labels"]}  # as if nobody owned it
        await api.create(left, namespace=namespace)
        with suppress(TryLater, LaunchRejected):
            await launcher.launch(scan)
    with suppress(TryLater):
        await launcher.running_scans()
    leadership = Leadership(client, namespace=namespace, name="skydriver-dispatcher-tests", holder="me", lease_s=3)
    watch = JobInformer(client, settings, leadership, PendingEvents(), on_listed=lambda: None)
    stopping = asyncio.Event()
    watching = asyncio.create_task(watch.run(stopping))

    async def seen() -> bool:
        calls = plane.calls(namespace)
        watched = {call.resource for call in calls if call.verb == "watch" and call.status == 200}
        renewed = any((call.verb, call.resource) == ("update", "leases") for call in calls)
        return (renewed and watched >= set(WATCHED)) or any(call.status == 403 for call in calls)

    await eventually(seen, "everything is watched, or something is forbidden")
    stopping.set()
    await watching
    with suppress(TryLater):
        await launcher.stop(scan.scan_id)


async def _all_that_the_bridge_does(api: Api, client: ApiClient, namespace: str) -> None:
    """Put both keys into a scan's Secret, and take them away."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": names.secret_name(ScanId("1"))}}
    await api.create(secret, namespace=namespace)
    profiles = ProfileSecrets(client, namespace=namespace)
    with suppress(TryLater):
        await profiles.put_upload(ScanId("1"), StartupUpload(method="PUT", url="https://store/object"))
        await profiles.put_profile(ScanId("1"), {"toclient": {}})
        await profiles.remove(ScanId("1"))


async def _exercise(
    plane: ControlPlane, api: Api, namespace: str, account: str, rules: list[dict[str, Any]] | None = None
) -> tuple[set[Right], set[Right]]:
    """Let a service do all that it does; the rights it used, and those that it lacked."""
    kubeconfig = await grant(plane, api, namespace, account, rules=rules)
    async with _client(kubeconfig) as client:
        if account == DISPATCHER:
            await _all_that_the_dispatcher_does(plane, api, client, namespace)
        else:
            await _all_that_the_bridge_does(api, client, namespace)
    calls = plane.calls(namespace)
    lacked = {Right(call.verb, call.resource) for call in calls if call.status == 403}
    return {Right(call.verb, call.resource) for call in calls} - lacked, lacked


@pytest.mark.parametrize("account", [DISPATCHER, BRIDGE])
async def test_the_shipped_role_is_exactly_what_is_used(
    control_plane: ControlPlane, api: Api, namespace: str, account: str
) -> None:
    used, lacked = await _exercise(control_plane, api, namespace, account)
    assert lacked == set()
    assert used == set(_shipped(account))


@pytest.mark.parametrize(
    ("account", "right"),
    [pytest.param(account, right, id=f"{account}: {' '.join(right)}") for account in (DISPATCHER, BRIDGE) for right in _shipped(account)],
)  # fmt: skip
async def test_every_right_is_needed(control_plane: ControlPlane, api: Api, namespace: str, account: str, right: Right) -> None:
    rules = _without(role_of(control_plane, account)["rules"], right)
    _, lacked = await _exercise(control_plane, api, namespace, account, rules)
    assert lacked == {right}


async def test_the_services_own_secrets_are_out_of_reach(control_plane: ControlPlane, api: Api, namespace: str) -> None:
    kubeconfig = await grant(control_plane, api, namespace, DISPATCHER)
    asked = [
        *(["get", "secrets", f"--namespace={other}"] for other in ("skydriver", "kube-system")),
        ["create", "pods"], ["create", "pods/exec"], ["list", "secrets"], ["patch", "secrets"], ["create", "rolebindings"],
        ["list", "nodes"], ["delete", "pods"],
    ]  # fmt: skip
    for question in asked:
        answer = control_plane.kubectl("auth", "can-i", *question, f"--kubeconfig={kubeconfig}", check=False)
        assert answer.stdout.strip() == "no", question
    assert control_plane.kubectl("auth", "can-i", "create", "jobs", f"--kubeconfig={kubeconfig}").stdout.strip() == "yes"
