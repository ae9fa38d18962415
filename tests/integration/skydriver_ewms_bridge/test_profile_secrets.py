"""The hand-over of credentials through a scan's Secret."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.adapters.profile_secrets import ProfileSecrets
from skydriver_ewms_bridge.ewms_types import StartupUpload
from tests.support.kmock_cluster import NAMESPACE, Cluster, a_cluster

PROFILE: dict[str, Any] = {"toclient": {"name": "a1", "auth_token": "t"}}


@pytest.fixture
async def at(limit_s: float) -> AsyncIterator[tuple[Cluster, ProfileSecrets]]:
    async with a_cluster() as (cluster, client):
        await cluster.place("secrets", {"metadata": {"name": "skyscan-1"}, "data": {"scan-token": "eA=="}})
        yield cluster, ProfileSecrets(client, namespace=NAMESPACE, timeout_s=limit_s)


def content(cluster: Cluster) -> dict[str, Any]:
    secret = cluster.find("secrets", "skyscan-1")
    assert secret is not None
    return {key: base64.b64decode(value) for key, value in secret["data"].items()}


async def test_both_keys_are_added_and_the_token_stays(at: tuple[Cluster, ProfileSecrets]) -> None:
    cluster, sink = at
    await sink.put_upload(ScanId("1"), StartupUpload("https://s3.example/put"))
    await sink.put_profile(ScanId("1"), {"version": 1})
    await sink.put_profile(ScanId("1"), PROFILE)
    found = content(cluster)
    assert found["scan-token"] == b"x"
    assert json.loads(found["startup-upload.json"]) == {"method": "PUT", "url": "https://s3.example/put"}
    assert json.loads(found["ewms.json"]) == PROFILE


async def test_taking_back_may_be_repeated_and_leaves_the_token(at: tuple[Cluster, ProfileSecrets]) -> None:
    cluster, sink = at
    await sink.put_profile(ScanId("1"), PROFILE)
    await sink.remove(ScanId("1"))
    await sink.remove(ScanId("1"))
    await sink.remove(ScanId("never-there"))
    assert content(cluster) == {"scan-token": b"x"}


async def test_without_a_secret_it_is_tried_again(at: tuple[Cluster, ProfileSecrets]) -> None:
    _, sink = at
    with pytest.raises(TryLater):
        await sink.put_profile(ScanId("2"), PROFILE)


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 403, "message": "no right"}, {"drop": True}, "hang"], ids=str)
async def test_without_an_answer_it_is_tried_again_and_nothing_is_told(at: tuple[Cluster, ProfileSecrets], fault: Any) -> None:
    cluster, sink = at
    how = {"delay_s": 3.0} if fault == "hang" else fault
    cluster.fail("PATCH", "secrets", **how)
    with pytest.raises(TryLater) as raised:
        await sink.put_profile(ScanId("1"), PROFILE)
    assert "auth_token" not in str(raised.value)
    cluster.fail("PATCH", "secrets", **how)
    with pytest.raises(TryLater):
        await sink.remove(ScanId("1"))
    await sink.put_profile(ScanId("1"), PROFILE)
    assert json.loads(content(cluster)["ewms.json"]) == PROFILE


async def test_no_secret_is_ever_read(at: tuple[Cluster, ProfileSecrets]) -> None:
    cluster, sink = at
    await sink.put_profile(ScanId("1"), PROFILE)
    await sink.remove(ScanId("1"))
    assert {(method, kind) for method, kind, _ in cluster.calls} == {("PATCH", "secrets")}
