"""The watch over Jobs and Pods: nothing is missed, whatever happens to it; and what it sees becomes events, a reason or a new scan."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from skydriver_common.faults import TryLater
from skydriver_common.model import events as ev
from skydriver_common.model.ids import ScanId, new_scan_id
from skydriver_common.model.stages import ScannerStage
from skydriver_dispatcher import store as statements
from skydriver_dispatcher.launcher_events import ScannerExit, ScannerStatus
from tests.support import pods
from tests.support.dispatchers import Dispatcher, a_dispatcher, set_throttle
from tests.support.histories import Store, a_context
from tests.support.launchers import a_queued_scan
from tests.support.waiting import until


@asynccontextmanager
async def watching(dispatcher: Dispatcher) -> AsyncIterator[None]:
    """The watch runs and has its connections: for Jobs, Pods, and what the cluster says of pods that it can't make."""
    stopping = asyncio.Event()
    task = asyncio.create_task(dispatcher.watch.run(stopping))
    try:
        await dispatcher.cluster.until_watched(3)
        yield
    finally:
        stopping.set()
        await task


async def stage(dispatcher: Dispatcher, scan_id: ScanId) -> tuple[str, str]:
    launch = (await dispatcher.scan(scan_id)).launch
    return launch.stage, launch.trouble.get("code", "")


async def test_what_a_pod_waits_for_is_in_events_and_status(dispatcher: Dispatcher) -> None:
    scan_id = await dispatcher.launched()
    async with watching(dispatcher):
        await dispatcher.cluster.run_pod(scan_id, **pods.unschedulable())
        await dispatcher.until(lambda: is_(stage(dispatcher, scan_id), ("pending", "scanner-unschedulable")))
        assert "scanner-unschedulable" in await dispatcher.codes(scan_id)
        for n in range(20):
            await dispatcher.cluster.run_pod(scan_id, **pods.unschedulable(f"0/{n} nodes"))
        await dispatcher.cluster.run_pod(scan_id, **pods.waiting(scan_id))
        await dispatcher.until(lambda: is_(stage(dispatcher, scan_id), ("scheduled", "")))
        await dispatcher.cluster.run_pod(scan_id, **pods.waiting(scan_id, "ImagePullBackOff", "no such tag"))
        await dispatcher.until(lambda: is_(stage(dispatcher, scan_id), ("scheduled", "scanner-image-pull-failed")))
        await dispatcher.cluster.run_pod(scan_id, **pods.running(scan_id))
        await dispatcher.until(lambda: is_(stage(dispatcher, scan_id), ("running", "")))
    told = [event for event in await dispatcher.events(scan_id) if isinstance(event, ev.ScannerStageChanged)]
    assert [(event.stage, event.code) for event in told] == [
        ("pending", "scanner-unschedulable"), ("scheduled", ""), ("scheduled", "scanner-image-pull-failed"), ("running", ""),
    ]  # fmt: skip
    assert "no such tag" in told[2].text


@pytest.mark.parametrize(
    ("end", "words"),
    [
        pytest.param(lambda s: pods.terminated(s, 137, "OOMKilled"), "OOMKilled", id="OOMKilled"),
        pytest.param(lambda _: pods.evicted(), "Evicted", id="evicted"),
        pytest.param(lambda s: pods.terminated(s, 143), "143", id="SIGTERM"),
    ],
)
async def test_a_killed_scanner_goes_on_as_a_new_scan(dispatcher: Dispatcher, end: Any, words: str) -> None:
    scan_id = await dispatcher.launched()
    async with watching(dispatcher):
        await dispatcher.cluster.run_pod(scan_id, **end(scan_id))
        await dispatcher.until(lambda: was_replaced(dispatcher, scan_id))
    old = await dispatcher.scan(scan_id)
    new = await dispatcher.scan(ScanId(str(old.replaced_by_scan_id)))
    assert old.is_deleted
    assert words in old.launch.reason
    assert new.classifiers["rescan"] is True
    assert new.classifiers["origin_scan_id"] == scan_id
    assert old.rescan_ids == (new.scan_id,)
    await dispatcher.settle_down()
    assert not dispatcher.has_job(scan_id)
    assert dispatcher.has_job(new.scan_id)


async def test_the_new_scan_keeps_the_old_ones_place_in_the_line(dispatcher: Dispatcher) -> None:
    await set_throttle(dispatcher.store)
    scan_id = await dispatcher.request(priority=0)
    await dispatcher.settle_down()
    await set_throttle(dispatcher.store, max_running=0)
    waiting = await dispatcher.request(priority=0)
    await dispatcher.cluster.remove("jobs", f"skyscan-{scan_id}")
    await dispatcher.watchdog.reconcile()
    await set_throttle(dispatcher.store)
    new = str((await dispatcher.scan(scan_id)).replaced_by_scan_id)
    await dispatcher.launch()
    assert dispatcher.has_job(ScanId(new))
    assert not dispatcher.has_job(waiting)


async def test_at_most_three_times_in_ten_hours_then_the_scan_has_failed(dispatcher: Dispatcher) -> None:
    scan_id = await dispatcher.launched()
    async with watching(dispatcher):
        for _ in range(3):
            await dispatcher.cluster.run_pod(scan_id, **pods.terminated(scan_id, 137))
            await dispatcher.until(lambda scan_id=scan_id: was_replaced(dispatcher, scan_id))  # type: ignore[misc]
            await dispatcher.settle_down()
            scan_id = ScanId(str((await dispatcher.scan(scan_id)).replaced_by_scan_id))
        await dispatcher.cluster.run_pod(scan_id, **pods.terminated(scan_id, 137))
        await dispatcher.until(lambda: has_failed(dispatcher, scan_id))
    last = await dispatcher.scan(scan_id)
    assert not last.is_deleted
    assert "3 scans of this request were started within 10 h" in last.launch.reason
    assert last.launch.exit_code == 137
    assert not dispatcher.has_job(scan_id)


async def test_a_scanner_that_fails_by_itself_has_failed_with_its_last_words(dispatcher: Dispatcher) -> None:
    scan_id = await dispatcher.launched()
    async with watching(dispatcher):
        await dispatcher.cluster.run_pod(scan_id, **pods.terminated(scan_id, 1, message="ValueError: no nsides"))
        await dispatcher.until(lambda: has_failed(dispatcher, scan_id))
    scan = await dispatcher.scan(scan_id)
    assert (scan.launch.exit_code, scan.launch.log_tail) == (1, "ValueError: no nsides")
    assert (await dispatcher.codes(scan_id))[0] == "scanner-failed"
    assert scan.replaced_by_scan_id is None


async def test_a_scan_that_ewms_refuses_gives_its_place_free_and_is_not_started_once_more(dispatcher: Dispatcher) -> None:
    await set_throttle(dispatcher.store, max_running=1)
    refused = await dispatcher.request()
    await dispatcher.settle_down()
    waiting = await dispatcher.request()
    await dispatcher.store.append(
        "ewms_bridge", refused, ev.WorkflowRefused(reason="EWMS rejected the workflow: no such cluster")
    )
    await dispatcher.usecases.end_without_queues(refused, a_context())
    await dispatcher.usecases.end_without_queues(refused, a_context())  # told twice
    await dispatcher.settle_down()
    scan = await dispatcher.scan(refused)
    assert (scan.launch.state, scan.state, scan.replaced_by_scan_id) == ("failed", "STOPPED__PRESTARTUP", None)
    assert await dispatcher.codes(refused) == ["scanner-failed", "workflow-refused"]
    assert not dispatcher.has_job(refused)
    assert (await dispatcher.scan(waiting)).launch.state == "launched"


async def test_a_scan_that_waits_for_its_launch_and_gets_no_queues_leaves_the_backlog(dispatcher: Dispatcher) -> None:
    await set_throttle(dispatcher.store, max_running=0)
    scan_id = await dispatcher.request()
    await dispatcher.store.append(
        "ewms_bridge", scan_id, ev.WorkflowAssigned(workflow_id="w", ewms_address="http://ewms"),
        ev.WorkflowDeactivated(workflow_id="w", label="ABORTED"),
    )  # fmt: skip
    await dispatcher.usecases.end_without_queues(scan_id, a_context())
    await set_throttle(dispatcher.store)
    await dispatcher.settle_down()
    assert (await dispatcher.scan(scan_id)).launch.state == "abandoned"
    assert not dispatcher.has_job(scan_id)
    assert await count_is(dispatcher.store, "launch", 0)


async def test_a_scan_that_gets_no_queues_is_ended_though_no_event_told_of_it(dispatcher: Dispatcher) -> None:
    refused, stopped, working = [await dispatcher.launched() for _ in range(3)]
    assigned = ev.WorkflowAssigned(workflow_id="w", ewms_address="http://ewms")
    deactivated = ev.WorkflowDeactivated(workflow_id="w", label="ABORTED")
    queues = ev.QueuesActivated(queues={"to-client-queue": "q"}, tokens_end_at=None)
    await dispatcher.store.append("ewms_bridge", refused, ev.WorkflowRefused(reason="no such cluster"))
    await dispatcher.store.append("ewms_bridge", stopped, assigned, deactivated)
    await dispatcher.store.append("ewms_bridge", working, assigned, queues, deactivated)
    await dispatcher.usecases.reconcile_queues()
    await dispatcher.settle_down()

    states = [(await dispatcher.scan(scan_id)).launch.state for scan_id in (refused, stopped, working)]
    assert states == ["failed", "failed", "launched"], "a scanner server that has its queues is told, and ends by itself"
    assert [dispatcher.has_job(scan_id) for scan_id in (refused, stopped, working)] == [False, False, True]


async def test_a_clean_end_waits_for_the_final_result_that_may_be_on_its_way(store: Store, dispatcher: Dispatcher) -> None:
    patient = a_dispatcher(store, dispatcher.cluster, dispatcher.client, result_grace=timedelta(hours=1))
    done, silent = await patient.launched(), await patient.launched()
    async with watching(patient):
        for scan_id in (done, silent):
            await patient.cluster.run_pod(scan_id, **pods.terminated(scan_id, 0))
        await patient.until(lambda: count_is(store, "scanner-end", 2))
        await store.append("progress", done, ev.ResultReceived(digest="sha256:1", size_bytes=1, is_final=True))
        await patient.hasten()
    assert (await patient.scan(done)).launch.state == "launched"
    assert (await patient.scan(silent)).launch.state == "failed"
    assert "its exit code was 0" in (await patient.scan(silent)).launch.reason


async def test_an_image_that_cannot_be_pulled_is_waited_for_up_to_a_limit(dispatcher: Dispatcher) -> None:
    stuck, mended = await dispatcher.launched(), await dispatcher.launched()
    async with watching(dispatcher):
        for scan_id in (stuck, mended):
            await dispatcher.cluster.run_pod(scan_id, **pods.waiting(scan_id, "ImagePullBackOff", "no such tag"))
            await dispatcher.until(lambda s=scan_id: is_(stage(dispatcher, s), ("scheduled", "scanner-image-pull-failed")))  # type: ignore[misc]
        await dispatcher.cluster.run_pod(mended, **pods.running(mended))
        await dispatcher.until(lambda: is_(stage(dispatcher, mended), ("running", "")))
        assert (await dispatcher.scan(stuck)).launch.state == "launched"
        await dispatcher.hasten()
    assert (await dispatcher.scan(stuck)).launch.state == "failed"
    assert "no such tag" in (await dispatcher.scan(stuck)).launch.reason
    assert not dispatcher.has_job(stuck)
    assert (await dispatcher.scan(mended)).launch.state == "launched"


async def refuse_pod(dispatcher: Dispatcher, scan_id: ScanId, message: str, minute: int) -> None:
    """The Job controller says that it can't make the scan's pod."""
    job = dispatcher.cluster.find("jobs", f"skyscan-{scan_id}")
    assert job is not None
    about = {"kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    event = {"metadata": {"name": f"{scan_id}.{minute}"}, "involvedObject": about, "reason": "FailedCreate", "message": message}
    await dispatcher.cluster.place("events", event | {"lastTimestamp": f"2026-01-01T00:{minute:02}:00Z"})


async def test_a_pod_that_is_never_admitted_fails_the_scan_after_a_limit_unless_it_waits_for_a_quota(
    dispatcher: Dispatcher,
) -> None:
    rule, quota = "Error creating: violates PodSecurity", "Error creating: exceeded quota: memory"
    ruled_out, waiting = await dispatcher.launched(), await dispatcher.launched()
    async with watching(dispatcher):
        for minute, (first, second) in enumerate(((quota, rule), (rule, quota))):
            await refuse_pod(dispatcher, ruled_out, first, minute)
            await refuse_pod(dispatcher, waiting, second, minute)
            for scan_id, message in ((ruled_out, first), (waiting, second)):
                code = "scanner-pod-refused" if message is rule else "scanner-pod-without-quota"
                await dispatcher.until(lambda s=scan_id, c=code: is_(stage(dispatcher, s), ("pending", c)))  # type: ignore[misc]
        assert (await dispatcher.scan(ruled_out)).launch.state == "launched"
        await dispatcher.hasten()
    assert (await dispatcher.scan(ruled_out)).launch.state == "failed"
    assert "violates PodSecurity" in (await dispatcher.scan(ruled_out)).launch.reason
    assert not dispatcher.has_job(ruled_out)
    assert (await dispatcher.scan(waiting)).launch.state == "launched"
    assert dispatcher.has_job(waiting)


async def test_a_job_deleted_by_hand_goes_on_as_a_new_scan(dispatcher: Dispatcher) -> None:
    scan_id = await dispatcher.launched()
    async with watching(dispatcher):
        await dispatcher.cluster.remove("jobs", f"skyscan-{scan_id}")
        await dispatcher.until(lambda: was_replaced(dispatcher, scan_id))
    assert "deleted" in (await dispatcher.scan(scan_id)).launch.reason


async def test_a_scan_whose_secret_somebody_deletes_before_it_starts_goes_on_as_a_new_one(dispatcher: Dispatcher) -> None:
    robbed, started, fine = [await dispatcher.launched() for _ in range(3)]
    async with watching(dispatcher):
        for scan_id, status in ((robbed, pods.waiting(robbed)), (started, pods.running(started)), (fine, pods.waiting(fine))):
            await dispatcher.cluster.run_pod(scan_id, **status)
        for scan_id, name in ((robbed, "scheduled"), (started, "running"), (fine, "scheduled")):
            await dispatcher.until(lambda s=scan_id, n=name: is_(stage(dispatcher, s), (n, "")))  # type: ignore[misc]
        for scan_id in (robbed, started):  # a scanner server that runs has read it
            await dispatcher.cluster.remove("secrets", f"skyscan-{scan_id}")
        await dispatcher.watchdog.reconcile()
        await dispatcher.settle_down()
    old = await dispatcher.scan(robbed)
    assert "its Secret was deleted" in old.launch.reason
    assert dispatcher.has_job(ScanId(str(old.replaced_by_scan_id)))
    assert not dispatcher.has_job(robbed)
    assert [(await dispatcher.scan(scan_id)).replaced_by_scan_id for scan_id in (started, fine)] == [None, None]


async def test_what_waits_for_room_starts_as_soon_as_a_job_is_gone(dispatcher: Dispatcher) -> None:
    await set_throttle(dispatcher.store)
    running = await dispatcher.launched()
    async with watching(dispatcher):
        quota = dispatcher.cluster.fail("POST", "jobs", 403, "exceeded quota: scans, used: 1, limited: 1", times=1000)
        waiting = [await dispatcher.request(priority=priority) for priority in (0, 0, 100)]
        await dispatcher.settle_down()
        await dispatcher.delete(running)
        quota.times = 0
        await dispatcher.until(lambda: is_(states(dispatcher, waiting), {"launched"}))


async def test_a_scan_that_a_user_deletes_is_not_brought_back(dispatcher: Dispatcher) -> None:
    scan_id = await dispatcher.launched()
    async with watching(dispatcher):
        await dispatcher.cluster.run_pod(scan_id, **pods.running(scan_id))
        await dispatcher.delete(scan_id)
        await dispatcher.cluster.run_pod(scan_id, **pods.terminated(scan_id, 143))
        await dispatcher.settle_down()
        other = await dispatcher.launched()
        await dispatcher.cluster.run_pod(other, **pods.running(other))
        await dispatcher.until(lambda: is_(stage(dispatcher, other), ("running", "")))
    assert (await dispatcher.scan(scan_id)).replaced_by_scan_id is None
    assert not dispatcher.has_job(scan_id)


async def test_a_job_that_appears_after_its_scan_was_deleted_is_stopped(dispatcher: Dispatcher) -> None:
    scan_id = await dispatcher.request(priority=0)
    await dispatcher.delete(scan_id)
    await dispatcher.settle_down()
    async with watching(dispatcher):
        # a create that the API server finished long after its caller had gone
        await dispatcher.launcher.launch(await dispatcher.scan(scan_id))
        await dispatcher.cluster.run_pod(scan_id, **pods.waiting(scan_id))
        await dispatcher.until(lambda: is_(no_job(dispatcher, scan_id), True))


async def test_dropped_watches_go_on_where_they_were_without_a_new_list(dispatcher: Dispatcher) -> None:
    scan_id = await dispatcher.launched()
    async with watching(dispatcher):
        lists = dispatcher.cluster.count("GET", "pods")
        for n, make in enumerate((pods.waiting, pods.running) * 3):
            dispatcher.cluster.cut_watches()
            await dispatcher.cluster.run_pod(scan_id, **make(scan_id))
            expected = ("running", "") if n % 2 else ("scheduled", "")
            await dispatcher.until(lambda expected=expected: is_(stage(dispatcher, scan_id), expected))  # type: ignore[misc]
        assert dispatcher.cluster.count("GET", "pods") == lists


async def test_a_forgotten_version_means_a_new_list_and_nothing_is_missed(dispatcher: Dispatcher) -> None:
    first, second = await dispatcher.launched(), await dispatcher.launched()
    async with watching(dispatcher):
        dispatcher.cluster.fail("WATCH", "pods", 503, times=2)
        dispatcher.cluster.fail("WATCH", "jobs", 503, times=2)
        dispatcher.cluster.cut_watches()
        await dispatcher.cluster.run_pod(first, **pods.running(first))
        await dispatcher.cluster.remove("jobs", f"skyscan-{second}")
        dispatcher.cluster.forget_versions()
        await dispatcher.until(lambda: is_(stage(dispatcher, first), ("running", "")))
        await dispatcher.until(lambda: was_replaced(dispatcher, second))


async def test_a_version_that_is_said_to_be_gone_within_the_stream_means_a_new_list(dispatcher: Dispatcher) -> None:
    scan_id = await dispatcher.launched()
    for kind in ("jobs", "pods"):
        dispatcher.cluster.fail("WATCH", kind, 410, "too old resource version", in_stream=True)
    async with watching(dispatcher):
        for kind in ("jobs", "pods"):
            await dispatcher.cluster.until_asked("GET", kind, 2)
        await dispatcher.cluster.run_pod(scan_id, **pods.running(scan_id))
        await dispatcher.until(lambda: is_(stage(dispatcher, scan_id), ("running", "")))


async def test_bookmarks_keep_a_quiet_watch_from_falling_behind(dispatcher: Dispatcher) -> None:
    scan_id = await dispatcher.launched()
    cluster = dispatcher.cluster
    async with watching(dispatcher):
        lists, watches = cluster.count("GET", "pods"), cluster.count("WATCH", "pods")
        cluster.bookmark()
        cluster.oldest = cluster.version  # all before is compacted away; the bookmark is not
        await cluster.run_pod(scan_id, **pods.waiting(scan_id))
        await dispatcher.until(lambda: is_(stage(dispatcher, scan_id), ("scheduled", "")))
        cluster.cut_watches()
        await cluster.until_asked("WATCH", "pods", watches + 1)
        await cluster.run_pod(scan_id, **pods.running(scan_id))
        await dispatcher.until(lambda: is_(stage(dispatcher, scan_id), ("running", "")))
        assert cluster.count("GET", "jobs") == 1, "Jobs did not change, their watch lives by bookmarks alone"
        assert cluster.count("GET", "pods") == lists


async def test_what_a_proxy_says_instead_of_the_api_is_waited_out(dispatcher: Dispatcher) -> None:
    scan_id = await dispatcher.launched()
    for method in ("GET", "WATCH"):
        for page in ("<html>Bad gateway</html>", "[]", "{}"):
            dispatcher.cluster.fail(method, "pods", page=page)
    async with watching(dispatcher):
        await dispatcher.cluster.run_pod(scan_id, **pods.running(scan_id))
        await dispatcher.until(lambda: is_(stage(dispatcher, scan_id), ("running", "")))


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429, "headers": {"Retry-After": "1"}}, {"drop": True}])
async def test_lists_and_watches_survive_faults(dispatcher: Dispatcher, fault: dict[str, Any]) -> None:
    scan_id = await dispatcher.launched()
    for method in ("GET", "WATCH"):
        for kind in ("jobs", "pods", "leases"):
            dispatcher.cluster.fail(method, kind, **fault)
    async with watching(dispatcher):
        await dispatcher.cluster.run_pod(scan_id, **pods.running(scan_id))
        await dispatcher.until(lambda: is_(stage(dispatcher, scan_id), ("running", "")))


async def test_an_api_server_that_asks_for_patience_gets_it(dispatcher: Dispatcher) -> None:
    busy: dict[str, Any] = {"status": 429, "headers": {"Retry-After": "2"}}
    cluster, clock = dispatcher.cluster, asyncio.get_running_loop().time
    cluster.fail("GET", "leases", **busy)
    began = clock()
    async with watching(dispatcher):
        assert clock() - began >= 2
        cluster.fail("WATCH", "pods", **busy)
        cluster.fail("GET", "jobs", **busy)
        watches, lists = cluster.count("WATCH", "pods"), cluster.count("GET", "jobs")
        began = clock()
        cluster.forget_versions()
        await cluster.until_asked("WATCH", "pods", watches + 3)  # gone, busy, fine
        await cluster.until_asked("GET", "jobs", lists + 2)
        assert clock() - began >= 2


async def test_versions_that_are_gone_again_and_again_do_not_mean_a_list_at_once_each_time(dispatcher: Dispatcher) -> None:
    dispatcher.cluster.fail("WATCH", "pods", 410, times=3)
    clock = asyncio.get_running_loop().time
    began = clock()
    async with watching(dispatcher):
        await dispatcher.cluster.until_asked("WATCH", "pods", 4)
        assert clock() - began > 1.6
        assert dispatcher.cluster.count("GET", "pods") == 4


async def test_one_replica_watches_and_another_takes_over(store: Store, dispatcher: Dispatcher) -> None:
    other = a_dispatcher(store, dispatcher.cluster, dispatcher.client, "two")
    scan_id = await dispatcher.launched()
    stop_first, stop_second = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(dispatcher.watch.run(stop_first))
    await dispatcher.cluster.until_watched(3)
    second = asyncio.create_task(other.watch.run(stop_second))
    await dispatcher.cluster.until_asked("GET", "leases", 4)
    assert (dispatcher.leadership.leads, other.leadership.leads) == (True, False)
    first.cancel()  # as if killed: the lease is not given back … by the watch, which gives it back on its way out
    await asyncio.gather(first, return_exceptions=True)
    await other.until(lambda: is_(leads(other), True))
    await other.cluster.run_pod(scan_id, **pods.running(scan_id))
    await other.until(lambda: is_(stage(other, scan_id), ("running", "")))
    stop_second.set()
    await second


async def test_a_lease_whose_holder_is_silent_is_free_after_its_time(store: Store, dispatcher: Dispatcher) -> None:
    await dispatcher.leadership.renew()
    other = a_dispatcher(store, dispatcher.cluster, dispatcher.client, "two")
    await other.leadership.renew()
    assert (dispatcher.leadership.leads, other.leadership.leads) == (True, False)

    async def leads() -> bool:
        await other.leadership.renew()
        return other.leadership.leads

    await until(leads, "the other has the lease")
    assert not dispatcher.leadership.leads
    await dispatcher.leadership.renew()
    assert not dispatcher.leadership.leads


async def test_after_a_restart_database_and_cluster_are_made_to_agree(dispatcher: Dispatcher) -> None:
    fine, vanished, deleted = [await dispatcher.launched() for _ in range(3)]
    finished = await dispatcher.launched()
    await dispatcher.store.append("progress", finished, ev.ResultReceived(digest="sha256:1", size_bytes=1, is_final=True))
    await dispatcher.cluster.remove("jobs", f"skyscan-{vanished}")
    await dispatcher.delete(deleted)
    await dispatcher.store.pool.execute("DELETE FROM due_work WHERE kind = 'stop'")
    unknown = a_queued_scan(new_scan_id())
    await dispatcher.launcher.launch(unknown)
    waiting = await dispatcher.request()
    await dispatcher.launcher.launch(await dispatcher.scan(waiting))
    await dispatcher.watchdog.reconcile()
    await dispatcher.settle_down()
    for scan_id, has_job in ((fine, True), (vanished, False), (deleted, False), (unknown.scan_id, False), (finished, True)):
        assert dispatcher.has_job(scan_id) == has_job
    assert (await dispatcher.scan(vanished)).replaced_by_scan_id is not None
    assert dispatcher.has_job(waiting)
    assert (await dispatcher.scan(fine)).replaced_by_scan_id is None


async def running(dispatcher: Dispatcher, number: int) -> list[ScanId]:
    """So many scans that run."""
    await set_throttle(dispatcher.store)
    scans = [await dispatcher.request() for _ in range(number)]
    await dispatcher.settle_down()
    return scans


async def test_a_dispatcher_of_another_world_does_not_replace_all_that_runs(store: Store, dispatcher: Dispatcher) -> None:
    now = 0.0
    scans = await running(dispatcher, 25)
    stranger = a_dispatcher(
        store,
        dispatcher.cluster,
        dispatcher.client,
        "two",
        instance="mistaken",
        divergence_limit=timedelta(minutes=10),
        clock=lambda: now,
    )
    for now in (0.0, 300.0, 599.0):  # noqa: B007  (the clock reads it)
        await stranger.watchdog.reconcile()
        assert stranger.watchdog.n_suspended == 25
    assert await store.pool.fetchval("SELECT count(*) FROM manifests") == 25
    assert all(dispatcher.has_job(ScanId(scan_id)) for scan_id in scans)
    # a handful that was lost is another matter: the right one acts at once
    ours = a_dispatcher(
        store, dispatcher.cluster, dispatcher.client, "three", divergence_limit=timedelta(minutes=10), clock=lambda: now
    )
    for scan_id in scans[:3]:
        await dispatcher.cluster.remove("jobs", f"skyscan-{scan_id}")
    await ours.watchdog.reconcile()
    assert ours.watchdog.n_suspended == 0
    assert await store.pool.fetchval("SELECT count(*) FROM manifests") == 28
    await ours.settle_down()
    # some more at once need a second look, a minute later
    for scan_id in scans[3:8]:
        await dispatcher.cluster.remove("jobs", f"skyscan-{scan_id}")
    assert await ours.watchdog.reconcile() == 60.0
    now += 59.0
    await ours.watchdog.reconcile()
    assert ours.watchdog.n_suspended == 0
    assert await store.pool.fetchval("SELECT count(*) FROM manifests") == 28
    now += 1.0
    await ours.watchdog.reconcile()
    assert await store.pool.fetchval("SELECT count(*) FROM manifests") == 33
    # what every look has shown for so long is believed: no scan waits for ever
    now = 660.0
    await stranger.watchdog.reconcile()
    assert stranger.watchdog.n_suspended == 0
    assert await store.pool.fetchval("SELECT count(*) FROM manifests") > 33


@pytest.mark.parametrize("number", [3, 15])
async def test_nor_does_it_in_the_usual_size(store: Store, dispatcher: Dispatcher, number: int) -> None:
    scans = await running(dispatcher, number)
    stranger = a_dispatcher(
        store, dispatcher.cluster, dispatcher.client, "two", instance="mistaken", divergence_limit=timedelta(minutes=10)
    )
    await stranger.watchdog.reconcile()
    assert stranger.watchdog.n_suspended == number
    assert await store.pool.fetchval("SELECT count(*) FROM manifests") == number
    assert all(dispatcher.has_job(ScanId(scan_id)) for scan_id in scans)


async def test_a_job_of_an_unknown_scan_is_stopped_only_after_it_was_unknown_for_a_while(
    store: Store, dispatcher: Dispatcher
) -> None:
    now = 0.0
    careful = a_dispatcher(
        store, dispatcher.cluster, dispatcher.client, "two", divergence_limit=timedelta(minutes=10), clock=lambda: now,
        unknown_limit=timedelta(minutes=10),
    )  # fmt: skip
    await running(dispatcher, 3)
    unknown = [a_queued_scan(new_scan_id()) for _ in range(2)]
    for scan in unknown:
        await dispatcher.launcher.launch(scan)
    for now in (0.0, 300.0, 599.0):  # noqa: B007  (the clock reads it)
        await careful.watchdog.reconcile()
        await careful.settle_down()
        assert all(dispatcher.has_job(scan.scan_id) for scan in unknown)
    now = 600.0
    await careful.watchdog.reconcile()
    await careful.settle_down()
    assert not any(dispatcher.has_job(scan.scan_id) for scan in unknown)


async def test_jobs_of_scans_that_an_empty_database_does_not_know_stay(store: Store, dispatcher: Dispatcher) -> None:
    now = 0.0
    scans = [a_queued_scan(new_scan_id()) for _ in range(25)]
    for scan in scans:
        await dispatcher.launcher.launch(scan)
    careful = a_dispatcher(
        store, dispatcher.cluster, dispatcher.client, "two", divergence_limit=timedelta(minutes=10), clock=lambda: now
    )  # fmt: skip
    async with watching(careful):
        for scan in scans:
            await careful.cluster.run_pod(scan.scan_id, **pods.running(scan.scan_id))
        for now in (0.0, 3600.0):  # noqa: B007  (the clock reads it)
            await careful.watchdog.reconcile()
            assert careful.watchdog.n_suspended == 25
            await careful.settle_down()
    assert all(dispatcher.has_job(scan.scan_id) for scan in scans)
    for scan in scans[2:]:
        await dispatcher.cluster.remove("jobs", f"skyscan-{scan.scan_id}")
    await careful.watchdog.reconcile()  # few are believed
    await careful.settle_down()
    assert not any(dispatcher.has_job(scan.scan_id) for scan in scans)


async def test_an_end_told_twice_or_by_two_replicas_makes_one_new_scan(store: Store, dispatcher: Dispatcher) -> None:
    other = a_dispatcher(store, dispatcher.cluster, dispatcher.client, "two")
    scan_id = await dispatcher.launched()
    await dispatcher.cluster.remove("jobs", f"skyscan-{scan_id}")
    await asyncio.gather(*(each.watchdog.reconcile() for each in (dispatcher, other) * 3))
    assert await store.pool.fetchval("SELECT count(*) FROM manifests") == 2


async def test_who_no_longer_leads_does_not_act_on_what_it_saw_before(store: Store, dispatcher: Dispatcher) -> None:
    leads = [False]
    former = a_dispatcher(store, dispatcher.cluster, dispatcher.client, "two", may_act=lambda: leads[0])
    scan_id = await dispatcher.launched()
    former.pending.put(ScannerStatus(scan_id=scan_id, stage=ScannerStage.RUNNING))
    assert await former.watchdog.handle_event() is not True
    assert await stage(dispatcher, scan_id) == ("", "")
    leads[0] = True  # it was late with its lease, and nobody had taken it: nothing is lost
    assert await former.watchdog.handle_event() is True
    assert await stage(dispatcher, scan_id) == ("running", "")


async def test_news_that_cannot_be_dealt_with_now_are_not_lost(dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = await dispatcher.launched(), await dispatcher.launched()
    for scan_id in (first, second):
        dispatcher.pending.put(ScannerStatus(scan_id=scan_id, stage=ScannerStage.RUNNING))
    with monkeypatch.context() as patched:
        patched.setattr(dispatcher.watchdog, "_on", lambda _: away())
        for _ in range(3):
            with pytest.raises(TryLater):
                await dispatcher.watchdog.handle_event()
    await dispatcher.settle_down()
    assert {await stage(dispatcher, first), await stage(dispatcher, second)} == {("running", "")}


async def test_news_that_break_us_do_not_hold_up_the_others(dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = await dispatcher.launched(), await dispatcher.launched()
    for scan_id in (first, second):
        dispatcher.pending.put(ScannerStatus(scan_id=scan_id, stage=ScannerStage.RUNNING))
    with monkeypatch.context() as patched:
        patched.setattr(dispatcher.watchdog, "_on", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await dispatcher.watchdog.handle_event()
    await dispatcher.settle_down()
    assert await stage(dispatcher, second) == ("running", "")


# conditions


def away() -> Any:
    raise TryLater("the database is away")


async def is_(value: Any, expected: Any) -> bool:
    return bool((await value) == expected)


async def leads(dispatcher: Dispatcher) -> bool:
    return dispatcher.leadership.leads


async def states(dispatcher: Dispatcher, scans: list[ScanId]) -> set[str]:
    return {(await dispatcher.scan(scan_id)).launch.state for scan_id in scans}


async def no_job(dispatcher: Dispatcher, scan_id: ScanId) -> bool:
    return not dispatcher.has_job(scan_id)


async def was_replaced(dispatcher: Dispatcher, scan_id: ScanId) -> bool:
    return (await dispatcher.scan(scan_id)).replaced_by_scan_id is not None


async def has_failed(dispatcher: Dispatcher, scan_id: ScanId) -> bool:
    return (await dispatcher.scan(scan_id)).launch.state == "failed"


async def count_is(store: Store, kind: str, number: int) -> bool:
    return bool(await store.pool.fetchval("SELECT count(*) FROM due_work WHERE kind = $1", kind) == number)


async def test_a_scanner_that_prints_what_jsonb_does_not_take_is_judged_all_the_same(dispatcher: Dispatcher) -> None:
    scan_id = await dispatcher.launched()
    dispatcher.pending.put(ScannerExit(scan_id=scan_id, exit_code=0, log_tail="half a word: \0 \ud800"))
    assert await dispatcher.watchdog.handle_event() is True
    await dispatcher.hasten()
    scan = await dispatcher.scan(scan_id)
    assert (scan.launch.state, scan.launch.log_tail) == ("failed", "half a word: \ufffd \ufffd")


async def test_a_text_that_jsonb_does_not_take_hides_no_scan_that_should_run(dispatcher: Dispatcher) -> None:
    waits, runs = await dispatcher.launched(), await dispatcher.launched()
    await dispatcher.store.append("dispatcher", waits, ev.ScannerStageChanged(stage=ScannerStage.SCHEDULED, code="", text=""))
    await dispatcher.store.append("dispatcher", runs, ev.ScannerStageChanged(stage=ScannerStage.RUNNING, code="", text=""))
    for scan_id in (waits, runs):
        errors = {'a \0 and "stage":"scheduled"': 3}
        await dispatcher.store.append("ewms_bridge", scan_id, ev.WorkforceChanged(statuses={}, n_running=0, top_errors=errors))
    running = await statements.load_expected(dispatcher.store.pool)
    assert {scan_id: one.stage for scan_id, one in running.items()} == {waits: "scheduled", runs: "running"}
