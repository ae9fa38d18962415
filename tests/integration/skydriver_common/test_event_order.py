"""In the order in which readers and the relay see them, each scan's events come by version, whoever else writes beside."""

import asyncio
import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from skydriver_common.db.pool import Connection
from skydriver_common.log import read, system_chain
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.model.events import SYSTEM_CHAIN, ThrottleChanged
from skydriver_common.model.ids import ScanId
from skydriver_ops.eventlog import archive, selection, transfer
from skydriver_ops.eventlog.verify import verify
from tests.support.histories import Store, a_context, a_report
from tests.support.waiting import until


def _replica(store: Store) -> UnitOfWork:
    """A process of its own: its decisions share no transaction with those of others."""
    return UnitOfWork(store.pool, store.notifier, writer="progress")


async def _write(uow: UnitOfWork, scans: Sequence[ScanId], go_on: asyncio.Event | None = None) -> None:
    async with uow.on_scans(a_context(), scans) as tx:
        if go_on is not None:
            await go_on.wait()
        for scan_id in scans:
            tx.append(scan_id, [a_report(1, text=uuid.uuid4().hex)])


async def _waiting(store: Store) -> int:
    """How many transactions wait for another."""
    return int(await store.pool.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


async def _out_of_order(connection: Connection) -> list[tuple[ScanId, int]]:
    """(scan id, version) of events that readers see before one of the same scan that was written earlier."""
    versions: dict[ScanId, int] = {}
    found = []
    async for page in selection.iter_pages(connection):
        for event in (one.event for one in page):
            if event.version != versions.get(event.scan_id, 0) + 1:
                found.append((event.scan_id, event.version))
            versions[event.scan_id] = max(event.version, versions.get(event.scan_id, 0))
    return found


async def _proves_itself(store: Store, folder: Path) -> None:
    async with store.pool.acquire() as connection:
        assert await _out_of_order(connection) == []
        assert (await verify(connection)).breaks == []
        later = datetime.now(UTC) + timedelta(days=1)
        await transfer.export(connection, folder / "past", until=later, on_progress=lambda _: None)
    assert archive.check(folder / "past").tally.breaks == []


async def test_one_that_waits_for_a_scan_does_not_fall_behind_on_another(store: Store, tmp_path: Path) -> None:
    a, b, c = sorted([await store.a_scan() for _ in range(3)])
    go_on = asyncio.Event()
    holds_b = asyncio.create_task(_write(_replica(store), [b], go_on))
    waits_for_b = asyncio.create_task(_write(_replica(store), [a, b, c]))
    await until(lambda: _waits(store, 1))
    beside = asyncio.create_task(_write(_replica(store), [c]))

    async def beside_is_done_or_waits() -> bool:
        return beside.done() or await _waiting(store) == 2

    await until(beside_is_done_or_waits)
    go_on.set()
    await asyncio.gather(holds_b, waits_for_b, beside)
    await _proves_itself(store, tmp_path)


async def _waits(store: Store, number: int) -> bool:
    return await _waiting(store) == number


async def test_many_on_overlapping_scans_neither_block_each_other_nor_leave_disorder(store: Store, tmp_path: Path) -> None:
    rng, replicas = random.Random(7), [_replica(store) for _ in range(4)]
    scans = [await store.a_scan() for _ in range(6)]

    async def writes(uow: UnitOfWork, choices: list[list[ScanId]]) -> None:
        for chosen in choices:
            await _write(uow, chosen)

    await asyncio.gather(
        *(writes(uow, [rng.sample(scans, rng.randint(1, 4)) for _ in range(25)]) for uow in replicas for _ in range(2))
    )
    await _proves_itself(store, tmp_path)


async def test_facts_of_the_system_stand_in_order_too(store: Store, tmp_path: Path) -> None:
    """Also when the transaction that notes one has written something else before."""
    async with store.pool.acquire() as connection:
        async with connection.transaction():
            await system_chain.lock(connection)
            await connection.execute("SELECT pg_current_xact_id()")
            other = asyncio.create_task(store.a_system_fact())
            await until(lambda: _waits(store, 1))
            fact = ThrottleChanged(interval_s=1.0, max_running=None)
            await system_chain.append(connection, "operator", a_context(), [fact])
        await other
        await asyncio.gather(*(store.a_system_fact() for _ in range(8)))
        assert await connection.fetchval("SELECT count(*) FROM event_log WHERE scan_id = $1", SYSTEM_CHAIN) == 10
    await _proves_itself(store, tmp_path)


async def test_a_past_that_an_earlier_build_wrote_out_of_order_is_a_whole_one(store: Store) -> None:
    for _ in range(3):
        await store.a_finished_scan()
    async with store.pool.acquire() as connection:
        links = [one async for page in selection.iter_pages(connection) for one in page]
    tidy, mixed, holed = archive.ArchiveTotals(), archive.ArchiveTotals(), archive.ArchiveTotals()
    for one in links:
        tidy.event(one)
    for one in random.Random(1).sample(links, len(links)):
        mixed.event(one)
        if one != links[5]:
            holed.event(one)
    assert mixed.manifest("") == tidy.manifest("")
    assert (tidy.breaks, mixed.breaks) == ([], [])
    holed.finish()
    assert [(found.scan_id, found.version) for found in holed.breaks] == [(links[5].event.scan_id, links[5].event.version)]


async def test_a_batch_of_the_relay_ends_by_bytes(store: Store) -> None:
    scan_id = await store.a_scan()
    await store.append("progress", scan_id, *(a_report(number, text="x" * 100_000) for number in range(5)))
    first = await read.past_cursor(store.pool, "0", 0, most=500, most_bytes=250_000)
    assert [event.version for _, event in first] == [1, 2, 3, 4]
    xid, last = first[-1]
    rest = await read.past_cursor(store.pool, xid, last.position, most=500, most_bytes=250_000)
    assert [event.version for _, event in rest] == [5, 6]
