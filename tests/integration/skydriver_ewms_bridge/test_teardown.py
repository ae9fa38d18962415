"""A workflow that is to end is stopped for certain, once, and with the right word."""

from datetime import UTC, datetime

import pytest
import structlog

from skydriver_common.faults import TryLater
from skydriver_common.model import events as ev
from skydriver_common.model.ids import ScanId
from skydriver_common.model.problems import problems_of
from skydriver_ewms_bridge.adapters.profile_files import ProfileFiles
from skydriver_ewms_bridge.due_kinds import DueKind
from tests.support.bridge import Bridge
from tests.support.fake_ewms import AWAY, LOST, NOTHING, FakeEwms


async def test_after_the_final_result_the_workflow_is_finished_but_not_at_once(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    await bridge.complete(scan_id)
    await bridge.work(DueKind.STOP, until_s=50)
    assert len(ewms.live()) == 1

    await bridge.work(DueKind.STOP, until_s=11)

    assert ewms.live() == []
    assert (await bridge.scan(scan_id)).ewms.deactivated == "FINISHED"
    assert ewms.calls.count("finish") == 1
    assert bridge.handed_over(scan_id) == {}, "the credentials are taken back"


async def test_a_deleted_scan_is_aborted_at_once(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    await bridge.deleted(scan_id)
    await bridge.work(DueKind.STOP)

    assert (await bridge.scan(scan_id)).ewms.deactivated == "ABORTED"
    assert ewms.calls.count("abort") == 1


async def test_deletion_during_the_delay_does_not_wait_for_its_end(bridge: Bridge) -> None:
    scan_id = await bridge.running()
    await bridge.complete(scan_id)
    await bridge.deleted(scan_id)
    await bridge.work(DueKind.STOP)

    assert (await bridge.scan(scan_id)).ewms.deactivated == "ABORTED"


async def test_repeated_deletion_asks_ewms_once(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    for _ in range(3):
        await bridge.deleted(scan_id)
        await bridge.work(DueKind.STOP)

    assert ewms.calls.count("abort") == 1
    assert (await bridge.types(scan_id)).count("scan.workflow-deactivated") == 1


@pytest.mark.parametrize("fault", [AWAY, LOST, NOTHING])
async def test_a_stop_that_fails_is_repeated_until_a_look_shows_it_done(bridge: Bridge, ewms: FakeEwms, fault: str) -> None:
    scan_id = await bridge.running()
    await bridge.deleted(scan_id)
    ewms.faults.extend([None, fault])
    assert len(await bridge.work(DueKind.STOP)) == 1
    await bridge.work(DueKind.STOP, until_s=60)

    assert (await bridge.scan(scan_id)).ewms.deactivated == "ABORTED"
    assert await bridge.due(DueKind.STOP) == []


async def test_what_somebody_else_has_stopped_keeps_its_word(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    await ewms.finish(ewms.live()[0])
    await bridge.deleted(scan_id)
    await bridge.work(DueKind.STOP)

    assert (await bridge.scan(scan_id)).ewms.deactivated == "FINISHED"
    assert ewms.calls.count("abort") == 0


async def test_a_failed_scanner_server_takes_its_workers_along(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    scan = await bridge.append("dispatcher", scan_id, ev.ScannerFailed(reason="gone", exit_code=1))
    assert scan.launch.state == "failed"
    await bridge.usecases.scan_ends(scan_id, since=datetime.now(UTC))
    await bridge.work(DueKind.STOP)

    assert ewms.live() == []


async def test_a_workflow_that_ewms_does_not_know_needs_no_stop(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    ewms.workflows.clear()
    await bridge.deleted(scan_id)
    await bridge.work(DueKind.STOP)

    assert await bridge.due(DueKind.STOP) == []
    assert await bridge.pool.fetchval("SELECT count(*) FROM ewms_watch WHERE refresh_at IS NOT NULL") == 0


async def test_credentials_that_could_not_be_removed_are_removed_at_the_next_try(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_id = await bridge.running()
    await bridge.deleted(scan_id)
    remove, failures = ProfileFiles.remove, [OSError("the disk is away"), TryLater("the API server is away")]

    async def remove_later(sink: ProfileFiles, scan_id: ScanId) -> None:
        if failures:
            raise failures.pop()
        await remove(sink, scan_id)

    monkeypatch.setattr(ProfileFiles, "remove", remove_later)
    await bridge.work(DueKind.STOP)
    with pytest.raises(OSError, match="the disk is away"):
        await bridge.work(DueKind.STOP, until_s=60)
    assert set(bridge.handed_over(scan_id)) == {"ewms.json", "startup-upload.json"}
    await bridge.work(DueKind.STOP, until_s=60)
    assert bridge.handed_over(scan_id) == {}
    assert (await bridge.scan(scan_id)).ewms.deactivated == "ABORTED"


async def test_credentials_are_removed_whoever_stopped_the_workflow(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    await ewms.abort(ewms.live()[0])
    await bridge.workforces.refresh()
    assert (await bridge.scan(scan_id)).ewms.deactivated == "ABORTED"
    await bridge.work(DueKind.STOP_VERIFICATION, until_s=301)
    assert bridge.handed_over(scan_id) == {}


async def test_a_scan_that_ends_without_a_workflow_leaves_no_upload_address(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.launched_scan()
    ewms.faults.extend([None, AWAY])
    await bridge.work(DueKind.ASSIGN)
    assert set(bridge.handed_over(scan_id)) == {"startup-upload.json"}
    await bridge.deleted(scan_id)
    await bridge.work(DueKind.STOP)
    await bridge.work(DueKind.ASSIGN, until_s=60)
    assert bridge.handed_over(scan_id) == {}


async def test_workers_that_come_back_after_a_stop_are_told_to_operators(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    await bridge.deleted(scan_id)
    await bridge.work(DueKind.STOP)
    ewms.report(next(iter(ewms.workflows)), phase="pre-launch")

    with structlog.testing.capture_logs() as lines:
        await bridge.work(DueKind.STOP_VERIFICATION, until_s=301)

    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["workflow.workers-came-back"]
    assert [p["code"] for p in problems_of(await bridge.scan(scan_id))] == ["workers-came-back"]
    await bridge.work(DueKind.STOP_VERIFICATION, until_s=601)
    assert (await bridge.types(scan_id)).count("scan.workers-came-back") == 1, "told once"

    ewms.report(next(iter(ewms.workflows)), phase="condor-complete")
    await bridge.work(DueKind.STOP_VERIFICATION, until_s=601)
    assert problems_of(await bridge.scan(scan_id)) == []
    await bridge.work(DueKind.STOP_VERIFICATION, until_s=601)
    assert await bridge.due(DueKind.STOP_VERIFICATION) == []


async def test_after_a_stop_before_or_during_activation_workers_that_come_back_are_seen_within_half_a_minute(
    bridge: Bridge, ewms: FakeEwms
) -> None:
    scan_id = await bridge.launched_scan()
    await bridge.work(DueKind.ASSIGN)
    await bridge.deleted(scan_id)
    with structlog.testing.capture_logs() as lines:
        await bridge.work(DueKind.STOP)
    assert "workflow.stopped-early" in [line["event"] for line in lines]
    ewms.report(next(iter(ewms.workflows)), phase="pre-launch")  # the activation that was under way ends
    await bridge.work(DueKind.STOP_VERIFICATION, until_s=31)

    assert [p["code"] for p in problems_of(await bridge.scan(scan_id))] == ["workers-came-back"]


async def test_after_an_early_stop_the_later_looks_are_taken_too(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    await bridge.deleted(scan_id)
    await bridge.work(DueKind.STOP)
    await bridge.work(DueKind.STOP_VERIFICATION, until_s=31)
    assert await bridge.due(DueKind.STOP_VERIFICATION) == [scan_id]
    ewms.report(next(iter(ewms.workflows)), phase="pre-launch")
    await bridge.work(DueKind.STOP_VERIFICATION, until_s=270)

    assert [p["code"] for p in problems_of(await bridge.scan(scan_id))] == ["workers-came-back"]


async def test_a_stop_of_workers_that_were_reported_is_looked_at_after_five_minutes(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    await bridge.append("ewms_bridge", scan_id, ev.WorkforceChanged(statuses={"RUNNING": {"Tasking": 2}}, n_running=2))
    await bridge.deleted(scan_id)
    await bridge.work(DueKind.STOP)
    n_looks = ewms.calls.count("taskforces")
    await bridge.work(DueKind.STOP_VERIFICATION, until_s=299)
    assert ewms.calls.count("taskforces") == n_looks
    await bridge.work(DueKind.STOP_VERIFICATION, until_s=2)
    assert ewms.calls.count("taskforces") == n_looks + 1
