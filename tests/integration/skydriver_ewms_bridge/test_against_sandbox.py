"""The adapter and the strict stand-in for EWMS, over HTTP: what we ask is accepted, what it answers is understood."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from yarl import URL

from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.adapters import oauth2
from skydriver_ewms_bridge.adapters.ewms_rest import EwmsRest, open_ewms
from skydriver_ewms_bridge.adapters.object_store import S3Store, open_store
from skydriver_ewms_bridge.decide.queues import all_activated, queue_profile
from skydriver_ewms_bridge.decide.workflow import startup_object_key, task_for_cluster, workflow_spec
from skydriver_ewms_bridge.ewms_types import WorkflowOrder, WorkflowSpec
from skydriver_ewms_bridge.ports import EwmsNotFound, EwmsRejected, OutcomeUnknown, WorkflowEnded
from tests.support.waiting import until, wait_until

ADMIN = "admin-of-the-stand-in"
LIMIT_S = 120.0


@dataclass(frozen=True)
class Sandbox:
    """A running stand-in without workers of its own."""

    url: str

    async def fault(self, **faults: Any) -> None:
        """Let it misbehave."""
        headers = {"Authorization": f"Bearer {ADMIN}"}
        url = f"{self.url}/sandbox/faults"
        async with aiohttp.ClientSession() as session, session.post(url, json=faults, headers=headers) as answer:
            assert answer.status == 200, await answer.text()


@pytest.fixture(scope="module")
def sandbox(amqp_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    home = tmp_path_factory.mktemp("sandbox")
    log = home / "log"
    environment = {
        **os.environ, "SANDBOX_AMQP_URL": amqp_url, "SANDBOX_CLIENT_SECRET": "s3cret", "SANDBOX_S3_SECRET": "s3",
        "SANDBOX_ADMIN_TOKEN": ADMIN, "SANDBOX_PAGE_BYTES": "2000",
    }  # fmt: skip
    words = [sys.executable, "-m", "skydriver_sandbox.ewms", "--port", "0", "--data-dir", str(home / "data"),
             "--max-local-workers", "0"]  # fmt: skip
    with log.open("wb") as sink:
        process = subprocess.Popen(words, env=environment, stdout=sink, stderr=sink)
    try:
        yield Sandbox(_url_in(log, process))
    finally:
        process.terminate()
        process.wait(timeout=600)


def _url_in(log: Path, process: "subprocess.Popen[bytes]") -> str:
    def told() -> "re.Match[str] | None":
        assert process.poll() is None, log.read_text()
        return re.search(r"serving on (\S+)", log.read_text())

    return wait_until(told, LIMIT_S, "the stand-in tells its address")[1]


@pytest.fixture
async def ewms(sandbox: Sandbox) -> AsyncIterator[EwmsRest]:
    async with open_ewms(
        url=sandbox.url, issuer=sandbox.url, client_id="skydriver", client_secret=SecretStr("s3cret"), instance="test",
        write_timeout_s=5.0,
    ) as ewms:  # fmt: skip
        yield ewms


@pytest.fixture
async def store(sandbox: Sandbox) -> AsyncIterator[S3Store]:
    async with open_store(url=sandbox.url, key_id="sandbox", secret=SecretStr("s3"), bucket="startup") as store:
        yield store


def a_spec(scan_id: ScanId, *clusters: tuple[str, int], priority: int = 0) -> WorkflowSpec:
    return workflow_spec(
        WorkflowOrder(
            scan_id=scan_id, instance="test", worker_image="/cvmfs/images/skymap_scanner:4.1.2",
            clusters=clusters or (("osg", 3), ("sub-2", 2), ("osg", 1)), max_pixel_reco_time_s=60, priority=priority,
            worker_memory_bytes=8_000_000_000, worker_disk_bytes=1_000_000_000, startup_url="https://s3.example/x?a=b%2F&c=d",
            is_client_logs=True,
        )
    )  # fmt: skip


async def test_our_request_is_accepted_and_found_by_its_marker(ewms: EwmsRest) -> None:
    workflow = await ewms.create_workflow(a_spec(ScanId("scan-a"), priority=-1))
    await ewms.create_workflow(a_spec(ScanId("scan-b"), priority=500))

    assert [w.workflow_id for w in await ewms.find_workflows_of(ScanId("scan-a"), workflow.timestamp - 300)] == [
        workflow.workflow_id
    ]
    assert await ewms.find_workflows_of(ScanId("scan-a"), workflow.timestamp + 300) == ()
    assert await ewms.find_workflows_of(ScanId("scan-c"), 0.0) == ()
    directives = await ewms.task_directives(workflow.workflow_id)
    osg, sub2 = task_for_cluster(directives, "osg"), task_for_cluster(directives, "sub-2")
    assert osg is not None
    assert sub2 is not None
    taskforces = [t async for page in ewms.find_taskforces([workflow.workflow_id]) for t in page]
    assert {t.task_id: t.n_workers for t in taskforces} == {osg.task_id: 4, sub2.task_id: 2}


async def test_queues_are_activated_and_make_a_profile(ewms: EwmsRest) -> None:
    workflow = await ewms.create_workflow(a_spec(ScanId("scan-q")))
    profiles: Any = ()

    async def are_activated() -> bool:
        nonlocal profiles
        profiles = await ewms.queue_profiles(workflow.workflow_id)
        return bool(all_activated(profiles))

    await until(are_activated)
    profile = queue_profile(profiles)
    assert profile.keys() == {"toclient", "fromclient"}
    assert all(isinstance(side, dict) and side["broker_type"] == "rabbitmq" for side in profile.values())
    assert await ewms.queue_profiles("WF-00000000-00000000") == ()


async def test_a_create_whose_answer_is_lost_is_found(ewms: EwmsRest, sandbox: Sandbox) -> None:
    for number, fault in enumerate(["create_fails", "create_hangs"]):
        await sandbox.fault(**{fault: 1})
        with pytest.raises(OutcomeUnknown):
            await ewms.create_workflow(a_spec(ScanId(f"scan-lost-{number}")))
        assert len(await ewms.find_workflows_of(ScanId(f"scan-lost-{number}"), 0.0)) == 1


async def test_a_workflow_is_stopped_once_and_its_first_word_stays(ewms: EwmsRest) -> None:
    workflow = await ewms.create_workflow(a_spec(ScanId("scan-stop")))
    await ewms.finish(workflow.workflow_id)
    with pytest.raises(EwmsNotFound):
        await ewms.abort(workflow.workflow_id)

    assert (await ewms.get_workflow(workflow.workflow_id)).deactivated == "FINISHED"
    task = (await ewms.task_directives(workflow.workflow_id))[0]
    with pytest.raises(WorkflowEnded):
        await ewms.add_workers(task.task_id, "osg", 1)


async def test_workers_are_added_and_many_pages_are_followed(ewms: EwmsRest) -> None:
    workflow = await ewms.create_workflow(a_spec(ScanId("scan-add"), ("osg", 1)))
    task = (await ewms.task_directives(workflow.workflow_id))[0]
    added = {(await ewms.add_workers(task.task_id, "osg", number)).taskforce_uuid for number in range(2, 7)}

    pages = [page async for page in ewms.find_taskforces([workflow.workflow_id])]
    assert len(pages) > 1, "the stand-in's pages are small"
    assert added < {t.taskforce_uuid for page in pages for t in page}
    raw = [t async for page in ewms.raw_taskforces(workflow.workflow_id) for t in page]
    assert len(raw) == 6
    assert all("submit_dict" in t for t in raw)
    with pytest.raises(EwmsRejected, match="rejected"):
        await ewms.add_workers(task.task_id, "mars", 1)


async def test_a_cluster_that_ewms_does_not_know_is_a_final_refusal(ewms: EwmsRest) -> None:
    with pytest.raises(EwmsRejected):
        await ewms.create_workflow(a_spec(ScanId("scan-mars"), ("mars", 1)))


async def test_tokens_of_seconds_are_renewed_without_a_failure(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    await sandbox.fault(access_token_lifetime_s=1.0)
    fetch, fetched = oauth2.ClientCredentials._fetch, list[object]()

    async def noted(credentials: oauth2.ClientCredentials) -> Any:
        fetched.append(await fetch(credentials))
        return fetched[-1]

    monkeypatch.setattr(oauth2.ClientCredentials, "_fetch", noted)
    async with open_ewms(
        url=sandbox.url, issuer=sandbox.url, client_id="skydriver", client_secret=SecretStr("s3cret"), instance="test"
    ) as ewms:
        workflow = await ewms.create_workflow(a_spec(ScanId("scan-tokens")))

        async def was_renewed() -> bool:
            await ewms.get_workflow(workflow.workflow_id)
            return len(fetched) > 2

        await until(was_renewed, "the token was renewed twice")
    await sandbox.fault(access_token_lifetime_s=None)


async def test_the_start_up_file_passes_through_the_object_store(store: S3Store) -> None:
    key = startup_object_key(ScanId("scan-s3"))
    assert not await store.exists(key)
    async with aiohttp.ClientSession() as session:
        async with session.put(URL(store.presigned_put(key), encoded=True), data=b"{}") as put:
            assert put.status == 200
        async with session.get(URL(store.presigned_get(key), encoded=True)) as got:
            assert await got.read() == b"{}"
    assert await store.exists(key)
