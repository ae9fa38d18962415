"""Background loops and errors of the database: each step is taken again until it succeeds, whatever the error and its place."""

import asyncio
from collections import Counter

import pytest
from structlog.testing import capture_logs

from skydriver_common.backoff import Backoff
from skydriver_common.db.schedule import NOW, Schedule
from skydriver_common.runtime import loops
from skydriver_common.runtime.loops import LoopSignals, run_loop
from tests.support.faulty_database import DEFECTS, OF_DATA, OUTAGES, OWN, PLACES, faulty_database
from tests.support.histories import Store, a_context, a_report
from tests.support.waiting import until


async def test_a_loop_outlives_every_error_of_the_database_and_does_the_work_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for a repair is logged as an error, what passes by itself is not, and the data's own fault is a bug of ours."""
    monkeypatch.setattr(loops, "OUTAGE", Backoff(first_s=0.001, cap_s=0.001))
    monkeypatch.setattr(loops, "FAILURE", Backoff(first_s=0.001, cap_s=0.001))
    scan_id, pulse, done, failed = await store.a_scan(), LoopSignals(), 0, Counter[str]()
    number = 0

    async def step() -> bool:
        nonlocal done
        if done == number:
            return False
        async with store.uows["progress"].on_scans(a_context(f"step {number}"), [scan_id]) as tx:
            await tx.connection.fetch(OWN)
            tx.append(scan_id, [a_report(number)])
        done = number
        return True

    async def is_done() -> bool:
        return done == number

    loop = asyncio.create_task(run_loop(step, pulse, name="test", idle_s=0.01, on_failure=lambda name: failed.update([name])))
    try:
        with capture_logs() as logs:
            async with faulty_database(monkeypatch) as database:
                for code in OUTAGES + DEFECTS + OF_DATA:
                    for place in PLACES:
                        logs.clear()
                        before = failed["test"]
                        database.fails(place, code, 3)
                        number += 1
                        pulse.wake()
                        await until(is_done)
                        assert (database.met, failed["test"] - before) == (3, 3), (code, place)
                        recorded = {entry["event"] for entry in logs if entry["event"].startswith("loop.")}
                        assert recorded == {"loop.failed" if code in OF_DATA else "loop.retrying"}, (code, place)
                        is_defect = any(entry["event"] == "database.defect" for entry in logs)
                        assert is_defect == (code in DEFECTS), (code, place)
    finally:
        pulse.stop()
        await loop
    assert await store.pool.fetchval("SELECT count(*) FROM event_log WHERE type = 'scan.progress-reported'") == number


async def test_due_work_that_meets_an_error_of_the_database_stays_due(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher or a watch that could not record what it did finds the same work again."""
    monkeypatch.setattr(loops, "OUTAGE", Backoff(first_s=0.001, cap_s=0.001))
    monkeypatch.setattr(loops, "FAILURE", Backoff(first_s=0.001, cap_s=0.001))
    schedule, pulse = Schedule(store.pool, store.notifier, holder="test"), LoopSignals()
    ended = Counter[str]()

    async def step() -> bool:
        work = await schedule.claim("test.work")
        if work is None:
            return False
        try:
            async with store.uows["progress"].on_scans(a_context(), [work.scan_id]) as tx:
                await tx.connection.fetch(OWN)
                tx.append(work.scan_id, [a_report(1)])
                tx.due.finish(work)
        except BaseException:
            await schedule.postpone(work, NOW)
            raise
        ended[work.scan_id] += 1
        return True

    loop = asyncio.create_task(run_loop(step, pulse, name="test", idle_s=0.01))
    try:
        with capture_logs():
            async with faulty_database(monkeypatch) as database:
                for code in OUTAGES + DEFECTS:
                    for place in PLACES:
                        scan_id = await store.a_scan()
                        database.fails(place, code, 2)
                        await schedule.put("test.work", scan_id)

                        async def is_done(key: str = scan_id) -> bool:
                            return ended[key] > 0

                        await until(is_done)
                        assert database.met == 2, (code, place)
    finally:
        pulse.stop()
        await loop
    assert set(ended.values()) == {1}
    assert await store.pool.fetchval("SELECT count(*) FROM due_work WHERE kind = 'test.work'") == 0
