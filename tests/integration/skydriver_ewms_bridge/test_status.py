"""What a scan's status is told while it waits, and when something goes wrong with its workers."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest
import zstandard

from skydriver_api.reads.view_queries import ViewQueries
from skydriver_common.model import events as ev
from skydriver_common.model.commands import RefreshTaskforces
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.due_kinds import WORKFORCE, DueKind
from skydriver_ewms_bridge.ewms_types import PhaseChange
from tests.support.bridge import Bridge
from tests.support.fake_ewms import AWAY, FakeEwms


async def test_the_place_in_the_line_is_told_when_it_changes(bridge: Bridge, ewms: FakeEwms) -> None:
    first, second = await bridge.launched_scan(priority=1), await bridge.launched_scan()
    await bridge.work(DueKind.ASSIGN)
    for _ in range(12):
        await bridge.work(DueKind.QUEUES, until_s=11)

    assert (await bridge.scan(first)).ewms.place_in_line == 0
    assert (await bridge.scan(second)).ewms.place_in_line == 1
    assert (await bridge.types(second)).count("scan.queues-awaited") == 1
    ewms.activated.update(ewms.live())
    await bridge.work(DueKind.QUEUES, until_s=11)
    assert (await bridge.scan(second)).ewms.place_in_line is None


async def test_trouble_with_workers_is_told_and_taken_back(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    workflow_id = ewms.live()[0]
    failed = PhaseChange("condor-submit", 1.0, was_successful=False)
    ewms.report(workflow_id, phase="pending-starter", phase_changes=(failed, failed, failed))
    await bridge.workforces.refresh()
    assert [p["code"] for p in (await bridge.scan(scan_id)).ewms.problems] == ["submission-failed"]

    ewms.report(workflow_id, phase="condor-submit", statuses={"RUNNING": {"Tasking": 1}})
    await bridge.pass_time(WORKFORCE, 61)
    await bridge.workforces.refresh()
    assert (await bridge.scan(scan_id)).ewms.problems == []


async def test_workers_that_end_after_the_final_result_are_no_trouble(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    for number in range(2):
        taskforces = ewms.taskforces[ewms.live()[0]]
        taskforces[number] = replace(taskforces[number], phase="condor-complete")
    await bridge.append("progress", scan_id, ev.ResultReceived(digest="sha256:1", size_bytes=1, is_final=True))
    await bridge.workforces.refresh()

    assert (await bridge.scan(scan_id)).ewms.problems == []


async def test_a_missing_upload_is_told_after_a_limit_and_taken_back(bridge: Bridge) -> None:
    scan_id = await bridge.running()
    await bridge.work(DueKind.STARTUP)
    assert not (await bridge.scan(scan_id)).ewms.is_startup_file_missing
    await bridge.work(DueKind.STARTUP, until_s=901)
    assert (await bridge.scan(scan_id)).ewms.is_startup_file_missing

    bridge.objects.are_there = True
    await bridge.work(DueKind.STARTUP, until_s=301)
    assert not (await bridge.scan(scan_id)).ewms.is_startup_file_missing
    assert await bridge.due(DueKind.STARTUP) == []


async def test_tokens_near_their_end_are_told_in_time(bridge: Bridge) -> None:
    scan_id = await bridge.running()
    await bridge.append("ewms_bridge", scan_id, ev.QueuesActivated(queues={}, tokens_end_at=0.0))
    ends_at = time.time() + 86_400
    await bridge.usecases.queues_activated(scan_id, {"a": "b"}, ends_at)
    await bridge.work(DueKind.TOKENS, until_s=79_000)
    assert not (await bridge.scan(scan_id)).ewms.are_tokens_ending
    await bridge.work(DueKind.TOKENS, until_s=200)

    assert (await bridge.scan(scan_id)).ewms.are_tokens_ending
    assert (await bridge.scan(scan_id)).ewms.tokens_end_at == ends_at


async def test_taskforces_are_kept_for_the_time_when_ewms_is_away(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    assert (await bridge.taskforces.refresh(RefreshTaskforces(scan_id=scan_id))).is_done
    kept = await _kept(bridge, scan_id)
    assert len(kept["taskforces"]) == 2
    assert ewms.calls.count("raw") == 1
    await bridge.taskforces.refresh(RefreshTaskforces(scan_id=scan_id))
    assert ewms.calls.count("raw") == 1, "they are fresh"

    await bridge.pool.execute("UPDATE ewms_taskforces SET fetched_at = $1", datetime(2020, 1, 1, tzinfo=UTC))
    ewms.struck["raw"] = AWAY
    assert (await bridge.taskforces.refresh(RefreshTaskforces(scan_id=scan_id))).is_done
    assert await _kept(bridge, scan_id) == kept


async def _kept(bridge: Bridge, scan_id: ScanId) -> dict[str, list[dict[str, object]]]:
    packed = await bridge.pool.fetchval("SELECT body FROM ewms_taskforces WHERE scan_id = $1", scan_id)
    document: dict[str, list[dict[str, object]]] = orjson.loads(zstandard.ZstdDecompressor().decompress(packed))
    return document


async def test_what_ewms_told_last_keeps_its_age_when_the_workers_are_over(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    reads = ViewQueries(bridge.pool)
    view = await reads.status(scan_id)
    assert view is not None
    assert view.ewms_as_of is None, "EWMS was not asked yet"
    await bridge.workforces.refresh()
    view = await reads.status(scan_id)
    assert view is not None
    assert view.ewms_as_of == pytest.approx(time.time(), abs=30)

    await bridge.usecases.workflow_gone(scan_id)
    await bridge.pass_time(WORKFORCE, 61)
    assert await bridge.workforces.refresh() is False, "nobody asks any more"
    assert (await reads.status(scan_id)) == view


async def test_why_a_scan_waits_is_ready_to_be_sent(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.launched_scan()
    await bridge.work(DueKind.ASSIGN)
    view = await ViewQueries(bridge.pool).status(scan_id)
    assert view is not None
    assert [problem["code"] for problem in orjson.loads(view.problems)] == ["waiting-for-queues"]
