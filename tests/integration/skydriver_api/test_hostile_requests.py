"""Requests that are made to hurt: each is refused or cut off, and others are answered meanwhile."""

import asyncio
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import pytest

from skydriver_api.http import request_body
from tests.support.gateway import LocalGateway, local_gateway
from tests.support.waiting import let_others_run

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
