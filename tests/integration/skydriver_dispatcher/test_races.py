"""Launch and deletion at the same time, with faults in between, in many orders: nothing is left running, nothing runs twice, and
what was not deleted runs."""

import asyncio
import random
from contextlib import suppress

import pytest

from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from tests.support import pods
from tests.support.dispatchers import Dispatcher, a_dispatcher, set_throttle
from tests.support.histories import Store
from tests.support.waiting import pause, until

FAULTS = (
    {"drop": True}, {"drop": True, "after": True}, {"status": 500}, {"status": 500, "after": True}, {"status": 429},
    {"status": 403, "message": "exceeded quota: scans"}, {"delay_s": 0.05}, {"delay_s": 0.8, "after": True},
)  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_the_order_what_was_deleted_is_gone_and_what_was_not_runs_once(
    store: Store, dispatcher: Dispatcher, seed: int
) -> None:
    rng = random.Random(seed)
    await set_throttle(store)
    replicas = [
        a_dispatcher(store, dispatcher.cluster, dispatcher.client, name, call_timeout_s=0.5) for name in ("impatient", "two")
    ]
    # slow creates, some of them finished by the API server only after we have stopped waiting: deletions fall in between
    for delay_s in rng.sample((0.2, 0.2, 0.2, 0.2, 0.3, 0.3, 0.7, 0.7, 0.7, 0.7), 10):
        dispatcher.cluster.fail("POST", "jobs", delay_s=delay_s)
    for _ in range(12):
        kind, method = rng.choice(["jobs", "secrets"]), rng.choice(["POST", "POST", "DELETE"])
        dispatcher.cluster.fail(method, kind, **rng.choice(FAULTS))
    stopping, done = asyncio.Event(), asyncio.Event()

    async def work(replica: Dispatcher) -> None:
        while not done.is_set():
            with suppress(TryLater):
                await replica.settle_down()
            await pause(0.01)

    async def life() -> tuple[str, bool]:
        await pause(rng.random() * 0.3)
        scan_id, is_deleted = await dispatcher.request(priority=rng.choice([0, 100])), rng.random() < 0.7
        if is_deleted:
            await pause(rng.random() * 0.5)
            await dispatcher.delete(scan_id)
        return scan_id, is_deleted

    watching = asyncio.create_task(replicas[0].watch.run(stopping))
    working = [asyncio.create_task(work(replica)) for replica in replicas]
    scans = await asyncio.gather(*(life() for _ in range(12)))
    wanted = {scan_id for scan_id, is_deleted in scans if not is_deleted}

    async def as_wished() -> bool:
        jobs = {name.removeprefix("skyscan-") for kind, _, name in dispatcher.cluster.objects if kind == "jobs"}
        secrets = {name.removeprefix("skyscan-") for kind, _, name in dispatcher.cluster.objects if kind == "secrets"}
        states = {(await dispatcher.scan(ScanId(scan_id))).launch.state for scan_id in wanted}
        return jobs == secrets == wanted and states <= {"launched"}  # the dice may have deleted them all

    async def are_settled() -> bool:
        if await as_wished():
            return True
        for each in (watching, *working):
            if each.done():
                await each  # it does not end by itself: here is why
        await store.pool.execute("UPDATE due_work SET due_at = now() WHERE leased_until IS NULL AND due_at > now()")
        await store.pool.execute("UPDATE launch_throttle SET held_until = '-infinity', no_room_until = '-infinity'")
        for scan_id, _ in scans:  # the Job controller makes pods: an orphan shows up
            if dispatcher.cluster.find("jobs", f"skyscan-{scan_id}"):
                await dispatcher.cluster.run_pod(ScanId(scan_id), **pods.waiting(ScanId(scan_id)))
        return False

    await until(are_settled, "database and cluster are as the scans' users wish", 120)
    done.set()
    stopping.set()
    await asyncio.gather(watching, *working)
    assert await store.pool.fetchval("SELECT count(*) FROM manifests") == len(scans), "a scan was replaced without need"
