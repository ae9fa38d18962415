"""What no news has told, or what was told to somebody who broke, is found again from the state alone."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from skydriver_common.faults import TryLater
from skydriver_common.model import events as ev
from skydriver_common.model.ids import ScanId
from skydriver_common.model.stages import ScannerStage
from skydriver_dispatcher.due_kinds import DueKind
from skydriver_dispatcher.launcher_events import ScannerExit, ScannerStatus
from skydriver_dispatcher.pending_events import MAX_TRIES
from tests.support import pods
from tests.support.dispatchers import Dispatcher, a_dispatcher, set_throttle
from tests.support.histories import Store
from tests.support.kmock_cluster import NAMESPACE

JOB_ENDS = {
    "Complete": {"type": "Complete", "status": "True"},
    "Failed": {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"},
    "DeadlineExceeded": {"type": "Failed", "status": "True", "reason": "DeadlineExceeded"},
}


async def end_job(dispatcher: Dispatcher, scan_id: ScanId, how: str) -> None:
    job = dispatcher.cluster.objects["jobs", NAMESPACE, f"skyscan-{scan_id}"]
    await dispatcher.cluster.place("jobs", job | {"status": {"conditions": [JOB_ENDS[how]]}})


@pytest.mark.parametrize(
    ("pod", "job", "state", "words"),
    [
        pytest.param(lambda s: pods.terminated(s, 1, message="ValueError"), "Failed", "failed", "exit code 1", id="failed"),
        pytest.param(lambda s: pods.terminated(s, 0), "Complete", "failed", "its exit code was 0", id="done"),
        pytest.param(None, "Complete", "failed", "its exit code was 0", id="done, its pod is gone"),
        pytest.param(lambda s: pods.terminated(s, 137, "OOMKilled"), "Failed", "launched", "OOMKilled", id="killed"),
        pytest.param(None, "Failed", "launched", "its pod is gone", id="failed, its pod is gone"),
        pytest.param(None, "DeadlineExceeded", "failed", "longer than allowed", id="used up its time"),
    ],
)
async def test_an_end_that_nobody_was_told_is_read_from_job_and_pod(
    dispatcher: Dispatcher, pod: Callable[[str], dict[str, Any]] | None, job: str, state: str, words: str
) -> None:
    scan_id = await dispatcher.launched()
    fine = await dispatcher.launched()
    if pod is not None:
        await dispatcher.cluster.run_pod(scan_id, **pod(scan_id))
    await end_job(dispatcher, scan_id, job)
    for _ in range(2):
        await dispatcher.watchdog.reconcile()
        await dispatcher.settle_down()
    scan = await dispatcher.scan(scan_id)
    assert (scan.launch.state, bool(scan.replaced_by_scan_id)) == (state, state == "launched")
    assert words in scan.launch.reason
    assert (await dispatcher.scan(fine)).launch.state == "launched"
    assert (await dispatcher.scan(fine)).replaced_by_scan_id is None


async def test_a_stage_that_nobody_was_told_is_read_from_the_pod(dispatcher: Dispatcher) -> None:
    scheduled, running, stuck = [await dispatcher.launched() for _ in range(3)]
    await dispatcher.cluster.run_pod(scheduled, **pods.waiting(scheduled))
    await dispatcher.cluster.run_pod(running, **pods.running(running))
    await dispatcher.cluster.run_pod(stuck, **pods.waiting(stuck, "ErrImagePull", "no such tag"))
    for _ in range(3):
        await dispatcher.watchdog.reconcile()
    stages = [(await dispatcher.scan(scan_id)).launch.stage for scan_id in (scheduled, running, stuck)]
    assert stages == ["scheduled", "running", "scheduled"]
    told = [event for event in await dispatcher.events(scheduled) if isinstance(event, ev.ScannerStageChanged)]
    assert len(told) == 1
    await dispatcher.hasten()  # what was found late is given up after its limit like anything else
    assert (await dispatcher.scan(stuck)).launch.state == "failed"


async def test_news_that_break_us_are_tried_again_and_at_last_left_to_the_comparison(
    store: Store, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    dispatcher.launcher.events._clock = lambda: now
    scan_id, other = await dispatcher.launched(), await dispatcher.launched()
    await dispatcher.cluster.run_pod(scan_id, **pods.terminated(scan_id, 1))
    await end_job(dispatcher, scan_id, "Failed")
    pending = dispatcher.launcher.events
    pending.put(ScannerExit(scan_id=scan_id, exit_code=1, log_tail=""))
    with monkeypatch.context() as patched:
        real = dispatcher.watchdog._on
        patched.setattr(dispatcher.watchdog, "_on", lambda each: 1 / 0 if each == scan_id else real(each))
        for n in range(MAX_TRIES):
            pending.put(ScannerStatus(scan_id=other, stage=(ScannerStage.SCHEDULED, ScannerStage.RUNNING)[n % 2]))
            with pytest.raises(ZeroDivisionError):
                await dispatcher.watchdog.handle_event()
            assert await dispatcher.watchdog.handle_event() is True  # the news of the other
            now += 60.0
        assert (await dispatcher.scan(other)).launch.stage in (ScannerStage.SCHEDULED, ScannerStage.RUNNING)
        assert await dispatcher.watchdog.handle_event() is False
        await dispatcher.watchdog.reconcile()  # one that breaks us ends no loop over all
    await dispatcher.watchdog.reconcile()
    assert (await dispatcher.scan(scan_id)).launch.state == "failed"


async def test_an_end_outlives_any_error_of_its_first_tries(dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    dispatcher.launcher.events._clock = lambda: now
    scan_id = await dispatcher.launched()
    dispatcher.launcher.events.put(ScannerExit(scan_id=scan_id, exit_code=1, log_tail="the reason"))
    for error in (ZeroDivisionError(), TryLater("the database is unavailable"), RuntimeError(), ConnectionError()):
        with monkeypatch.context() as patched:
            patched.setattr(dispatcher.watchdog, "_on", raising(error))
            with pytest.raises(type(error)):
                await dispatcher.watchdog.handle_event()
        now += 60.0
    await dispatcher.settle_down()
    assert (await dispatcher.scan(scan_id)).launch.log_tail == "the reason"


async def test_a_worker_that_comes_too_late_leaves_alone_what_another_has_launched(
    store: Store, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_throttle(store)
    other = a_dispatcher(store, dispatcher.cluster, dispatcher.client, "two")
    for fault in (TryLater("no answer"), RuntimeError("a bug")):
        scan_id = await dispatcher.request(priority=100)

        async def stands_still(scan: Any, fault: Exception = fault) -> str:
            # while it does, its lease ends and another replica launches the scan
            await store.pool.execute(
                "UPDATE due_work SET leased_until = now() - interval '1 s' WHERE scan_id = $1", scan.scan_id
            )
            await other.launch()
            assert (await other.scan(scan.scan_id)).launch.state == "launched"
            raise fault

        monkeypatch.setattr(dispatcher.launcher, "launch", stands_still)
        await dispatcher.launch()
        await other.settle_down()
        await dispatcher.settle_down()
        assert dispatcher.has_job(scan_id)
        assert (await dispatcher.scan(scan_id)).launch.state == "launched"
        assert await store.pool.fetchval("SELECT count(*) FROM due_work WHERE kind = $1", DueKind.STOP) == 0


async def test_a_stop_that_is_left_over_does_not_end_a_scan_that_should_run(store: Store, dispatcher: Dispatcher) -> None:
    scan_id = await dispatcher.launched()
    await dispatcher.schedule.put(DueKind.STOP, scan_id)
    await dispatcher.settle_down()
    assert dispatcher.has_job(scan_id)
    await dispatcher.delete(scan_id)
    await dispatcher.settle_down()
    assert not dispatcher.has_job(scan_id)


async def test_a_scan_that_is_deleted_while_it_is_started_again_is_stopped(
    store: Store, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_id = await dispatcher.launched()
    await dispatcher.cluster.remove("jobs", f"skyscan-{scan_id}")
    await dispatcher.schedule.put(DueKind.RELAUNCH, scan_id)
    launch = dispatcher.launcher.launch

    async def deleted_meanwhile(scan: Any) -> str:
        await dispatcher.delete(scan_id)
        while await dispatcher.launch_steps.stop_next() is True:
            pass
        return await launch(scan)

    monkeypatch.setattr(dispatcher.launcher, "launch", deleted_meanwhile)
    await dispatcher.watchdog.relaunch()
    await dispatcher.settle_down()
    assert not dispatcher.has_job(scan_id)


async def test_no_end_is_judged_while_results_wait_on_the_bus(store: Store, dispatcher: Dispatcher) -> None:
    arrived: bool | Exception = False

    async def have_arrived() -> bool:
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    behind = a_dispatcher(
        store, dispatcher.cluster, dispatcher.client, have_arrived=have_arrived, result_grace=timedelta(seconds=20)
    )
    done, crashed, killed = [await behind.launched() for _ in range(3)]
    behind.launcher.events.put(ScannerExit(scan_id=done, exit_code=0, log_tail=""))
    behind.launcher.events.put(ScannerExit(scan_id=crashed, exit_code=1, log_tail="a crash after the last word"))
    behind.launcher.events.put(ScannerExit(scan_id=killed, exit_code=137, log_tail="", cause="it was killed", was_taken=True))
    await behind.settle_down()
    for arrived in (False, TryLater("the message broker is unreachable"), False):  # noqa: B007  (asked for above)
        await behind.hasten()
        assert [(await behind.scan(scan_id)).launch.state for scan_id in (done, crashed, killed)] == ["launched"] * 3
    await store.append("progress", done, ev.ResultReceived(digest="sha256:1", size_bytes=1, is_final=True))
    await store.append("progress", crashed, ev.ResultReceived(digest="sha256:1", size_bytes=1, is_final=True))
    arrived = True
    await behind.hasten()  # the last of it may just be written down
    assert (await behind.scan(killed)).replaced_by_scan_id is None
    await behind.hasten()
    assert [(await behind.scan(scan_id)).launch.state for scan_id in (done, crashed)] == ["launched", "launched"]
    assert (await behind.scan(killed)).replaced_by_scan_id is not None


def raising(error: Exception) -> Callable[[str], Any]:
    def on(_: str) -> Any:
        raise error

    return on
