"""The bridge's use cases against the strict stand-in over HTTP, with each of its faults switched on."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import pytest
from aiohttp import ClientSession, TCPConnector
from pydantic import SecretStr
from yarl import URL

from skydriver_common.model.commands import AddWorkers
from skydriver_common.model.problems import problems_of
from skydriver_ewms.adapters.ewms_rest import EwmsRest
from skydriver_ewms.adapters.oauth2 import ClientCredentials
from skydriver_ewms.adapters.object_store import S3Store, open_store
from skydriver_ewms.decide import startup_object_key
from skydriver_ewms.due import ADDITIONS, AFTERMATH, ASSIGN, DUPLICATES, QUEUES, STOP, TOKENS, WORKFORCE
from skydriver_sandbox import wire
from skydriver_sandbox.events import read_event
from skydriver_sandbox.sample_event import sample_event
from tests.support.bridge import INSTANCE, Bridge, a_bridge, a_context
from tests.support.sandbox_parts import CLIENT_ID, CLIENT_SECRET, S3_KEY_ID, S3_SECRET, Ewms, running_ewms, until


@dataclass
class Pair:
    """One replica of the bridge, and the stand-in it talks to."""

    bridge: Bridge
    sandbox: Ewms
    store: S3Store

    async def live(self, scan_id: str) -> list[str]:
        """Ids of the scan's workflows that are not stopped."""
        query = {"query": {"task_env.SKYDRIVER_SCAN_ID": scan_id}}
        _, found = await self.sandbox.call("POST", "/v1/query/task-directives", query)
        ids = sorted({directive["workflow_id"] for directive in found["task_directives"]})
        workflows = [(await self.sandbox.call("GET", f"/v1/workflows/{workflow_id}"))[1] for workflow_id in ids]
        return [workflow["workflow_id"] for workflow in workflows if workflow["deactivated"] is None]

    async def launched(self, **request: Any) -> str:
        """A scan that wants a workflow."""
        return await self.bridge.launched_scan(**{"request_clusters": [["osg", 10], ["sub-2", 2]], **request})

    async def running(self, **request: Any) -> str:
        """A scan whose queues are handed over."""
        scan_id = await self.launched(**request)
        await self.bridge.work(ASSIGN)

        async def has_queues() -> bool:
            await self.bridge.work(QUEUES, until_s=11)
            return bool((await self.bridge.scan(scan_id)).ewms.queues)

        await until(has_queues)
        return scan_id

    async def problems(self, scan_id: str) -> list[str]:
        """Codes of what is told of the scan after one more look at its workers."""
        await self.bridge.pass_time(WORKFORCE, 61)
        await self.bridge.workforces.refresh()
        return [problem["code"] for problem in problems_of(await self.bridge.scan(scan_id))]


@pytest.fixture
async def pair(database: str, tmp_path: Path, amqp_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    workers = getattr(request, "param", 0)
    async with (
        running_ewms(tmp_path / "sandbox", amqp_url, workers=workers) as sandbox,
        ClientSession() as reads,
        ClientSession(connector=TCPConnector(force_close=True)) as writes,
        open_store(url=sandbox.url, key_id=S3_KEY_ID, secret=SecretStr(S3_SECRET), bucket="startup") as store,
    ):
        credentials = ClientCredentials(reads, issuer=sandbox.url, client_id=CLIENT_ID, client_secret=SecretStr(CLIENT_SECRET))
        ewms = EwmsRest(
            reads,
            writes,
            base_url=sandbox.url,
            credentials=credentials,
            instance=INSTANCE,
            read_timeout_s=5.0,
            write_timeout_s=1.0,
        )
        async with a_bridge(database, tmp_path / "work", ewms, objects=store) as bridge:
            yield Pair(bridge, sandbox, store)


@pytest.mark.parametrize("fault", ["create_hangs", "create_fails", "unavailable", "errors", "garbage", "drops"])
async def test_whatever_befalls_the_request_there_is_one_workflow(pair: Pair, fault: str) -> None:
    scan_id = await pair.launched()
    await pair.sandbox.faults(**{fault: 1})
    for _ in range(6):
        await pair.bridge.work(ASSIGN, until_s=400)
    assert await pair.live(scan_id) == [(await pair.bridge.scan(scan_id)).ewms_workflow_id]
    await pair.bridge.work(DUPLICATES, until_s=2000)
    assert len(await pair.live(scan_id)) == 1


@pytest.mark.parametrize("fault", ["add_hangs", "add_fails", "drops"])
async def test_a_repeat_after_a_lost_answer_gets_the_workers_that_were_added(pair: Pair, fault: str) -> None:
    scan_id = await pair.running()
    workflow_id = (await pair.bridge.scan(scan_id)).ewms_workflow_id
    assert workflow_id is not None
    command = AddWorkers(scan_id=scan_id, n_workers=7, cluster_location="osg")
    await pair.sandbox.faults(**{fault: 1})
    no = await pair.bridge.additions.add_workers(command, a_context(deadline=time.time() + 5))
    assert not no.is_done
    await pair.bridge.work(ADDITIONS, until_s=100)
    yes = await pair.bridge.additions.add_workers(command, a_context(deadline=time.time() + 5))
    assert yes.is_done
    added = [t for t in await pair.sandbox.taskforces(workflow_id) if t["n_workers"] == 7]
    assert len(added) == 1
    assert added[0]["taskforce_uuid"].encode() in yes.body


async def test_queues_that_never_come_are_told_and_given_up_in_the_end(pair: Pair) -> None:
    await pair.sandbox.faults(activation_stuck=True)
    scan_id = await pair.launched()
    await pair.bridge.work(ASSIGN)
    for _ in range(12):
        await pair.bridge.work(QUEUES, until_s=11)
    (waiting,) = problems_of(await pair.bridge.scan(scan_id))
    assert (waiting["code"], "next in line" in waiting["text"]) == ("waiting-for-queues", True)

    await pair.bridge.work(QUEUES, until_s=21_601)
    scan = await pair.bridge.scan(scan_id)
    assert "has not activated the queues" in scan.ewms.refused
    await pair.bridge.work(STOP)
    assert await pair.live(scan_id) == []
    scan = await pair.bridge.scan(scan_id)
    assert scan.state.startswith("ABORTED__")
    assert [problem["code"] for problem in problems_of(scan)] == ["workflow-refused"]


async def test_a_submission_that_fails_three_times_is_told(pair: Pair) -> None:
    await pair.sandbox.faults(submissions_fail=2)
    scan_id = await pair.running()

    async def is_told() -> bool:
        return "submission-failed" in await pair.problems(scan_id)

    await until(is_told)


async def test_workers_brought_back_by_a_race_are_told_to_operators(pair: Pair) -> None:
    await pair.sandbox.faults(activation_race=True)
    scan_id = await pair.launched()
    await pair.bridge.work(ASSIGN)
    await pair.bridge.deleted(scan_id)
    await pair.bridge.work(STOP)
    assert await pair.live(scan_id) == []

    workflow_id = (await pair.bridge.scan(scan_id)).ewms_workflow_id
    assert workflow_id is not None

    async def are_back() -> bool:
        return any(taskforce["phase"] == "condor-submit" for taskforce in await pair.sandbox.taskforces(workflow_id))

    await until(are_back)
    await pair.bridge.work(AFTERMATH, until_s=301)
    (problem,) = problems_of(await pair.bridge.scan(scan_id))
    assert problem["code"] == "workers-came-back"


async def test_queue_tokens_that_end_soon_are_told(pair: Pair) -> None:
    await pair.sandbox.faults(queue_token_lifetime_s=3600.0)
    scan_id = await pair.running()
    ends_at = (await pair.bridge.scan(scan_id)).ewms.tokens_end_at
    assert ends_at == pytest.approx(time.time() + 3600, abs=60)
    await pair.bridge.work(TOKENS)
    assert "queue-tokens-ending" in await pair.problems(scan_id)


@pytest.mark.parametrize("pair", [1], indirect=True)
@pytest.mark.parametrize(
    ("fault", "told"),
    [("fail", "same-error-everywhere"), ("hang", "same-error-everywhere"), ("die", "waiting-for-workers")],
)
async def test_workers_that_fail_hang_or_die_are_told(pair: Pair, fault: str, told: str) -> None:
    await pair.sandbox.faults(worker={fault: 1.0})
    scan_id = await pair.running(request_clusters=[["osg", 1]], max_pixel_reco_time=1)
    await _give_work(pair, scan_id)
    workflow_id = (await pair.bridge.scan(scan_id)).ewms_workflow_id
    assert workflow_id is not None

    async def is_told() -> bool:
        codes = await pair.problems(scan_id)
        worked = any(
            "null" not in pilots
            for t in await pair.sandbox.taskforces(workflow_id)
            for pilots in t["compound_statuses"].values()
        )
        return told in codes and worked

    await until(is_told)
    if told == "same-error-everywhere":
        problem = next(p for p in problems_of(await pair.bridge.scan(scan_id)) if p["code"] == told)
        assert "task failed (exit code" in problem["text"]


async def _give_work(pair: Pair, scan_id: str) -> None:
    """What the scanner would do: the start-up file, and one pixel on the queue."""
    event = read_event(sample_event(), is_real=False)
    url = URL(pair.store.presigned_put(startup_object_key(scan_id)), encoded=True)
    async with aiohttp.ClientSession() as session, session.put(url, data=wire.startup_json(event)) as put:
        assert put.status == 200
    side = pair.bridge.handed_over(scan_id)["ewms.json"]["toclient"]
    user, _, place = side["broker_address"].partition("@")
    task = wire.PixelTask("dummy", "v", 1, 0, 0).as_json({})
    async with await aio_pika.connect(f"amqp://{user}:{side['auth_token']}@{place}") as connection:
        channel = await connection.channel()
        await channel.declare_queue(side["name"], durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(wire.encode(task)), side["name"])
