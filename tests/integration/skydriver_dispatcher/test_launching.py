"""From the backlog to the cluster: order, throttle, refusals, races with deletion."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from skydriver_common.db.schedule import DueWork, Schedule
from skydriver_common.faults import TryLater
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.model import events as ev
from skydriver_common.model.commands import Context
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_common.runtime.loops import LoopSignals, run_loop
from skydriver_dispatcher import store as statements
from skydriver_dispatcher.due_kinds import DueKind
from skydriver_dispatcher.launch_steps import LaunchSteps
from skydriver_dispatcher.launcher_events import CapacityFreed
from tests.support.dispatchers import Dispatcher, a_dispatcher, set_throttle
from tests.support.histories import Store, a_context
from tests.support.waiting import until

HANDS = 4
QUOTA: dict[str, Any] = {"status": 403, "message": 'jobs.batch "x" is forbidden: exceeded quota: scans, used: 5, limited: 5'}


async def queue(store: Store, **scans: tuple[int, float]) -> None:
    """Waiting scans by name: priority, hours of waiting."""
    schedule = Schedule(store.pool, store.notifier, holder="x")
    for name, (priority, hours) in scans.items():
        await schedule.put(DueKind.LAUNCH, ScanId(name), priority=priority)
        await store.pool.execute(
            "UPDATE due_work SET created_at = now() - make_interval(secs => $2) WHERE scan_id = $1", name, hours * 3600
        )


async def claim(store: Store, holder: str = "x") -> Any:
    return await statements.claim_launch(store.pool, holder=holder, lease=timedelta(seconds=60))


async def order(store: Store) -> list[ScanId]:
    names = []
    while isinstance(work := await claim(store), DueWork):
        names.append(work.scan_id)
    return names


@asynccontextmanager
async def hands(dispatcher: Dispatcher) -> AsyncIterator[None]:
    """All hands of one replica at work, as in the service."""
    pulses = [LoopSignals() for _ in range(HANDS + 1)]
    steps = [*(dispatcher.launch_steps.new_worker() for _ in range(HANDS)), dispatcher.launch_steps.new_urgent_worker()]
    loops = [
        asyncio.create_task(run_loop(step, pulse, name="launch", idle_s=0.03))
        for step, pulse in zip(steps, pulses, strict=True)
    ]
    try:
        yield
    finally:
        for pulse in pulses:
            pulse.stop()
        await asyncio.gather(*loops)


def are(dispatcher: Dispatcher, scans: list[ScanId], what: Callable[[Scan], bool]) -> Callable[[], Awaitable[bool]]:
    """Whether this is true of all these scans."""

    async def asked() -> bool:
        return all([what(await dispatcher.scan(ScanId(scan_id))) for scan_id in scans])

    return asked


async def test_urgent_scans_come_first_by_priority_and_age_then_the_others_by_priority_and_waiting(store: Store) -> None:
    await set_throttle(store)
    await queue(store, low=(0, 0), old=(0, 1), high=(99, 0), urgent=(100, 0), older_urgent=(100, 1), most_urgent=(500, 0))
    assert await order(store) == ["most_urgent", "older_urgent", "urgent", "high", "old", "low"]


async def test_nothing_starves_a_point_of_priority_is_worth_a_quarter_of_an_hour(store: Store) -> None:
    await set_throttle(store)
    await queue(store, patient=(0, 10.1), important=(40, 0), lesser=(39, 0))
    assert await order(store) == ["patient", "important", "lesser"]
    await store.pool.execute("DELETE FROM due_work")
    await queue(store, patient=(0, 9.9), important=(40, 0))
    assert await order(store) == ["important", "patient"]


async def test_no_waiting_makes_a_scan_urgent(store: Store) -> None:
    await set_throttle(store, interval_s=300)
    await queue(store, ancient=(99, 10_000), urgent=(100, 0), other=(99, 10_000))
    assert await order(store) == ["urgent", "ancient"]


async def test_the_interval_holds_over_all_replicas_and_urgent_scans_neither_wait_nor_use_it_up(store: Store) -> None:
    await set_throttle(store, interval_s=300)
    await queue(store, **{f"low{n}": (n, 0) for n in range(5)}, **{f"urgent{n}": (100, 0) for n in range(3)})
    claimed = await asyncio.gather(*(claim(store, f"replica{n}") for n in range(8)))
    names = sorted(work.scan_id for work in claimed if isinstance(work, DueWork))
    assert names == ["low4", "urgent0", "urgent1", "urgent2"]
    wait = await claim(store)
    assert isinstance(wait, float)
    assert 50 < wait <= 300


async def test_the_cap_counts_what_runs_and_what_is_being_started(store: Store, dispatcher: Dispatcher) -> None:
    await set_throttle(store, max_running=3)
    await dispatcher.launched()
    await queue(store, **{f"low{n}": (0, 0) for n in range(6)})
    claimed = await asyncio.gather(*(claim(store, f"replica{n}") for n in range(5)))
    assert sum(isinstance(work, DueWork) for work in claimed) == 2
    await queue(store, urgent=(100, 0))
    assert (await claim(store)).scan_id == "urgent"


async def test_a_launch_that_is_written_down_while_another_replica_counts_counts(store: Store, dispatcher: Dispatcher) -> None:
    await set_throttle(store, max_running=1)
    first = await dispatcher.request()
    await queue(store, second=(0, 0))
    assert (await claim(store, "one")).scan_id == first
    # stop the count right after it has begun
    await store.pool.execute(
        """ALTER TABLE manifests RENAME TO kept_manifests;
           CREATE VIEW manifests AS SELECT m.* FROM (SELECT pg_advisory_lock_shared(77) OFFSET 0) AS wait, kept_manifests m"""
    )
    async with store.pool.acquire() as connection, store.pool.acquire() as other:
        await connection.execute("SELECT pg_advisory_lock(77)")
        counting = asyncio.create_task(claim(store, "two"))
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        await until(lambda: other.fetchval(waits))
        async with other.transaction():
            await other.execute("UPDATE kept_manifests SET launch_state = 'launched' WHERE scan_id = $1", first)
            await other.execute("DELETE FROM due_work WHERE scan_id = $1", first)
        await connection.execute("SELECT pg_advisory_unlock(77)")
        assert not isinstance(await counting, DueWork)


async def test_what_was_set_at_run_time_stands_above_the_settings(store: Store) -> None:
    await set_throttle(store, interval_s=300)
    await store.pool.execute("UPDATE launch_throttle SET interval_s = 0, max_running = 2")
    await set_throttle(store, interval_s=600, max_running=1)
    await queue(store, **{f"low{n}": (0, 0) for n in range(4)})
    assert len(await order(store)) == 2


async def test_a_dead_replicas_claim_is_taken_over(store: Store) -> None:
    await set_throttle(store)
    await queue(store, low=(0, 0), urgent=(100, 0))
    assert await order(store) == ["urgent", "low"]
    await store.pool.execute("UPDATE due_work SET leased_until = now() - interval '1 second'")
    assert await order(store) == ["urgent", "low"]


@pytest.mark.parametrize("priority", [0, 100])
async def test_without_room_a_scan_waits_uses_no_attempt_up_and_starts_when_there_is_room(
    dispatcher: Dispatcher, priority: int
) -> None:
    await set_throttle(dispatcher.store)
    dispatcher.cluster.fail("POST", "jobs", **QUOTA, times=100)
    scan_id = await dispatcher.request(priority=priority)
    for _ in range(5):
        await dispatcher.hasten()
    scan = await dispatcher.scan(scan_id)
    assert scan.is_waiting
    assert scan.launch.attempts == 0
    assert await dispatcher.codes(scan_id) == ["launch-deferred"]
    assert [event.type for event in await dispatcher.events(scan_id)] == [
        "scan.requested", "scan.launch-attempted", "scan.launch-deferred",
    ]  # fmt: skip
    dispatcher.cluster.faults.clear()
    await dispatcher.hasten()
    assert (await dispatcher.scan(scan_id)).launch.state == "launched"


async def test_a_full_quota_holds_the_others_back_but_not_an_urgent_scan(dispatcher: Dispatcher) -> None:
    await set_throttle(dispatcher.store)
    dispatcher.cluster.fail("POST", "jobs", **QUOTA, times=1)
    waiting = [await dispatcher.request() for _ in range(10)]
    await dispatcher.settle_down()
    assert dispatcher.cluster.count("POST", "jobs") == 1
    urgent = await dispatcher.launched()
    assert dispatcher.cluster.count("POST", "jobs") == 2
    await dispatcher.settle_down()
    assert dispatcher.cluster.count("POST", "jobs") == 2
    # when a Job is gone there is room: the hold ends, and what was put off is due
    dispatcher.pending.put(CapacityFreed())
    await dispatcher.delete(urgent)
    await dispatcher.settle_down()
    assert {(await dispatcher.scan(scan_id)).launch.state for scan_id in waiting} == {"launched"}


async def test_an_answer_of_429_is_waited_for(dispatcher: Dispatcher) -> None:
    await set_throttle(dispatcher.store)
    dispatcher.cluster.fail("POST", "jobs", 429, "busy", headers={"Retry-After": "9"})
    await dispatcher.request()
    before = await dispatcher.store.pool.fetchval("SELECT clock_timestamp()")
    await dispatcher.settle_down()
    held = await dispatcher.store.pool.fetchval("SELECT held_until FROM launch_throttle")
    after = await dispatcher.store.pool.fetchval("SELECT clock_timestamp()")
    assert before + timedelta(seconds=9) <= held <= after + timedelta(seconds=9)


async def test_a_longer_wait_stands_when_a_shorter_one_comes_after_it(store: Store) -> None:
    before = await store.pool.fetchval("SELECT clock_timestamp()")
    await statements.pause_launches(store.pool, for_s=30, because="429")
    await statements.pause_launches(store.pool, for_s=2, because="connection reset")
    row = await store.pool.fetchrow("SELECT held_until, held_because FROM launch_throttle")
    assert row is not None
    assert row["held_until"] >= before + timedelta(seconds=30)
    assert row["held_because"] == "429"


async def test_room_ends_the_wait_for_room_and_no_other(dispatcher: Dispatcher) -> None:
    """An API server that asks for patience, and a scan that has failed once, are not asked again because some Job has ended."""
    await set_throttle(dispatcher.store)
    dispatcher.cluster.fail("POST", "jobs", 429, "busy", headers={"Retry-After": "30"}, times=2)
    urgent, slow = await dispatcher.request(priority=100), await dispatcher.request()
    await dispatcher.settle_down()
    dispatcher.cluster.fail("POST", "jobs", 403, "no right", times=1)
    refused = await dispatcher.request(priority=100)
    dispatcher.cluster.fail("POST", "jobs", **QUOTA, times=1)
    await dispatcher.settle_down()
    roomless = await dispatcher.request(priority=100)
    await dispatcher.settle_down()
    asked = dispatcher.cluster.count("POST", "jobs")
    assert asked == 4
    for _ in range(3):
        dispatcher.pending.put(CapacityFreed())
        await dispatcher.settle_down()
    launched = {scan_id for scan_id in (urgent, slow, refused, roomless) if dispatcher.has_job(scan_id)}
    assert launched == {roomless}
    assert dispatcher.cluster.count("POST", "jobs") == asked + 1


async def test_room_made_while_kubernetes_is_away_changes_nothing_for_the_others(dispatcher: Dispatcher) -> None:
    await set_throttle(dispatcher.store)
    dispatcher.cluster.fail("POST", "jobs", 503, "away", headers={"Retry-After": "30"}, times=1)
    waiting = [await dispatcher.request() for _ in range(3)]
    await dispatcher.settle_down()
    dispatcher.pending.put(CapacityFreed())
    await dispatcher.settle_down()
    assert dispatcher.cluster.count("POST", "jobs") == 1
    await dispatcher.hasten()
    assert {(await dispatcher.scan(scan_id)).launch.state for scan_id in waiting} == {"launched"}


async def test_a_refusal_for_good_is_visible(dispatcher: Dispatcher) -> None:
    dispatcher.cluster.fail("POST", "jobs", 422, "Job.batch is invalid: spec.x: Invalid value")
    scan_id = await dispatcher.request(priority=100)
    await dispatcher.settle_down()
    scan = await dispatcher.scan(scan_id)
    assert scan.launch.state == "abandoned"
    assert scan.state == "STOPPED__PRESTARTUP"
    assert "Invalid value" in scan.launch.reason
    assert await dispatcher.codes(scan_id) == ["launch-abandoned"]
    assert isinstance((await dispatcher.events(scan_id))[-1], ev.LaunchAbandoned)


async def test_a_right_that_is_missing_ends_in_a_visible_refusal_after_the_attempts(dispatcher: Dispatcher) -> None:
    dispatcher.cluster.fail("POST", "jobs", 403, 'jobs.batch is forbidden: User "x" cannot create resource "jobs"', times=100)
    scan_id = await dispatcher.request(priority=100)
    for _ in range(5):
        await dispatcher.hasten()
    scan = await dispatcher.scan(scan_id)
    assert (scan.launch.state, scan.launch.failures) == ("abandoned", 3)
    assert "cannot create resource" in scan.launch.reason
    assert await dispatcher.codes(scan_id) == ["launch-abandoned"]
    assert [event.type for event in await dispatcher.events(scan_id)] == [
        "scan.requested", *["scan.launch-attempted", "scan.launch-failed"] * 3, "scan.launch-abandoned",
    ]  # fmt: skip
    assert dispatcher.cluster.count("POST", "jobs") == 3


async def test_a_launch_takes_no_longer_than_half_its_lease_whatever_the_launcher_does(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def for_ever(scan: Scan) -> str:
        raise AssertionError(await asyncio.Event().wait() or scan)

    monkeypatch.setattr(dispatcher.launcher, "launch", for_ever)
    schedule = Schedule(dispatcher.store.pool, dispatcher.store.notifier, holder="hasty", lease=timedelta(seconds=0.4))
    uow = dispatcher.store.uows["dispatcher"]
    launch_steps = LaunchSteps(dispatcher.store.pool, uow, schedule, dispatcher.launcher, max_attempts=3)
    scan_id = await dispatcher.request(priority=100)
    async with asyncio.timeout(120):
        await launch_steps.new_worker()()
    assert await dispatcher.codes(scan_id) == ["launch-deferred"]


async def test_a_scan_that_breaks_the_launcher_is_given_up_after_its_attempts_and_others_go_on(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = await dispatcher.request(priority=200, scanner_server_memory_bytes=None)
    original = dispatcher.launcher._environment

    def environment(scan: Any) -> dict[str, str]:
        if scan.scan_id == bad:
            raise ZeroDivisionError
        return original(scan)

    monkeypatch.setattr(dispatcher.launcher, "_environment", environment)
    good = await dispatcher.request(priority=100)
    for _ in range(4):
        await dispatcher.hasten()
    assert (await dispatcher.scan(good)).launch.state == "launched"
    scan = await dispatcher.scan(bad)
    assert (scan.launch.state, scan.launch.failures) == ("abandoned", 3)
    assert "failed 3 times; last error: " in scan.launch.reason


async def test_deleted_while_the_job_is_being_made_ends_with_nothing_running(dispatcher: Dispatcher) -> None:
    dispatcher.cluster.fail("POST", "jobs", delay_s=0.3, after=True)
    scan_id = await dispatcher.request(priority=100)
    launching = asyncio.ensure_future(dispatcher.launch())
    await dispatcher.cluster.until_asked("POST", "jobs")
    await dispatcher.delete(scan_id)
    while await dispatcher.launch_steps.stop_next() is True:  # finds nothing yet
        pass
    await launching
    await dispatcher.settle_down()
    assert not dispatcher.has_job(scan_id)
    assert [event.type for event in await dispatcher.events(scan_id)][-1] == "scan.deleted"


async def test_a_launch_without_an_answer_that_was_deleted_meanwhile_leaves_nothing(dispatcher: Dispatcher) -> None:
    dispatcher.cluster.fail("POST", "secrets", drop=True, after=True)
    dispatcher.cluster.fail("POST", "jobs", delay_s=0.2)
    scan_id = await dispatcher.request(priority=100)
    launching = asyncio.ensure_future(dispatcher.launch())
    await dispatcher.cluster.until_asked("POST", "jobs")
    await dispatcher.delete(scan_id)
    await launching
    await dispatcher.settle_down()
    assert not dispatcher.has_job(scan_id)


async def test_a_stop_that_is_under_way_does_not_stand_for_what_starts_behind_its_back(dispatcher: Dispatcher) -> None:
    dispatcher.cluster.fail("POST", "jobs", delay_s=0.2)
    scan_id = await dispatcher.request(priority=100)
    launching = asyncio.ensure_future(dispatcher.launch())
    await dispatcher.cluster.until_asked("POST", "jobs")
    await dispatcher.delete(scan_id)
    # another replica is at it: it has looked, found nothing, and is about to say that it is done
    other = Schedule(dispatcher.store.pool, dispatcher.store.notifier, holder="two")
    under_way = await other.claim(DueKind.STOP)
    assert under_way is not None
    await launching
    assert dispatcher.has_job(scan_id)
    await other.finish(under_way)
    await dispatcher.settle_down()
    assert not dispatcher.has_job(scan_id)


async def test_a_failing_stop_is_repeated_and_does_not_hold_up_others(dispatcher: Dispatcher) -> None:
    first, second = await dispatcher.launched(), await dispatcher.launched()
    dispatcher.cluster.fail("DELETE", "jobs", 503)
    await dispatcher.delete(first)
    await dispatcher.delete(second)
    await dispatcher.settle_down()
    assert dispatcher.has_job(first) != dispatcher.has_job(second)
    await dispatcher.hasten()
    assert not dispatcher.has_job(first)
    assert not dispatcher.has_job(second)


async def test_replicas_share_the_backlog_and_start_each_scan_once(store: Store, dispatcher: Dispatcher) -> None:
    await set_throttle(store)
    replicas = [a_dispatcher(store, dispatcher.cluster, dispatcher.client, f"r{n}") for n in range(4)]
    scans = [await dispatcher.request() for _ in range(30)]

    async def work(replica: Dispatcher) -> None:
        while await replica.launch() is True:
            pass

    await asyncio.gather(*(work(replica) for replica in replicas))
    assert {(await dispatcher.scan(scan_id)).launch.state for scan_id in scans} == {"launched"}
    assert dispatcher.cluster.count("POST", "jobs") == 30
    assert dispatcher.cluster.count("POST", "secrets") == 30


async def test_a_start_that_could_not_be_recorded_at_once_is_recorded_soon_and_not_made_again(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_throttle(dispatcher.store)
    scan_id = await dispatcher.request()
    on_scans, away = UnitOfWork.on_scans, [TryLater("the database is away", 0.0) for _ in range(2)]

    def flaky(self: UnitOfWork, context: Context, *args: Any, **kwargs: Any) -> Any:
        if context.command_id.endswith("/launched") and away:
            raise away.pop()
        return on_scans(self, context, *args, **kwargs)

    monkeypatch.setattr(UnitOfWork, "on_scans", flaky)
    await dispatcher.settle_down()
    assert away == []
    assert (await dispatcher.scan(scan_id)).launch.state == "launched"
    assert [event.type for event in await dispatcher.events(scan_id)] == [
        "scan.requested", "scan.launch-attempted", "scan.launched",
    ]  # fmt: skip


async def test_a_scan_with_its_final_result_is_not_started_again_whatever_its_launch_says(dispatcher: Dispatcher) -> None:
    await set_throttle(dispatcher.store)
    scan_id = await dispatcher.request()
    async with dispatcher.store.uows["progress"].on_scans(a_context(), [scan_id]) as tx:
        tx.append(scan_id, [ev.ResultReceived(digest="d", size_bytes=1, is_final=True)])
    await dispatcher.settle_down()
    assert not dispatcher.has_job(scan_id)
    assert await dispatcher.store.pool.fetchval("SELECT count(*) FROM backlog") == 0
    assert await dispatcher.store.pool.fetchval("SELECT count(*) FROM due_work WHERE kind = 'launch'") == 0


async def test_a_launch_interrupted_by_an_outage_goes_on_after_it_and_does_not_wait_for_the_end_of_its_own_lease(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_throttle(dispatcher.store)
    scan_id = await dispatcher.request()
    on_scans, away = UnitOfWork.on_scans, [TryLater("the database is away", 0.0)]

    def flaky(self: UnitOfWork, context: Context, *args: Any, **kwargs: Any) -> Any:
        if context.actor == "dispatcher/launcher" and away:
            raise away.pop()
        return on_scans(self, context, *args, **kwargs)

    monkeypatch.setattr(UnitOfWork, "on_scans", flaky)
    with pytest.raises(TryLater):
        await dispatcher.launch()
    await dispatcher.settle_down()
    assert (await dispatcher.scan(scan_id)).launch.state == "launched"


async def test_the_hands_of_one_process_start_each_scan_once(dispatcher: Dispatcher) -> None:
    await set_throttle(dispatcher.store)
    for number in range(20):  # uneven, so that hands come back while others are still busy
        dispatcher.cluster.fail("POST", "jobs", delay_s=0.05 * (number % 5))
    scans = []
    async with hands(dispatcher):
        for number in range(20):
            scans.append(await dispatcher.request())
            if number % 2:
                await dispatcher.cluster.until_asked("POST", "jobs", number)
        await until(are(dispatcher, scans, lambda scan: scan.launch.state == "launched"))
    assert dispatcher.cluster.count("POST", "jobs") == 20
    assert dispatcher.cluster.count("POST", "secrets") == 20
    assert dispatcher.cluster.count("GET", "jobs") == 0


async def test_a_hand_that_has_nothing_to_do_leaves_the_scan_of_another_alone(dispatcher: Dispatcher) -> None:
    """After its restart an API server forbids everything for a moment: one attempt of the scan is used up, not one for each hand."""
    await set_throttle(dispatcher.store)
    dispatcher.cluster.fail("POST", "jobs", 403, 'jobs.batch is forbidden: User "x" cannot create', times=10, delay_s=0.3)
    scan_id = await dispatcher.request()
    async with hands(dispatcher):
        await dispatcher.cluster.until_asked("POST", "jobs")
        await until(are(dispatcher, [scan_id], lambda scan: scan.launch.failures > 0))
    assert (await dispatcher.scan(scan_id)).launch.failures == 1
    assert dispatcher.cluster.count("POST", "jobs") == 1


@pytest.mark.parametrize("outcome", ["refused for good", "refused", "broken", "deleted"])
async def test_a_scan_that_is_not_launched_leaves_its_place_in_the_interval_to_the_next(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    await set_throttle(dispatcher.store, interval_s=300)
    first = await dispatcher.request(priority=50)
    match outcome:
        case "refused for good":
            dispatcher.cluster.fail("POST", "jobs", 422, "Job.batch is invalid: spec.x: Invalid value", times=1)
        case "refused":
            dispatcher.cluster.fail("POST", "jobs", 403, "no right", times=1)
        case "broken":
            launch, calls = dispatcher.launcher.launch, iter([True])

            async def breaks_once(scan: Scan) -> str:
                if next(calls, False):
                    raise ValueError("a bug")
                return await launch(scan)

            monkeypatch.setattr(dispatcher.launcher, "launch", breaks_once)
        case "deleted":
            # its row is there again though it does not wait any more
            await dispatcher.delete(first)
            await dispatcher.schedule.put(DueKind.LAUNCH, first, priority=50)
    others = [await dispatcher.request() for _ in range(2)]
    await dispatcher.settle_down()
    states = [(await dispatcher.scan(scan_id)).launch.state for scan_id in (first, *others)]
    assert states[0] != "launched"
    assert states[1:] == ["launched", "queued"]


async def test_a_place_that_is_given_back_late_does_not_free_the_place_of_a_launch(store: Store) -> None:
    await set_throttle(store, interval_s=300)
    await queue(store, a=(50, 0), b=(40, 0), c=(30, 0))
    late = await claim(store)
    await store.pool.execute("UPDATE launch_throttle SET next_at = now()")  # five minutes later
    assert (await claim(store)).scan_id == "b"
    await statements.release_interval(store.pool, late)
    assert isinstance(await claim(store), float)
