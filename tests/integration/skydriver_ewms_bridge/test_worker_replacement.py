"""Workers that have ended are replaced, where the installation wants that; exactly once, and not where it would not help."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from skydriver_common.model import events as ev
from skydriver_ewms_bridge.decide.worker_replacement import ReplacementPolicy
from skydriver_ewms_bridge.due_kinds import WORKFORCE, DueKind
from tests.support.bridge import Bridge, a_bridge
from tests.support.fake_ewms import AWAY, LATE, LOST, NOTHING, FakeEwms

POLICY = ReplacementPolicy(is_wanted=True, most_times=2, pause_s=0.0)


@pytest.fixture
async def bridge(database: str, tmp_path: Path, ewms: FakeEwms) -> AsyncIterator[Bridge]:
    async with a_bridge(database, tmp_path, ewms, policy=POLICY) as bridge:
        yield bridge


def _end(ewms: FakeEwms, *, left: int = 0) -> None:
    """The ten workers of the first cluster end, all but `left`; the two of the other one work on."""
    workflow_id = ewms.live()[0]
    statuses = {"COMPLETED": {"Done": 10 - left}, **({"RUNNING": {"Tasking": left}} if left else {})}
    ewms.report(workflow_id, phase="condor-submit", cluster_id=1, statuses=statuses)
    second = ewms.taskforces[workflow_id][1]
    ewms.taskforces[workflow_id][1] = replace(second, cluster_id=2, phase="condor-submit", statuses={"RUNNING": {"Tasking": 2}})


async def _look(bridge: Bridge) -> list[str]:
    await bridge.pass_time(WORKFORCE, 61)
    await bridge.workforces.refresh()
    return await bridge.work(DueKind.REPLACEMENT)


def _added(ewms: FakeEwms) -> list[int]:
    return [t.n_workers for t in ewms.taskforces[ewms.live()[0]][2:]]


async def test_workers_that_have_ended_are_replaced_in_their_own_cluster(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    _end(ewms, left=3)
    await _look(bridge)

    added = ewms.taskforces[ewms.live()[0]][2:]
    assert [(t.task_id, t.n_workers) for t in added] == [(ewms.directives[ewms.live()[0]][0].task_id, 7)]
    scan = await bridge.scan(scan_id)
    assert (scan.ewms.n_top_ups, scan.ewms.taskforces_added) == (1, 0)
    await _look(bridge)
    assert _added(ewms) == [7], "those on their way count"


async def test_enough_workers_left_need_no_others(bridge: Bridge, ewms: FakeEwms) -> None:
    await bridge.running()
    _end(ewms, left=5)
    await _look(bridge)
    assert _added(ewms) == []


async def test_there_is_a_limit_per_scan(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    for _ in range(4):
        _end(ewms)
        taskforces = ewms.taskforces[ewms.live()[0]]
        taskforces[2:] = [replace(t, phase="condor-complete", statuses={"COMPLETED": {"Done": 10}}) for t in taskforces[2:]]
        await _look(bridge)
    assert _added(ewms) == [10, 10]
    assert (await bridge.scan(scan_id)).ewms.n_top_ups == 2


@pytest.mark.parametrize("fault", [LOST, LATE, NOTHING])
async def test_a_lost_answer_makes_no_second_batch(bridge: Bridge, ewms: FakeEwms, fault: str) -> None:
    scan_id = await bridge.running()
    _end(ewms)
    ewms.struck["add"] = fault
    await _look(bridge)
    await _look(bridge)
    ewms.come_true()
    await bridge.work(DueKind.ADDITIONS, until_s=100)
    assert ewms.calls.count("add") == 1
    assert (await bridge.scan(scan_id)).ewms.n_top_ups == (0 if fault == NOTHING else 1)
    if fault == NOTHING:
        await bridge.pool.execute("UPDATE ewms_additions SET attempted_at = attempted_at - '2000 s'::interval")
        await bridge.work(DueKind.ADDITIONS, until_s=100)
        await _look(bridge)
        assert _added(ewms) == [10], "then it is asked for again"


async def test_ewms_away_loses_nothing(bridge: Bridge, ewms: FakeEwms) -> None:
    await bridge.running()
    _end(ewms)
    ewms.struck["add"] = AWAY
    assert await _look(bridge) == ["EWMS is not reachable"]
    await bridge.work(DueKind.ADDITIONS, until_s=100)
    await bridge.work(DueKind.REPLACEMENT, until_s=100)
    assert _added(ewms) == [10]


@pytest.mark.parametrize("why", ["same-error", "final", "deleted", "tokens-ended", "stopped"])
async def test_where_more_workers_would_not_help_none_are_added(bridge: Bridge, ewms: FakeEwms, why: str) -> None:
    scan_id = await bridge.running()
    _end(ewms)
    match why:
        case "same-error":
            ewms.report(ewms.live()[0], top_errors={"MemoryError": 12})
        case "final":
            await bridge.append("progress", scan_id, ev.ResultReceived(digest="d", size_bytes=1, is_final=True))
        case "deleted":
            await bridge.append("dispatcher", scan_id, ev.ScanDeleted())
        case "tokens-ended":
            await bridge.append("ewms_bridge", scan_id, ev.QueuesActivated(queues={"a": "b"}, tokens_end_at=1.0))
        case "stopped":
            await ewms.abort(ewms.live()[0])
    await _look(bridge)
    assert ewms.calls.count("add") == 0


async def test_a_users_request_of_the_same_shape_gets_workers_of_its_own(bridge: Bridge, ewms: FakeEwms) -> None:
    await bridge.running()
    _end(ewms)
    await _look(bridge)
    rows = await bridge.pool.fetch("SELECT is_told FROM ewms_additions WHERE is_automatic")
    assert [row["is_told"] for row in rows] == [True]


async def test_nothing_is_added_where_nobody_wants_it(database: str, tmp_path: Path, ewms: FakeEwms) -> None:
    async with a_bridge(database, tmp_path, ewms) as bridge:
        await bridge.running()
        _end(ewms)
        await _look(bridge)
        assert ewms.calls.count("add") == 0
