"""Streams of events through the loss of the broker, and to readers that take their time: every version once, in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aio_pika
import aiohttp
import orjson
import pytest

from skydriver_api.routes import history
from skydriver_common.bus import topology
from skydriver_common.bus.event_messages import event_message
from skydriver_common.faults import TryLater
from skydriver_common.log import read
from tests.support.gateway import LocalGateway, local_gateway
from tests.support.histories import Store, a_report, a_store
from tests.support.proxy import Proxy


@asynccontextmanager
async def _streaming(gateway: LocalGateway, scan: str) -> AsyncIterator[aiohttp.StreamReader]:
    async with gateway.session.get(
        f"{gateway.url}/scan/{scan}/events", headers={"Accept": "text/event-stream"}, read_bufsize=2**16
    ) as answer:
        assert answer.status == 200
        yield answer.content


async def _next_version(content: aiohttp.StreamReader) -> int:
    while not (block := await content.readuntil(b"\n\n")).startswith(b"id: "):
        pass
    event = orjson.loads(block.partition(b"data: ")[2])
    assert block.startswith(b"id: %d\n" % event["version"])
    return int(event["version"])


async def _publish(amqp_url: str, store: Store, scan: str, *, after: int) -> None:
    """What the relay does with what was appended."""
    async with await aio_pika.connect(amqp_url) as bus:
        channel = await bus.channel()
        exchange = await channel.get_exchange(topology.EVENTS.name)
        async for event in read.history(store.pool, scan, after=after):
            await exchange.publish(event_message(event), routing_key=event.type)


async def test_what_happens_while_the_broker_is_away_is_told_afterwards(database: str, clean_bus: str) -> None:
    url = urlsplit(clean_bus)
    assert url.port is not None
    proxy = Proxy(url.port)
    await proxy.open()
    through = clean_bus.replace(f":{url.port}/", f":{proxy.port}/")
    async with a_store(database) as store, local_gateway(database, through) as gateway, asyncio.timeout(60):
        scan = await store.a_scan()
        async with _streaming(gateway, scan) as content:
            assert await _next_version(content) == 1
            await store.append("progress", scan, a_report(1))
            await _publish(clean_bus, store, scan, after=1)
            assert await _next_version(content) == 2
            assert proxy.cut() > 0
            await store.append("progress", scan, a_report(2), a_report(3))  # nobody hears of these over the bus
            assert [await _next_version(content) for _ in range(2)] == [3, 4]
            await store.append("progress", scan, a_report(4))
            await _publish(clean_bus, store, scan, after=4)
            assert await _next_version(content) == 5
    await proxy.close()


async def test_a_stream_outlives_a_database_that_is_away_for_a_while(
    database: str, clean_bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_LOG_AGAIN_S", 0.05)
    async with a_store(database) as store, local_gateway(database, clean_bus) as gateway, asyncio.timeout(60):
        scan = await store.a_scan()
        lookup, failures = gateway.deps.reads._events, 0
        query = lookup._query

        async def failing(places: list[tuple[str, int]]) -> object:
            nonlocal failures
            failures += 1
            if failures <= 3:
                raise TryLater("the database is away", 0.0)
            return await query(places)

        async with _streaming(gateway, scan) as content:
            assert await _next_version(content) == 1
            monkeypatch.setattr(lookup, "_query", failing)
            await store.append("progress", scan, a_report(1))
            await gateway.deps.live._on_reconnection()  # something may have been missed
            assert await _next_version(content) == 2
        assert failures >= 4


async def test_a_slow_reader_misses_nothing_and_holds_nobody_up(database: str, clean_bus: str) -> None:
    async with a_store(database) as store, local_gateway(database, clean_bus) as gateway, asyncio.timeout(60):
        scan = await store.a_scan()
        async with _streaming(gateway, scan) as slow, _streaming(gateway, scan) as quick:
            assert await _next_version(slow) == await _next_version(quick) == 1
            for number in range(30):  # 18 MB: far more than what buffers hold, and more events than a watcher keeps
                reports = [a_report(number * 10 + each, text="x" * 60_000) for each in range(10)]
                await store.append("progress", scan, *reports)
                await _publish(clean_bus, store, scan, after=1 + number * 10)
                assert [await _next_version(quick) for _ in range(10)] == list(range(2 + number * 10, 12 + number * 10))
            assert [await _next_version(slow) for _ in range(300)] == list(range(2, 302))
