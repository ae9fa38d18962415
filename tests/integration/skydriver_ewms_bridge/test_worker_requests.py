"""More workers, once per request, whatever gets lost on the way."""

import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from skydriver_common.model import events as ev
from skydriver_common.model.commands import AddWorkers, Context
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Code, Reply
from skydriver_ewms_bridge.due_kinds import DueKind
from skydriver_ewms_bridge.ewms_types import TaskDirective
from tests.support.bridge import Bridge, a_bridge, a_context
from tests.support.fake_ewms import AWAY, LATE, LOST, NOTHING, FakeEwms


async def ask(bridge: Bridge, scan_id: ScanId, context: Context | None = None, **changes: Any) -> Reply:
    command = AddWorkers(**{"scan_id": scan_id, "n_workers": 7, "cluster_location": "local", **changes})
    return await bridge.additions.add_workers(command, context or a_context())


def batches(ewms: FakeEwms) -> int:
    return len([t for ts in ewms.taskforces.values() for t in ts if t.n_workers == 7])


async def test_workers_are_added_to_the_task_of_their_cluster(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    reply = await ask(bridge, scan_id)

    added = ewms.taskforces[ewms.live()[0]][-1]
    assert orjson.loads(reply.body) == {"taskforce_uuid": added.taskforce_uuid, "n_workers": 7}
    assert added.task_id.endswith("-1"), "the second task is the one for `local`"
    assert (await bridge.types(scan_id))[-1] == "scan.workers-added"


async def test_a_redelivered_command_gets_the_same_answer(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    context = a_context()

    assert await ask(bridge, scan_id, context) == await ask(bridge, scan_id, context)
    assert batches(ewms) == 1


async def test_two_requests_of_the_same_shape_are_two_batches(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()

    assert await ask(bridge, scan_id) != await ask(bridge, scan_id)
    assert batches(ewms) == 2


async def test_a_repeat_after_a_lost_answer_gets_the_batch_that_was_made(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    ewms.faults.extend([None, None, LOST])
    failed = await ask(bridge, scan_id)
    again = await ask(bridge, scan_id)

    assert failed.code == Code.EWMS_FAILED
    assert again.is_done
    assert batches(ewms) == 1
    assert (await ask(bridge, scan_id)).is_done
    assert batches(ewms) == 2, "and the one after that is a new request"


async def test_a_batch_found_in_the_background_is_told_to_the_next_who_asks(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    ewms.faults.extend([None, None, LATE])
    await ask(bridge, scan_id)
    await bridge.work(DueKind.ADDITIONS, until_s=10)
    ewms.come_true()
    await bridge.work(DueKind.ADDITIONS, until_s=10)
    assert (await bridge.types(scan_id)).count("scan.workers-added") == 1

    assert (await ask(bridge, scan_id)).is_done
    assert batches(ewms) == 1
    assert (await bridge.types(scan_id)).count("scan.workers-added") == 1


async def test_nothing_is_asked_again_while_a_lost_request_may_still_come_true(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    ewms.faults.extend([None, None, NOTHING])
    for _ in range(3):
        assert (await ask(bridge, scan_id)).code == Code.EWMS_FAILED
    assert ewms.calls.count("add") == 1

    await bridge.pool.execute("UPDATE ewms_additions SET attempted_at = attempted_at - interval '2000 s'")
    assert (await ask(bridge, scan_id)).is_done
    assert batches(ewms) == 1


async def test_ewms_away_is_no_fault_of_the_users_and_may_be_repeated(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    context = a_context()
    for faults in ([AWAY], [None, AWAY], [None, None, AWAY]):
        ewms.faults.extend(faults)
        reply = await ask(bridge, scan_id, context)
        assert (reply.code, "admins" in reply.reason, "EWMS" in reply.reason) == (Code.EWMS_FAILED, True, True)

    assert (await ask(bridge, scan_id, context)).is_done
    assert batches(ewms) == 1


async def test_a_request_that_was_dropped_while_ewms_took_its_time_is_not_sent(
    bridge: Bridge, ewms: FakeEwms, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_id = await bridge.running()
    directives = ewms.task_directives

    async def slow_directives(workflow_id: str) -> tuple[TaskDirective, ...]:
        await bridge.work(DueKind.ADDITIONS, until_s=100)  # another replica finds that nobody holds it and nothing was asked
        return await directives(workflow_id)

    monkeypatch.setattr(ewms, "task_directives", slow_directives)
    assert (await ask(bridge, scan_id)).code == Code.EWMS_FAILED
    assert batches(ewms) == 0, "nobody would look for its workers"
    monkeypatch.undo()
    assert (await ask(bridge, scan_id)).is_done
    assert batches(ewms) == 1


async def test_an_answer_too_late_for_its_caller_is_kept_for_the_repeat(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    ewms.faults.extend([None, None, LOST])
    await ask(bridge, scan_id, a_context(deadline=time.time() + 3))
    await bridge.work(DueKind.ADDITIONS, until_s=10)

    assert (await ask(bridge, scan_id)).is_done
    assert batches(ewms) == 1


@pytest.mark.parametrize("state", ["unknown", "deleted", "no-workflow", "final", "ended", "capped"])
async def test_what_forbids_workers_is_said_without_asking_ewms(bridge: Bridge, ewms: FakeEwms, state: str) -> None:
    scan_id = await (bridge.new_scan() if state == "no-workflow" else bridge.running())
    changes: dict[str, Any] = {}
    if state == "deleted":
        await bridge.append("dispatcher", scan_id, ev.ScanDeleted())
    elif state == "final":
        await bridge.append("progress", scan_id, ev.ResultReceived(digest="sha256:1", size_bytes=1, is_final=True))
    elif state == "ended":
        await ewms.abort(ewms.live()[0])
        await bridge.workforces.refresh()
    elif state == "capped":
        scan_id = await bridge.launched_scan(debug_mode=["client-logs"])
        await bridge.usecases.assign_own(scan_id, "WF-0001", "http://ewms.example")
        changes = {"debug_cap": 5}
    elif state == "unknown":
        scan_id = ScanId("18e0f1a2b3cx4f5e6d7c8b9a01234567")
    ewms.calls.clear()

    reply = await ask(bridge, scan_id, **changes)

    assert reply.code == {
        "unknown": Code.SCAN_UNKNOWN, "deleted": Code.SCAN_IS_DELETED, "no-workflow": Code.WORKFLOW_IS_MISSING,
        "final": Code.SCAN_HAS_FINAL_RESULT, "ended": Code.WORKFLOW_HAS_ENDED, "capped": Code.TOO_MANY_DEBUG_WORKERS,
    }[state]  # fmt: skip
    assert ewms.calls == []


async def test_what_ewms_refuses_is_recorded_and_leaves_nothing_open(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    context = a_context()
    ewms.refuses = "unknown cluster"

    assert (await ask(bridge, scan_id, context, cluster_location="mars")).code == Code.CLUSTER_REFUSED
    ewms.refuses = ""
    assert (await ask(bridge, scan_id, context, cluster_location="mars")).code == Code.CLUSTER_REFUSED
    await ewms.abort(ewms.live()[0])
    assert (await ask(bridge, scan_id)).code == Code.WORKFLOW_HAS_ENDED
    assert await bridge.pool.fetchval("SELECT count(*) FROM ewms_additions") == 0


async def test_the_scan_in_sum_may_not_have_more_workers_than_the_limit(database: str, tmp_path: Path, ewms: FakeEwms) -> None:
    """The request asks for 12 workers."""
    async with a_bridge(database, tmp_path, ewms, max_workers_per_scan=30, max_workers_per_cluster={"local": 12}) as bridge:
        scan_id = await bridge.running()
        assert (await ask(bridge, scan_id, n_workers=10, cluster_location="osg")).is_done
        refused = await ask(bridge, scan_id, n_workers=9, cluster_location="osg")
        assert refused.code == Code.TOO_MANY_WORKERS
        assert "at most 30 workers per scan" in refused.reason
        assert "at most 12 workers per scan in local" in (await ask(bridge, scan_id, n_workers=11)).reason
        assert (await ask(bridge, scan_id, n_workers=8)).is_done
        assert (await ask(bridge, scan_id, n_workers=1, cluster_location="osg")).code == Code.TOO_MANY_WORKERS


async def test_a_request_without_an_answer_yet_counts_and_its_repeat_does_not(
    database: str, tmp_path: Path, ewms: FakeEwms
) -> None:
    async with a_bridge(database, tmp_path, ewms, max_workers_per_scan=20) as bridge:
        scan_id = await bridge.running()
        ewms.faults.extend([None, None, LOST])
        assert (await ask(bridge, scan_id)).code == Code.EWMS_FAILED
        assert (await ask(bridge, scan_id, n_workers=2)).code == Code.TOO_MANY_WORKERS
        assert (await ask(bridge, scan_id)).is_done
        assert batches(ewms) == 1


async def test_a_stored_request_above_the_limit_stays_and_gets_no_more(database: str, tmp_path: Path, ewms: FakeEwms) -> None:
    async with a_bridge(database, tmp_path, ewms, max_workers_per_scan=11) as bridge:
        scan_id = await bridge.running()
        assert sum(t.n_workers for t in ewms.taskforces[ewms.live()[0]]) == 12
        assert (await ask(bridge, scan_id, n_workers=1)).code == Code.TOO_MANY_WORKERS
