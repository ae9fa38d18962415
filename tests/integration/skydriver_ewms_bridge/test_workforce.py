"""The workers of all live workflows, by few questions."""

import asyncio

import pytest

from skydriver_api.live.viewer_hints import ViewerHints as ApiViewerHints
from skydriver_api.reads.view_queries import StatusView, ViewQueries
from skydriver_common.db.notifier import VIEWER_HINTS_CHANNEL, Notifier
from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from skydriver_common.runtime.loops import LoopSignals
from skydriver_ewms_bridge.decide.workforce import Workforce
from skydriver_ewms_bridge.due_kinds import WORKFORCE, DueKind
from skydriver_ewms_bridge.viewer_hints import ViewerHints
from tests.support.bridge import Bridge
from tests.support.fake_ewms import AWAY, FakeEwms


async def test_counts_become_an_event_once_per_change(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    workflow_id = ewms.live()[0]
    ewms.report(workflow_id, statuses={"RUNNING": {"Tasking": 3, "Done": 1}}, top_errors={"MemoryError": 2})
    await bridge.workforces.refresh()
    for _ in range(3):
        await bridge.pass_time(WORKFORCE, 61)
        await bridge.workforces.refresh()

    scan = await bridge.scan(scan_id)
    assert (scan.ewms.n_running, scan.ewms.top_errors) == (3, {"MemoryError": 2})
    assert scan.ewms.statuses == {"RUNNING": {"Tasking": 3, "Done": 1}}
    assert (await bridge.types(scan_id)).count("scan.workforce-changed") == 1


async def test_many_workflows_are_refreshed_by_two_questions(bridge: Bridge, ewms: FakeEwms) -> None:
    for _ in range(20):
        await bridge.launched_scan()
    await bridge.work(DueKind.ASSIGN)
    ewms.calls.clear()
    await bridge.workforces.refresh()

    assert len(ewms.live()) == 20
    assert ewms.calls == ["taskforces", "get-many"]


async def test_nothing_is_asked_before_it_is_due_again(bridge: Bridge, ewms: FakeEwms) -> None:
    await bridge.running()
    await bridge.workforces.refresh()
    ewms.calls.clear()
    wait_s = await bridge.workforces.refresh()

    assert ewms.calls == []
    assert 5 < wait_s <= 10, "a young workflow is looked at often"


async def test_two_replicas_do_not_ask_twice(bridge: Bridge, ewms: FakeEwms) -> None:
    await bridge.running()
    ewms.calls.clear()
    await asyncio.gather(bridge.workforces.refresh(), bridge.workforces.refresh())

    assert ewms.calls.count("taskforces") == 1


async def test_the_last_known_counts_stay_while_ewms_is_away(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    ewms.report(ewms.live()[0], statuses={"RUNNING": {"Tasking": 3}})
    await bridge.workforces.refresh()
    ewms.faults.append(AWAY)
    await bridge.pass_time(WORKFORCE, 61)
    with pytest.raises(TryLater):
        await bridge.workforces.refresh()

    assert (await bridge.scan(scan_id)).ewms.n_running == 3
    ewms.report(ewms.live()[0], statuses={"RUNNING": {"Tasking": 4}})
    await bridge.pass_time(WORKFORCE, 6)
    await bridge.workforces.refresh()
    assert (await bridge.scan(scan_id)).ewms.n_running == 4, "and EWMS is asked again soon, not after an interval"


async def test_a_workflow_stopped_by_somebody_else_is_noticed_and_asked_for_no_more(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    await ewms.abort(ewms.live()[0])
    await bridge.workforces.refresh()

    assert (await bridge.scan(scan_id)).ewms.deactivated == "ABORTED"
    assert await bridge.workforces.refresh() is False


async def test_a_stopped_workflow_is_watched_until_its_workers_are_gone(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    ewms.report(workflow_id := ewms.live()[0], statuses={"RUNNING": {"Tasking": 3}}, cluster_id=7)
    await bridge.workforces.refresh()
    await bridge.deleted(scan_id)
    await bridge.work(DueKind.STOP)
    await bridge.pass_time(WORKFORCE, 61)
    await bridge.workforces.refresh()
    assert (await bridge.scan(scan_id)).ewms.n_running == 3

    ewms.report(workflow_id, statuses={"REMOVED": {"Tasking": 3}}, phase="condor-complete")
    await bridge.pass_time(WORKFORCE, 61)
    await bridge.workforces.refresh()

    assert (await bridge.scan(scan_id)).ewms.n_running == 0
    assert (await bridge.scan(scan_id)).ewms.problems == []
    assert await bridge.workforces.refresh() is False


async def test_a_taskforce_that_cannot_be_read_marks_its_own_workflow_and_the_others_are_counted(
    bridge: Bridge, ewms: FakeEwms
) -> None:
    scans = [await bridge.running() for _ in range(3)]
    workflows = [(await bridge.scan(scan_id)).ewms_workflow_id or "" for scan_id in scans]
    for workflow_id in workflows:
        ewms.report(workflow_id, statuses={"RUNNING": {"Tasking": 3}}, phase="condor-submit")
    ewms.unreadable.add(ewms.taskforces[workflows[1]][1].taskforce_uuid)
    await bridge.workforces.refresh()

    states = [(await bridge.scan(scan_id)).ewms for scan_id in scans]
    assert [state.n_running for state in states] == [3, 3, 3], "what can be read is counted"
    assert [[problem["code"] for problem in state.problems] for state in states] == [[], ["workforce-unreadable"], []]
    ewms.unreadable.clear()
    await bridge.pass_time(WORKFORCE, 61)
    await bridge.workforces.refresh()
    assert (await bridge.scan(scans[1])).ewms.problems == []


async def test_a_scan_whose_counts_cannot_be_noted_does_not_keep_the_others_from_it(
    bridge: Bridge, ewms: FakeEwms, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = [await bridge.running() for _ in range(60)]
    for workflow_id in ewms.live():
        ewms.report(workflow_id, statuses={"RUNNING": {"Tasking": 3}})
    record = bridge.usecases.workforce_seen

    async def record_others(scan_id: ScanId, workforce: Workforce) -> list[str]:
        if scan_id == scans[0]:
            raise KeyError("a bug that one scan brings out")
        return await record(scan_id, workforce)

    monkeypatch.setattr(bridge.usecases, "workforce_seen", record_others)
    assert await bridge.workforces.refresh() is True
    assert [(await bridge.scan(scan_id)).ewms.n_running for scan_id in scans] == [0, *[3] * 59]
    monkeypatch.undo()
    await bridge.pass_time(WORKFORCE, 6)
    await bridge.workforces.refresh()
    assert (await bridge.scan(scans[0])).ewms.n_running == 3


async def test_the_loop_is_told_when_the_next_look_is_due(bridge: Bridge) -> None:
    await bridge.running()

    assert await bridge.workforces.refresh() is True, "it looks once more, and then waits just long enough"
    assert await bridge.workforces.refresh() > 5


async def test_an_old_workflow_is_asked_for_seldom_unless_somebody_looks_at_it(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    await bridge.pool.execute("UPDATE ewms_watch SET since = since - '1 hour'::interval")
    await bridge.workforces.refresh()
    assert await bridge.workforces.refresh() > 50

    notified: list[str] = []
    pulse = LoopSignals()
    eyes = ViewerHints(bridge.workforces.note_viewers, lambda: notified.append("workforce"), pulse)
    eyes.seen(scan_id)
    assert pulse.work.is_set()
    await eyes.step()
    eyes.seen(scan_id)
    await eyes.step()
    assert notified == ["workforce"], "the second look is no news"
    wait_s = await bridge.workforces.refresh()
    assert 5 < wait_s <= 10
    await bridge.pass_time(WORKFORCE, 11)
    await bridge.workforces.refresh()
    assert await bridge.workforces.refresh() <= 10

    await bridge.pool.execute("UPDATE ewms_watch SET eyes_until = now()")
    await bridge.pass_time(WORKFORCE, 11)
    await bridge.workforces.refresh()
    assert await bridge.workforces.refresh() > 50, "who has gone away is forgotten"


async def test_the_gateway_tells_of_looks_at_old_knowledge_of_running_scans_once_a_minute(bridge: Bridge) -> None:
    scan_id = await bridge.running()
    reads, notifier, notified = ViewQueries(bridge.pool), Notifier(bridge.pool), list[str]()
    notifier.on_notify(VIEWER_HINTS_CHANNEL, notified.append)
    eyes = ApiViewerHints(notifier, reads)

    async def look() -> None:
        view = await reads.status(scan_id)
        assert view is not None
        eyes.note_view(view)

    await look()
    await bridge.workforces.refresh()
    await look()
    assert notified == [], "what is known is young"
    await bridge.pool.execute("UPDATE ewms_watch SET refreshed_at = refreshed_at - '20 s'::interval")
    await look()
    await look()
    assert notified == [scan_id]


async def test_however_many_watch_a_scan_one_look_a_minute_is_taken_and_none_is_missed(bridge: Bridge) -> None:
    class Counting(ViewQueries):
        looks = 0

        async def status(self, scan_id: ScanId) -> StatusView | None:
            self.looks += 1
            if self.looks > 1:
                raise TryLater("the database is silent")
            return await super().status(scan_id)

    scan_id = await bridge.running()
    await bridge.workforces.refresh()
    await bridge.pool.execute("UPDATE ewms_watch SET refreshed_at = refreshed_at - '20 s'::interval")
    reads, notifier, notified = Counting(bridge.pool), Notifier(bridge.pool), list[str]()
    notifier.on_notify(VIEWER_HINTS_CHANNEL, notified.append)
    eyes = ApiViewerHints(notifier, reads)
    await asyncio.gather(*(eyes.note_watching(scan_id) for _ in range(500)))
    assert (reads.looks, notified) == (1, [scan_id])
    await eyes.note_watching(ScanId("another"))
    assert reads.looks == 2, "a silent database is no matter"
