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
from skydriver_common.model.ids import ScanId
from skydriver_common.model.problems import problems_of
from skydriver_ewms_bridge.adapters.ewms_rest import EwmsRest
from skydriver_ewms_bridge.adapters.oauth2 import ClientCredentials
from skydriver_ewms_bridge.adapters.object_store import S3Store, open_store
from skydriver_ewms_bridge.decide.workflow import startup_object_key
from skydriver_ewms_bridge.due_kinds import WORKFORCE, DueKind
from skydriver_sandbox import ewms_codec
from skydriver_sandbox.events import read_event
from skydriver_sandbox.sample_event import sample_event
from tests.support.bridge import INSTANCE, Bridge, a_bridge, a_context
from tests.support.sandbox_parts import CLIENT_ID, CLIENT_SECRET, S3_KEY_ID, S3_SECRET, Ewms, running_ewms
from tests.support.waiting import until


@dataclass
class Pair:
    """One replica of the bridge, and the stand-in it talks to."""

    bridge: Bridge
    sandbox: Ewms
    store: S3Store

    async def live(self, scan_id: ScanId) -> list[str]:
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
        await self.bridge.work(DueKind.ASSIGN)

        async def has_queues() -> bool:
            await self.bridge.work(DueKind.QUEUES, until_s=11)
            return bool((await self.bridge.scan(ScanId(scan_id))).ewms.queues)

        await until(has_queues)
        return scan_id

    async def problems(self, scan_id: ScanId) -> list[str]:
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
            write_timeout_s=2.0,
        )
        async with a_bridge(database, tmp_path / "work", ewms, objects=store) as bridge:
            yield Pair(bridge, sandbox, store)


@pytest.mark.parametrize("fault", ["create_hangs", "create_fails", "unavailable", "errors", "garbage", "drops"])
async def test_whatever_befalls_the_request_there_is_one_workflow(pair: Pair, fault: str) -> None:
    scan_id = await pair.launched()
    await pair.sandbox.faults(**{fault: 1})
    for _ in range(6):
        await pair.bridge.work(DueKind.ASSIGN, until_s=400)
    assert await pair.live(ScanId(scan_id)) == [(await pair.bridge.scan(ScanId(scan_id))).ewms_workflow_id]
    await pair.bridge.work(DueKind.DUPLICATES, until_s=2000)
    assert len(await pair.live(ScanId(scan_id))) == 1


@pytest.mark.parametrize("fault", ["add_hangs", "add_fails", "drops"])
async def test_a_repeat_after_a_lost_answer_gets_the_workers_that_were_added(pair: Pair, fault: str) -> None:
    scan_id = await pair.running()
    workflow_id = (await pair.bridge.scan(ScanId(scan_id))).ewms_workflow_id
    assert workflow_id is not None
    command = AddWorkers(scan_id=ScanId(scan_id), n_workers=7, cluster_location="osg")
    await pair.sandbox.faults(**{fault: 1})
    no = await pair.bridge.additions.add_workers(command, a_context(deadline=time.time() + 5))
    assert not no.is_done
    await pair.bridge.work(DueKind.ADDITIONS, until_s=100)
    yes = await pair.bridge.additions.add_workers(command, a_context(deadline=time.time() + 5))
    assert yes.is_done
    added = [t for t in await pair.sandbox.taskforces(workflow_id) if t["n_workers"] == 7]
    assert len(added) == 1
    assert added[0]["taskforce_uuid"].encode() in yes.body


async def test_queues_that_never_come_are_told_and_given_up_in_the_end(pair: Pair) -> None:
    await pair.sandbox.faults(activation_stuck=True)
    scan_id = await pair.launched()
    await pair.bridge.work(DueKind.ASSIGN)
    for _ in range(12):
        await pair.bridge.work(DueKind.QUEUES, until_s=11)
    (waiting,) = problems_of(await pair.bridge.scan(ScanId(scan_id)))
    assert (waiting["code"], "next in line" in waiting["text"]) == ("waiting-for-queues", True)

    await pair.bridge.work(DueKind.QUEUES, until_s=21_601)
    scan = await pair.bridge.scan(ScanId(scan_id))
    assert "did not activate the queues" in scan.ewms.refused
    await pair.bridge.work(DueKind.STOP)
    assert await pair.live(ScanId(scan_id)) == []
    scan = await pair.bridge.scan(ScanId(scan_id))
    assert scan.state.startswith("ABORTED__")
    assert [problem["code"] for problem in problems_of(scan)] == ["workflow-refused"]


async def test_a_submission_that_fails_three_times_is_told(pair: Pair) -> None:
    await pair.sandbox.faults(submissions_fail=2)
    scan_id = await pair.running()

    async def is_told() -> bool:
        return "submission-failed" in await pair.problems(ScanId(scan_id))

    await until(is_told)


async def test_workers_brought_back_by_a_race_are_told_to_operators(pair: Pair) -> None:
    await pair.sandbox.faults(activation_race=True, activation_stuck=True)
    scan_id = await pair.launched()
    await pair.bridge.work(DueKind.ASSIGN)
    await pair.bridge.deleted(ScanId(scan_id))
    await pair.bridge.work(DueKind.STOP)
    assert await pair.live(ScanId(scan_id)) == []
    await pair.sandbox.faults(activation_stuck=False)

    workflow_id = (await pair.bridge.scan(ScanId(scan_id))).ewms_workflow_id
    assert workflow_id is not None

    async def are_back() -> bool:
        return any(taskforce["phase"] == "condor-submit" for taskforce in await pair.sandbox.taskforces(workflow_id))

    await until(are_back)
    await pair.bridge.work(DueKind.STOP_VERIFICATION, until_s=301)
    (problem,) = problems_of(await pair.bridge.scan(ScanId(scan_id)))
    assert problem["code"] == "workers-came-back"


async def test_queue_tokens_that_end_soon_are_told(pair: Pair) -> None:
    await pair.sandbox.faults(queue_token_lifetime_s=3600.0)
    scan_id = await pair.running()
    ends_at = (await pair.bridge.scan(ScanId(scan_id))).ewms.tokens_end_at
    assert ends_at == pytest.approx(time.time() + 3600, abs=60)
    await pair.bridge.work(DueKind.TOKENS)
    assert "queue-tokens-ending" in await pair.problems(ScanId(scan_id))


@pytest.mark.parametrize("pair", [1], indirect=True)
@pytest.mark.parametrize(
    ("fault", "told"),
    [("fail", "same-error-everywhere"), ("hang", "same-error-everywhere"), ("die", "waiting-for-workers")],
)
async def test_workers_that_fail_hang_or_die_are_told(pair: Pair, fault: str, told: str) -> None:
    await pair.sandbox.faults(worker={fault: 1.0})
    scan_id = await pair.running(request_clusters=[["osg", 1]], max_pixel_reco_time=1)
    await _give_work(pair, ScanId(scan_id))
    workflow_id = (await pair.bridge.scan(ScanId(scan_id))).ewms_workflow_id
    assert workflow_id is not None

    async def is_told() -> bool:
        codes = await pair.problems(ScanId(scan_id))
        worked = any(
            "null" not in pilots
            for t in await pair.sandbox.taskforces(workflow_id)
            for pilots in t["compound_statuses"].values()
        )
        return told in codes and worked

    await until(is_told)
    if told == "same-error-everywhere":
        problem = next(p for p in problems_of(await pair.bridge.scan(ScanId(scan_id))) if p["code"] == told)
        assert "task failed (exit code" in problem["text"]


async def _give_work(pair: Pair, scan_id: ScanId) -> None:
    """What the scanner would do: the start-up file, and one pixel on the queue."""
    event = read_event(sample_event(), is_real=False)
    url = URL(pair.store.presigned_put(startup_object_key(scan_id)), encoded=True)
    async with aiohttp.ClientSession() as session, session.put(url, data=ewms_codec.startup_json(event)) as put:
        assert put.status == 200
    side = pair.bridge.handed_over(scan_id)["ewms.json"]["toclient"]
    user, _, place = side["broker_address"].partition("@")
    task = ewms_codec.PixelTask("dummy", "v", 1, 0, 0).as_json({})
    async with await aio_pika.connect(f"amqp://{user}:{side['auth_token']}@{place}") as connection:
        channel = await connection.channel()
        await channel.declare_queue(side["name"], durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(ewms_codec.encode(task)), side["name"])


async def test_workers_are_ordered_field_by_field_as_the_scans_request_says(pair: Pair) -> None:
    """What the stand-in has stored, against the table of the REST contract, 9.4."""
    scan_id = await pair.launched(
        request_clusters=[["osg", 3], ["sub-2", 5], ["osg", 4]], docker_tag="4.2.7", max_pixel_reco_time=77, priority=123,
        worker_memory_bytes=5_000_000_001, worker_disk_bytes=2_000_000_003, debug_mode=["client-logs"],
    )  # fmt: skip
    await pair.bridge.work(DueKind.ASSIGN)
    workflow_id = (await pair.bridge.scan(ScanId(scan_id))).ewms_workflow_id
    query = {"query": {"workflow_id": workflow_id}}
    _, workflow = await pair.sandbox.call("GET", f"/v1/workflows/{workflow_id}")
    _, directives = await pair.sandbox.call("POST", "/v1/query/task-directives", query)
    _, taskforces = await pair.sandbox.call("POST", "/v1/query/taskforces", query)

    assert workflow["priority"] == 123
    assert [d["cluster_locations"] for d in directives["task_directives"]] == [["osg"], ["sub-2"]]
    assert [t["n_workers"] for t in taskforces["taskforces"]] == [7, 5]
    image = "/cvmfs/icecube.opensciencegrid.org/containers/realtime/skymap_scanner:4.2.7"
    words = "python -m skymap_scanner.client --infile {{INFILE}} --outfile {{OUTFILE}} --client-startup-json {{DATA_HUB}}/startup.json"
    address = pair.store.presigned_get(startup_object_key(ScanId(scan_id))).partition("?")[0]
    for directive in directives["task_directives"]:
        assert (directive["task_image"], directive["init_image"], directive["task_args"]) == (image, image, words)
        assert directive["task_env"] == {"SKYDRIVER_SCAN_ID": scan_id, "SKYDRIVER_INSTANCE": INSTANCE}
        assert directive["init_args"].startswith("curl --fail ")
        assert " --max-time 1800 " in directive["init_args"]
        assert address in directive["init_args"]
        assert "X-Amz-Expires=604800" in directive["init_args"]
        assert (len(directive["input_queues"]), len(directive["output_queues"])) == (1, 1)
    profiles = {profile["mqid"]: profile["alias"] for profile in await pair.sandbox.profiles(str(workflow_id))}
    assert profiles[directives["task_directives"][0]["input_queues"][0]] == "to-client-queue"
    assert profiles[directives["task_directives"][0]["output_queues"][0]] == "from-client-queue"
    for taskforce in taskforces["taskforces"]:
        assert taskforce["worker_config"] == {
            "do_transfer_worker_stdouterr": True, "max_worker_runtime": 86_400, "n_cores": 1, "priority": 123,
            "worker_disk": 2_000_000_003, "worker_memory": 5_000_000_001,
            "condor_requirements": "HAS_CVMFS_icecube_opensciencegrid_org && has_avx && has_avx2",
        }  # fmt: skip
        assert taskforce["pilot_config"]["environment"] == {
            "EWMS_PILOT_TASK_TIMEOUT": "77", "EWMS_PILOT_QUARANTINE_TIME": "77", "EWMS_PILOT_DUMP_TASK_OUTPUT": "True",
            "EWMS_PILOT_TIMEOUT_QUEUE_INCOMING": "3600", "EWMS_PILOT_INIT_TIMEOUT": "1801", "EWMS_PILOT_CONTAINER_DEBUG": "True",
            "EWMS_PILOT_INFILE_EXT": ".json", "EWMS_PILOT_OUTFILE_EXT": ".json",
        }  # fmt: skip
