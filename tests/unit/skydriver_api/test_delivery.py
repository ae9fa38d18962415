"""The one way out for answers: shares of memory, portions, and clients that do not read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from skydriver_api.http import chunked as streaming
from skydriver_api.http.delivery import hold_memory
from skydriver_api.http.limits import MEMORY, MemoryLimits, WeightedSemaphore
from skydriver_api.http.middleware import error_middleware
from tests.support.waiting import until

MIB = 1024 * 1024


def _limits() -> MemoryLimits:
    return MemoryLimits(
        request_bodies=WeightedSemaphore(MIB, what="bodies"),
        large_responses=WeightedSemaphore(40 * MIB, what="large responses", max_wait_s=0.1),
        small_responses=WeightedSemaphore(2 * MIB, what="responses", max_wait_s=0.1),
    )


def _of(memory: MemoryLimits) -> tuple[WeightedSemaphore, WeightedSemaphore]:
    return memory.large_responses, memory.small_responses


@asynccontextmanager
async def _serving(size: int, *, holds: bool = False) -> AsyncIterator[tuple[TestServer, MemoryLimits]]:
    memory = _limits()
    body = bytes(size)

    async def answer(request: web.Request) -> web.Response:
        if holds:
            await hold_memory(request, size)
        return web.Response(body=bytes(body), status=201, reason="Made", headers={"X-Test": "1"})

    app = web.Application(middlewares=[error_middleware])
    app[MEMORY] = memory
    app.router.add_route("*", "/", answer)
    server = TestServer(app)
    async with server:
        yield server, memory


@pytest.mark.parametrize("size", [0, 1000, 64 * 1024 + 1, MIB, 3 * MIB + 5])
@pytest.mark.parametrize("holds", [True, False])
async def test_an_answer_of_any_size_arrives_whole_with_status_and_headers(size: int, holds: bool) -> None:
    async with _serving(size, holds=holds) as (server, memory), aiohttp.ClientSession() as session:
        for method in ("GET", "POST"):
            async with session.request(method, server.make_url("/")) as answer:
                content = await answer.read()
                assert (answer.status, answer.reason, answer.headers["X-Test"]) == (201, "Made", "1")
                assert (len(content), answer.content_length) == (size, size)
        for budget in _of(memory):
            assert budget.available == budget.total


@pytest.mark.parametrize(("size", "served"), [(900 * 1024, 2), (12 * MIB, 3)])
async def test_clients_that_do_not_read_hold_no_more_than_the_budget_and_are_disconnected(
    size: int, served: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "STALL_TIMEOUT_S", 1.0)
    async with _serving(size) as (server, memory):
        stalled = [await _ask(server, "GET") for _ in range(12)]
        firsts = [await reader.readline() for reader, _ in stalled]
        assert sum(b"201" in first for first in firsts) >= served
        if size > 4 * MIB:  # less lies in the buffers of the system
            assert sum(b"503" in first for first in firsts) > 0
        assert all(budget.available >= 0 for budget in _of(memory))
        await until(lambda: all(budget.available == budget.total for budget in _of(memory)), "all budgets are free again")
        for _, writer in stalled:
            writer.close()


async def test_what_has_changed_something_is_answered_though_the_memory_is_taken() -> None:
    async with _serving(3 * MIB) as (server, memory), aiohttp.ClientSession() as session:
        async with memory.large_responses.hold(40 * MIB):
            async with session.get(server.make_url("/")) as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
            async with session.post(server.make_url("/")) as answer:
                assert (answer.status, len(await answer.read())) == (201, 3 * MIB)
        assert memory.large_responses.available == memory.large_responses.total


async def test_a_small_answer_that_nobody_takes_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of them on one connection: nothing is read, so nothing more is sent."""
    monkeypatch.setattr(streaming, "STALL_TIMEOUT_S", 0.3)
    async with _serving(60 * 1024) as (server, _):
        with capture_logs() as logs:
            reader, writer = await _ask(server, "GET", times=200)
            await until(lambda: any(line["event"] == "response.stalled" for line in logs), "the stall is told")
        assert await reader.readline() == b"HTTP/1.1 201 Made\r\n"
        writer.close()


async def _ask(server: TestServer, method: str, *, times: int = 1) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(server.host, server.port, limit=2**14)
    writer.write(f"{method} / HTTP/1.1\r\nHost: x\r\n\r\n".encode() * times)
    await writer.drain()
    return reader, writer
