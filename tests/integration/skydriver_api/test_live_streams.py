"""Streams of events through the loss of the broker, and to readers that take their time: every version once, in order."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from urllib.parse import urlsplit

import aio_pika
import aiohttp
import orjson
import pytest
from aio_pika.abc import AbstractRobustChannel, AbstractRobustQueue
from aio_pika.exceptions import AMQPError

from skydriver_api.http.chunked import ChunkedResponse
from skydriver_api.live.live_events import MAX_WAITING_BYTES, LiveEvents
from skydriver_api.routes import events as history
from skydriver_common.auth import Principal, Role
from skydriver_common.bus import topology
from skydriver_common.bus.event_messages import event_message
from skydriver_common.faults import TryLater
from skydriver_common.log import read
from skydriver_common.model.events import ScanDeleted
from skydriver_common.model.ids import ScanId
from tests.support.gateway import LocalGateway, _Everybody, local_gateway
from tests.support.histories import Store, a_report, a_store
from tests.support.proxy import Proxy
from tests.support.waiting import until


@asynccontextmanager
async def _streaming(gateway: LocalGateway, scan: ScanId, *, read_bufsize: int = 2**16) -> AsyncIterator[aiohttp.StreamReader]:
    async with gateway.session.get(
        f"{gateway.url}/scan/{scan}/events", headers={"Accept": "text/event-stream"}, read_bufsize=read_bufsize
    ) as answer:
        assert answer.status == 200
        yield answer.content


async def _next_version(content: aiohttp.StreamReader) -> int:
    while not (block := await content.readuntil(b"\n\n")).startswith(b"id: "):
        pass
    event = orjson.loads(block.partition(b"data: ")[2])
    assert block.startswith(b"id: %d\n" % event["version"])
    return int(event["version"])


async def _publish(amqp_url: str, store: Store, scan: ScanId, *, after: int) -> None:
    """What the relay does with what was appended."""
    async with await aio_pika.connect(amqp_url) as bus:
        channel = await bus.channel()
        exchange = await channel.get_exchange(topology.EVENT_EXCHANGE.name)
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
    monkeypatch.setattr(history, "_LOG_RETRY_S", 0.05)
    async with a_store(database) as store, local_gateway(database, clean_bus) as gateway, asyncio.timeout(60):
        scan = await store.a_scan()
        lookup, failures = gateway.deps.reads._events, 0
        query = lookup._query

        async def failing(places: list[tuple[ScanId, int]]) -> object:
            nonlocal failures
            failures += 1
            if failures <= 3:
                raise TryLater("the database is away", 0.0)
            return await query(places)

        async with _streaming(gateway, scan) as content:
            assert await _next_version(content) == 1
            monkeypatch.setattr(lookup, "_query", failing)
            await store.append("progress", scan, a_report(1))
            gateway.deps.live.fall_behind()  # something may have been missed
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


@asynccontextmanager
async def _listening(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[AbstractRobustQueue]]:
    """The queues that gateways make from here on to listen to events."""
    made: list[AbstractRobustQueue] = []
    consume = LiveEvents._consume

    async def noted(self: LiveEvents, channel: AbstractRobustChannel, is_lost: asyncio.Event) -> AbstractRobustQueue:
        made.append(await consume(self, channel, is_lost))
        return made[-1]

    monkeypatch.setattr(LiveEvents, "_consume", noted)
    yield made


async def _close_channel(queue: AbstractRobustQueue) -> None:
    """As the broker does after an error on it."""
    underlay = await queue.channel.get_underlay_channel()
    with suppress(AMQPError):
        await underlay.queue_declare(f"skydriver.no-such-queue.{queue.name}", passive=True)


async def _delete_queue(queue: AbstractRobustQueue) -> None:
    """As a policy or a person does: the consumer is cancelled, the channel lives."""
    other = await queue.channel.get_underlay_channel()
    channel = await other.connection.channel()
    await channel.queue_delete(queue.name)


@pytest.mark.parametrize("lose", [_close_channel, _delete_queue])
async def test_a_lost_channel_or_consumer_is_noticed_and_what_was_missed_is_told(
    database: str, clean_bus: str, monkeypatch: pytest.MonkeyPatch, lose: Callable[[AbstractRobustQueue], Awaitable[None]]
) -> None:
    async with (
        a_store(database) as store, _listening(monkeypatch) as queues, local_gateway(database, clean_bus) as gateway,
        asyncio.timeout(60),
    ):  # fmt: skip
        scan = await store.a_scan()
        async with _streaming(gateway, scan) as content:
            assert await _next_version(content) == 1
            await until(lambda: _is_listening(gateway))
            await lose(queues[0])
            await store.append("progress", scan, a_report(1))  # nobody hears of it: it is the last one for now
            assert await _next_version(content) == 2
            assert len(queues) == 2
            await store.append("progress", scan, a_report(2))
            await _publish(clean_bus, store, scan, after=2)
            assert await _next_version(content) == 3


async def _is_listening(gateway: LocalGateway) -> bool:
    return gateway.deps.live.is_listening


async def test_a_last_event_that_the_broker_dropped_is_told_at_the_next_look(database: str, clean_bus: str) -> None:
    async with a_store(database) as store, local_gateway(database, clean_bus) as gateway, asyncio.timeout(60):
        scan = await store.a_scan()
        async with _streaming(gateway, scan) as content:
            assert await _next_version(content) == 1
            await until(lambda: _is_listening(gateway))
            await store.append("progress", scan, a_report(1))
            await gateway.deps.live.compare_versions()
            assert await _next_version(content) == 2


async def test_streams_need_no_broker(database: str, clean_bus: str) -> None:
    url = urlsplit(clean_bus)
    proxy = Proxy(url.port or 0)
    await proxy.open()
    through = clean_bus.replace(f":{url.port}/", f":{proxy.port}/")
    async with a_store(database) as store, local_gateway(database, through) as gateway, asyncio.timeout(60):
        scan = await store.a_scan()
        await proxy.close()
        async with _streaming(gateway, scan) as content:
            assert await _next_version(content) == 1
            await store.append("progress", scan, a_report(1))
            await gateway.deps.live.compare_versions()
            assert await _next_version(content) == 2
        await proxy.open()
    await proxy.close()


async def _last_word(content: aiohttp.StreamReader) -> bytes:
    """What the stream says after the scan's events, before it ends."""
    blocks = [block for block in (await content.read()).split(b"\n\n") if block not in (b"", b":")]
    assert not blocks[-1].startswith(b"id: ")
    return blocks[-1]


async def test_a_stream_ends_when_its_scan_is_deleted_and_says_so(database: str, clean_bus: str) -> None:
    async with a_store(database) as store, local_gateway(database, clean_bus) as gateway, asyncio.timeout(60):
        scan = await store.a_scan()
        async with _streaming(gateway, scan) as content:
            assert await _next_version(content) == 1
            await store.append("dispatcher", scan, ScanDeleted())
            await gateway.deps.live.compare_versions()
            assert await _next_version(content) == 2
            assert b'event: stream.ended\ndata: {"reason":"scan-deleted"' in await _last_word(content)
        async with _streaming(gateway, scan) as content:  # and one that comes later is told the same
            assert [await _next_version(content) for _ in range(2)] == [1, 2]
            assert b"scan-deleted" in await _last_word(content)


async def test_a_stream_ends_when_its_token_expires_and_says_so(
    database: str, clean_bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def expired(self: object, token: str) -> Principal:
        return Principal("somebody", "test", frozenset(Role), expires_at=time.time())

    monkeypatch.setattr(_Everybody, "verify", expired)
    async with a_store(database) as store, local_gateway(database, clean_bus) as gateway, asyncio.timeout(60):
        scan = await store.a_scan()
        async with _streaming(gateway, scan) as content:
            assert await _next_version(content) == 1
            assert b'{"reason":"token-expired"' in await _last_word(content)


async def test_pages_for_streams_end_by_bytes_and_say_whether_more_follows(database: str, clean_bus: str) -> None:
    async with a_store(database) as store, local_gateway(database, clean_bus) as gateway:
        scan = await store.a_scan()
        await store.append("progress", scan, *(a_report(number, text="x" * 100_000) for number in range(5)))
        reads = gateway.deps.reads
        first, is_last = await reads.events_after(scan, 0)
        assert ([event.version for event in first], is_last) == ([1, 2, 3, 4], False)
        second, is_last = await reads.events_after(scan, 4)
        assert ([event.version for event in second], is_last) == ([5, 6], True)
        assert await reads.versions([scan, ScanId("unknown")]) == {scan: 6}


async def test_thousands_of_streams_that_come_back_at_once_share_their_look_ups(database: str, clean_bus: str) -> None:
    async with a_store(database) as store, local_gateway(database, clean_bus) as gateway, asyncio.timeout(120):
        scans = [await store.a_scan() for _ in range(3)]
        lookup, asked = gateway.deps.reads._statuses, list[int]()
        query = lookup._query

        async def counted(scan_ids: list[ScanId]) -> object:
            asked.append(len(scan_ids))
            return await query(scan_ids)

        lookup._query = counted  # type: ignore[assignment]

        async def come_back(number: int) -> int:
            async with _streaming(gateway, scans[number % 3]) as content:
                return await _next_version(content)

        assert await asyncio.gather(*(come_back(number) for number in range(300))) == [1] * 300
        assert len(asked) < 150


async def test_readers_that_read_nothing_cost_little_each_whatever_the_size_of_events(
    database: str, clean_bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: list[ChunkedResponse] = []
    bound = ChunkedResponse.bound_buffer

    def noted(self: ChunkedResponse) -> None:
        bound(self)
        streams.append(self)

    monkeypatch.setattr(ChunkedResponse, "bound_buffer", noted)
    async with (
        a_store(database) as store, local_gateway(database, clean_bus) as gateway, asyncio.timeout(120), AsyncExitStack() as clients,
    ):  # fmt: skip
        scan = await store.a_scan()
        request = (
            f"GET /scan/{scan}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nAccept: text/event-stream\r\n\r\n"
        ).encode()
        silent = [clients.enter_context(await _unread(gateway, request)) for _ in range(20)]
        assert len(silent) == 20
        async with _streaming(gateway, scan, read_bufsize=2**20) as content:
            assert await _next_version(content) == 1
            for number in range(20):  # 8 MB: more than the kernel's buffers hold
                await store.append("progress", scan, a_report(number, text="x" * 400_000))
                await _publish(clean_bus, store, scan, after=number + 1)
                assert await _next_version(content) == number + 2
        buffered = [transport.get_write_buffer_size() for stream in streams if (transport := stream._request.transport)]
        assert len(buffered) >= 20
        assert max(buffered) > 0  # they do hold something up
        assert max(buffered) <= 96 * 1024  # the HTTP library looks at the buffer after each 64 KiB
        assert gateway.deps.live._buffered.n_bytes <= MAX_WAITING_BYTES


async def _unread(gateway: LocalGateway, request: bytes) -> socket.socket:
    """A client that asks, and reads nothing of the answer."""
    client = socket.create_connection((gateway.host, gateway.port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(client, request)
    return client
