"""The store under repetition and concurrency: commands once, events in an order that no open transaction can change."""

import asyncio
import random
from typing import Any

import aio_pika
import orjson
import pytest

from skydriver_common.bus import topology
from skydriver_common.bus.broker import connect
from skydriver_common.bus.relay import Relay
from skydriver_common.faults import TryLater
from skydriver_common.log.group_commit import recorded_reply
from skydriver_common.log.unit_of_work import DeadlinePassed, EventNotOwned, UnitOfWork
from skydriver_common.model import events as ev
from skydriver_common.model.ids import ScanId, new_scan_id
from skydriver_common.model.rejections import Code, Reply
from skydriver_ops.eventlog import selection
from skydriver_ops.eventlog.selection import START, Cursor
from skydriver_ops.eventlog.verify import verify
from tests.support.histories import Store, a_context, a_report, a_request
from tests.support.waiting import let_others_run, pause


async def _handle(store: Store, scan_id: ScanId, command_id: str, body: bytes = b"{}", fingerprint: str = "") -> Reply:
    context = a_context(command_id, fingerprint=fingerprint)
    async with store.uows["progress"].on_scans(context, [scan_id]) as tx:
        if tx.recorded_reply is not None:
            return tx.recorded_reply
        tx.append(scan_id, [a_report(1)])
        reply = Reply(body=body)
        tx.record(reply)
    return reply


async def _events(store: Store) -> int:
    return int(await store.pool.fetchval("SELECT count(*) FROM event_log"))


async def test_a_repeated_command_gets_its_first_reply_and_changes_nothing(store: Store) -> None:
    scan_id = await store.a_scan()
    first = await _handle(store, scan_id, "k", b'{"n": 1}')
    views = await store.views()
    assert await _handle(store, scan_id, "k", b'{"n": 2}') == first
    assert (await _handle(store, scan_id, "k", fingerprint="other")).code is Code.KEY_WAS_USED
    assert await recorded_reply(store.pool, "k", "") == first
    assert await recorded_reply(store.pool, "never", "") is None
    assert await store.views() == views
    assert await _events(store) == 2


async def test_twins_of_a_command_at_once_take_effect_once(store: Store) -> None:
    scan_id = await store.a_scan()

    async def one(n: int) -> Reply:
        for _ in range(50):
            try:
                return await _handle(store, scan_id, "k", b'{"n": %d}' % n)
            except TryLater:
                continue
        raise AssertionError("it does not come to rest")

    replies = await asyncio.gather(*(one(n) for n in range(8)))
    assert len(set(replies)) == 1
    assert await _events(store) == 2


async def test_an_error_before_the_commit_leaves_nothing(store: Store) -> None:
    scan_id = await store.a_scan()
    views = await store.views()

    async def fails_at_the_end() -> None:
        async with store.uows["progress"].on_scans(a_context(), [scan_id]) as tx:
            tx.append(scan_id, [a_report(1)])
            await tx.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fails_at_the_end()
    with pytest.raises(DeadlinePassed):
        await store.append("progress", scan_id, a_report(1), context=a_context(deadline=1.0))
    with pytest.raises(EventNotOwned):
        await store.append("progress", scan_id, ev.ScanDeleted())
    assert await store.views() == views
    assert await _events(store) == 1


async def _newest(store: Store) -> int | None:
    position: int | None = await store.pool.fetchval("SELECT max(position) FROM event_log")
    return position


async def _write(store: Store, number: int, rng: random.Random, opened: asyncio.Event) -> None:
    """A scan with some events; every third writer sits on its written rows until others have committed after it."""
    scan_id = new_scan_id()
    await store.append("dispatcher", scan_id, a_request(scan_id))
    replica = UnitOfWork(store.pool, store.notifier, writer="progress")  # its own: else all would share one transaction
    for sequence in range(1, 5):
        async with replica.on_scans(a_context(), [scan_id]) as tx:
            tx.append(scan_id, [a_report(sequence), a_report(sequence, text="again")])
            if number % 3 == 0:
                await tx.flush()  # positions are taken, nothing is committed
                before = await _newest(store)
                for _ in range(500):
                    if opened.is_set() or await _newest(store) != before:
                        break
                    await pause(rng.random() / 100)
    opened.set()


async def _read(store: Store, done: asyncio.Event) -> list[tuple[int, int]]:
    """Everything past a cursor that moves on, as a replaying reader sees it."""
    cursor: Cursor = START
    seen: list[tuple[int, int]] = []
    while True:
        last_round = done.is_set()
        async for page in selection.iter_pages(store.pool, after=cursor, page=7):
            seen += [(int(link.cursor.xid), link.cursor.position) for link in page]
            cursor = page[-1].cursor
        if last_round:
            return seen
        await let_others_run()


async def test_readers_and_the_relay_see_every_event_once_although_transactions_stay_open(store: Store, clean_bus: str) -> None:
    rng, opened, done = random.Random(4), asyncio.Event(), asyncio.Event()
    bus = await connect(clean_bus, name="test")
    async with bus, bus.channel() as channel:
        await topology.declare(channel)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(topology.EVENT_EXCHANGE.name, "#")
        relay = Relay(store.url, bus, name="test")
        reader = asyncio.create_task(_read(store, done))

        async def relaying() -> None:
            while not (done.is_set() and await relay.step() is False):
                await relay.step()
                await let_others_run()

        relayed = asyncio.create_task(relaying())
        async with asyncio.timeout(60):
            # at most three sit on the pool's five connections
            await asyncio.gather(*(_write(store, number, rng, opened) for number in range(9)))
            done.set()
            seen, _ = await asyncio.gather(reader, relayed)
            published = [await _next(queue) for _ in range(await _events(store))]
        await relay.close()
        assert await queue.get(fail=False) is None
    everything = {row["position"] for row in await store.pool.fetch("SELECT position FROM event_log")}
    assert len(seen) == len(everything) == 9 * 9
    assert {position for _, position in seen} == everything
    assert seen == sorted(seen)
    assert [event["position"] for event in published] == [position for _, position in seen]
    async with store.pool.acquire() as connection:
        assert (await verify(connection)).breaks == []


async def _next(queue: aio_pika.abc.AbstractQueue) -> Any:
    message = await queue.get(timeout=120)
    assert message is not None
    await message.ack()
    return orjson.loads(message.body)
