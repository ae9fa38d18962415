"""Requests that are made to hurt: each is refused or cut off, and others are answered meanwhile."""

import asyncio
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest

from skydriver_api.http import request_body
from skydriver_api.http.proxies import TrustedProxies
from skydriver_api.routes import events, find
from skydriver_api.settings import networks_of
from tests.support.find_manifests import a_manifest, scan_id, store
from tests.support.gateway import LocalGateway, local_gateway
from tests.support.waiting import let_others_run, until

MIB = 1024 * 1024


@pytest.fixture
async def gateway(database: str, clean_bus: str) -> AsyncIterator[LocalGateway]:
    async with local_gateway(database, clean_bus) as gateway:
        yield gateway


def _bomb(n_mib: int) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return b"".join([packer.compress(bytes(MIB)) for _ in range(n_mib)]) + packer.flush()


@pytest.mark.parametrize("path", ["/scan", "/scans/find"])
async def test_a_small_body_that_unpacks_to_a_gigabyte_is_refused_and_takes_no_memory(gateway: LocalGateway, path: str) -> None:
    bomb = _bomb(256)
    tracemalloc.start()
    try:
        async with gateway.session.post(f"{gateway.url}{path}", data=bomb, headers={"Content-Encoding": "gzip"}) as answer:
            assert answer.status == 413
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
    memory = gateway.deps.memory.request_bodies
    assert memory.available == memory.total


@pytest.mark.parametrize("length", ["Content-Length: 500", "Content-Length: 2000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", ["/scan", "/scans/find"])
async def test_a_body_that_does_not_come_is_not_waited_for(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch, path: str, length: str
) -> None:
    monkeypatch.setattr(request_body, "_PACE_S", 0.05)
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n{length}\r\n\r\n".encode())
    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503 temporarily unavailable: the request body was not received in time")
    writer.close()
    memory = gateway.deps.memory.request_bodies
    assert memory.available == memory.total


async def test_a_body_that_comes_slowly_but_steadily_is_read(gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "_PACE_BYTES", 0)
    monkeypatch.setattr(request_body, "_PACE_S", 0.001)

    async def pieces() -> AsyncIterator[bytes]:
        for byte in b'{"filter": {}}':
            yield bytes([byte])
            await let_others_run()

    async with gateway.session.post(f"{gateway.url}/scans/find", data=pieces()) as answer:
        assert (answer.status, await answer.read()) == (200, b'{"manifests":[]}')


def _any_of(expressions: list[str]) -> dict[str, Any]:
    return {"$or": [{"classifiers.a": {"$regex": expression}} for expression in expressions]}


_BRANCHES = _any_of([f"a{number}b" for number in range(9000)])
HOSTILE: dict[str, tuple[dict[str, Any], int]] = {
    "expressions": ({"$and": [_BRANCHES, _BRANCHES]}, 400),
    "boundaries": (_any_of([r"\b" * 490 + str(number) for number in range(600)]), 400),
    "nested repetitions": (_any_of(["(((a*)*)*)*"]), 400),
    "counted repetitions": (_any_of(["((a{255}){255}){255}"]), 400),
    "filters": ({"$and": [{"$or": [{}] * 9999} for _ in range(34)]}, 400),
    "values": ({"$and": [{f"a{number}": {"$in": list(range(10_000))}} for number in range(20)]}, 200),
    "deep paths": ({"$or": [{".".join("a" * 20): {"$gt": number}} for number in range(10_000)]}, 400),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_while_a_hostile_filter_is_read_others_are_answered(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hostile, expected = HOSTILE[name]
    body = orjson.dumps({"filter": hostile})
    begun, answered, search = threading.Event(), threading.Event(), find._parse_search

    def observed(raw: bytes) -> object:
        try:
            return search(raw)
        finally:
            begun.set()
            # a loop that reads it itself waits here in vain, and answers nobody
            assert len(raw) <= 10_000 or answered.wait(60)

    monkeypatch.setattr(find, "_parse_search", observed)
    asked = asyncio.create_task(_status(gateway, body))
    await until(begun.is_set)
    async with gateway.session.get(f"{gateway.url}/") as answer:
        assert answer.status == 200
    answered.set()
    assert await asked == expected


async def test_large_filters_are_read_one_after_the_other(gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most, search = 0, 0, find._parse_search

    def observed(raw: bytes) -> object:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        try:
            return search(raw)
        finally:
            inside -= 1

    monkeypatch.setattr(find, "_parse_search", observed)
    gateway.deps.large_filters._max_wait_s = 120.0
    body = orjson.dumps({"filter": {"a": {"$in": list(range(10_000))}}})
    assert await asyncio.gather(*(_status(gateway, body) for _ in range(12))) == [200] * 12
    assert most == 1


async def _status(gateway: LocalGateway, body: bytes) -> int:
    async with gateway.session.post(f"{gateway.url}/scans/find", data=body) as answer:
        await answer.read()
        return answer.status


async def test_clients_of_a_trusted_proxy_have_a_limit_each(
    database: str, clean_bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.1)
    proxies = TrustedProxies(networks_of("127.0.0.0/8"), most_per_address=2)
    async with local_gateway(database, clean_bus, proxies=proxies) as gateway, AsyncExitStack() as stack:
        await store(gateway.pool, [a_manifest(1)])
        url = f"{gateway.url}/scan/{scan_id(1)}/events"

        async def watch(client: str) -> int:
            headers = {"Accept": "text/event-stream", "X-Forwarded-For": client}
            answer = await stack.enter_async_context(gateway.session.get(url, headers=headers))
            return answer.status

        assert [await watch(client) for client in ("192.0.2.1", "9.9.9.9, 192.0.2.1", "8.8.8.8, 192.0.2.1")] == [200, 200, 503]
        assert await watch("192.0.2.2") == 200
        async with gateway.session.get(f"{gateway.url}/") as answer:  # the proxy's own
            assert answer.status == 200
        gateway.deps.live.close()
