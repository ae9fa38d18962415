"""Clients that stall, databases that fail in the middle, bodies that come all at once: others are served, and nobody is misled."""

import asyncio
import io
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import orjson
import pytest

from skydriver_api.http import chunked as streaming
from skydriver_api.http import middleware
from skydriver_api.http.limits import WeightedSemaphore
from skydriver_api.routes import events as history
from skydriver_api.routes import find
from skydriver_common.log import blobs
from skydriver_common.model.events import ResultReceived
from skydriver_common.model.ids import ScanId
from tests.support.find_manifests import a_manifest, scan_id, store
from tests.support.gateway import LocalGateway, local_gateway
from tests.support.histories import a_store
from tests.support.waiting import pause, until

MIB = 1024 * 1024
LARGE = [a_manifest(number, scan_metadata={"x": "y" * 20_000}) for number in range(800)]
"""16 MB: more than what lies in the buffers of a connection."""

KILL_SEARCHES = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle in transaction'
"""


@pytest.fixture
async def gateway(database: str, clean_bus: str) -> AsyncIterator[LocalGateway]:
    async with local_gateway(database, clean_bus, searches=WeightedSemaphore(8, what="searches", max_wait_s=0.2)) as gateway:
        yield gateway


class Reader:
    """A connection of its own that has asked for something, and reads when the test says so."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def ask(cls, gateway: LocalGateway, content: bytes, what: str = "POST /scans/find") -> "Reader":
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port, limit=2**14)
        head = f"{what} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()
        return cls(reader, writer)

    async def rest(self) -> bytes:
        """Everything until the connection ends, however it does."""
        read = bytearray()
        try:
            while piece := await self.reader.read(2**20):
                read += piece
        except ConnectionError:
            pass
        return bytes(read)


async def test_searches_whose_readers_stall_leave_connections_for_others_and_are_let_go(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(gateway.pool, LARGE)
    monkeypatch.setattr(streaming, "STALL_TIMEOUT_S", 15.0)  # longer than a busy machine needs until they are counted below
    stalled = [await Reader.ask(gateway, b'{"filter": {}}') for _ in range(24)]
    firsts = [await reader.reader.readline() for reader in stalled]
    assert (
        sorted(firsts)
        == [b"HTTP/1.1 200 OK\r\n"] * 8
        + [b"HTTP/1.1 503 temporarily unavailable: too many concurrent searches; retry after 1 s\r\n"] * 16
    )
    async with gateway.session.get(f"{gateway.url}/scan/{scan_id(1)}/status") as answer:
        assert answer.status == 200
    async with gateway.session.post(f"{gateway.url}/scans/find", json={"filter": {}}) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    await until(lambda: gateway.deps.searches.available == 8, "those who don't read are let go")
    async with asyncio.timeout(60):
        async with gateway.session.post(f"{gateway.url}/scans/find", json={"filter": {}, "limit": 1}) as answer:
            assert answer.status == 200
        for reader, first in zip(stalled, firsts, strict=True):
            assert b"200" not in first or not (await reader.rest()).endswith(b"0\r\n\r\n")
            reader.writer.close()


async def test_the_largest_filter_does_not_hold_up_the_loop(gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, at_begin, at_end = 0, 0, 0
    search = find._parse_search

    def observed(raw: bytes) -> object:
        nonlocal at_begin, at_end
        at_begin = steps
        try:
            return search(raw)
        finally:
            at_end = steps

    async def count() -> None:
        nonlocal steps
        while True:
            await pause(0.001)
            steps += 1

    monkeypatch.setattr(find, "_parse_search", observed)
    counting = asyncio.create_task(count())
    hostile = orjson.dumps({"filter": {"a": {"k" * 500_000: [[1] * 10_000] * 25}}})
    allowed = orjson.dumps({"filter": {"a": {"k" * 1000: [[1] * 10_000] * 25}}})
    for body, expected in ((hostile, 400), (allowed, 200)):
        async with gateway.session.post(f"{gateway.url}/scans/find", data=body) as answer:
            assert answer.status == expected, await answer.text()
    counting.cancel()
    assert at_end - at_begin > 5, "the loop went on while the filter was read"


async def test_a_search_that_fails_in_the_middle_is_broken_off_and_says_nothing_more(gateway: LocalGateway) -> None:
    await store(gateway.pool, LARGE)
    reader = await Reader.ask(gateway, b'{"filter": {}}')
    begun = await reader.reader.readline()
    assert (begun, await gateway.pool.fetchval(KILL_SEARCHES)) == (b"HTTP/1.1 200 OK\r\n", 1)
    async with asyncio.timeout(120):
        content = await reader.rest()
    assert content.count(b"HTTP/1.1") == 0
    assert not content.endswith(b"0\r\n\r\n")
    assert b"]}" not in content[-20:]
    reader.writer.close()
    async with gateway.session.post(f"{gateway.url}/scans/find", json={"filter": {}}) as answer:
        await answer.content.read(1000)
        assert await gateway.pool.fetchval(KILL_SEARCHES) == 1
        with pytest.raises(aiohttp.ClientPayloadError):  # and this is how it looks to a client
            await answer.read()


async def test_large_bodies_wait_for_each_other_and_are_told_to_come_again(database: str, clean_bus: str) -> None:
    may_end = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"is_final": false, "skyscan_result": {"x": "'
        yield b"a" * MIB
        await may_end.wait()
        yield b'"}}'

    body = b'{"is_final": false, "skyscan_result": {"x": "%b"}}' % (b"a" * 2 * MIB)
    budget = WeightedSemaphore(3 * MIB, what="large bodies", max_wait_s=0.2)
    async with local_gateway(database, clean_bus, request_bodies=budget) as gateway, AsyncExitStack() as stack:
        url = f"{gateway.url}/scan/{scan_id(1)}/result"
        # of an unknown scan: what is refused has been read
        first = asyncio.create_task(stack.enter_async_context(gateway.session.put(url, data=slowly())))
        await until(lambda: not budget.available, "the first takes all there is", poll_s=0.01)
        async with gateway.session.put(url, data=io.BytesIO(body)) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        async with gateway.session.put(url, data=body[:100] + b'"}}') as small:
            assert small.status == 404
        may_end.set()
        assert (await first).status == 404
        async with gateway.session.put(url, data=io.BytesIO(body)) as again:
            assert again.status == 404
        assert budget.available == 3 * MIB


async def test_large_results_go_out_as_memory_allows_and_not_to_those_who_don_t_read(
    database: str, clean_bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "STALL_TIMEOUT_S", 1.0)
    monkeypatch.setattr(middleware, "_READ_TIMEOUT_S", 2.0)
    skymap = b'{"x": "%b", "y": NaN}' % random.Random(1).randbytes(9 * MIB).hex().encode()
    budget = WeightedSemaphore(20 * MIB, what="large results", max_wait_s=0.2)
    async with a_store(database) as store, local_gateway(database, clean_bus, large_responses=budget) as gateway:
        scan = await store.a_scan()
        digest = await blobs.put(store.pool, skymap)
        await store.append("progress", scan, ResultReceived(digest=digest, size_bytes=len(skymap), is_final=True))
        result = b'{"scan_id":"%b","skyscan_result":%b,"is_final":true}' % (scan.encode(), skymap)

        async def get(path: str) -> tuple[int, bytes]:
            async with gateway.session.get(f"{gateway.url}/scan/{scan}{path}") as answer:
                content = await answer.read()
                assert answer.content_length == len(content)
                return answer.status, content

        assert await get("/result") == (200, result)
        status, whole = await get("")
        assert (status, whole.endswith(b',"result":' + result + b"}")) == (200, True)
        stalled = await Reader.ask(gateway, b"", f"GET /scan/{scan}/result")
        assert await stalled.reader.readline() == b"HTTP/1.1 200 OK\r\n"
        assert (await get("/result"))[0] == 503
        async with asyncio.timeout(120):
            while (await get("/result"))[0] != 200:
                pass
            assert len(await stalled.rest()) < len(result)
        stalled.writer.close()
        assert budget.available == 20 * MIB


async def test_idle_watchers_hear_a_heartbeat_and_cost_one_query_for_all(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(middleware, "_READ_TIMEOUT_S", 0.25)  # a stream that has begun goes on
    await store(gateway.pool, [a_manifest(1)])
    url, headers = f"{gateway.url}/scan/{scan_id(1)}/events", {"Accept": "text/event-stream"}
    async with AsyncExitStack() as stack, asyncio.timeout(120):
        watchers = [await stack.enter_async_context(gateway.session.get(url, headers=headers)) for _ in range(20)]
        asked = 0
        query = gateway.deps.reads._find_statuses

        async def counting(scan_ids: list[ScanId]) -> object:
            nonlocal asked
            asked += 1
            return await query(scan_ids)

        monkeypatch.setattr(gateway.deps.reads._statuses, "_query", counting)
        for watcher in watchers:
            for _ in range(3):
                assert await watcher.content.readuntil(b"\n\n") == b":\n\n"
        assert asked <= 1
        gateway.deps.live.close()
        assert {(await watcher.content.read()).replace(b":\n\n", b"") for watcher in watchers} == {b""}
