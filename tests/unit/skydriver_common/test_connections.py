"""Connections of an HTTP server: counted, bounded, refused with an answer, and closed when nothing is asked on them."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from skydriver_common.runtime import connections
from skydriver_common.runtime.connections import ConnectionLimits, LimitedRunner, connection_cap, note_request
from tests.support.waiting import until

HOST = "127.0.0.1"
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def _server(
    *, most: int = 10, most_per_address: int = 10, first_request_s: float = 60.0
) -> AsyncIterator[tuple[ConnectionLimits, int, list[str]]]:
    """A server that answers "here"; its limits, its port, and the reasons for which it refused."""

    async def answer(request: web.Request) -> web.Response:
        note_request(request)
        return web.Response(text="here")

    app, refused = web.Application(), list[str]()
    app.router.add_get("/", answer)
    runner = LimitedRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    runner.limits = ConnectionLimits(
        runner.server, most=most, most_per_address=most_per_address, first_request_s=first_request_s, refusal=b'{"code":503}',
        on_refused=refused.append,
    )  # fmt: skip
    await web.TCPSite(runner, HOST, 0).start()
    try:
        yield runner.limits, runner.addresses[0][1], refused
    finally:
        await runner.cleanup()


async def _ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    with suppress(OSError):
        writer.write(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer


async def test_beyond_the_bound_a_client_is_answered_503_and_those_within_it_go_on() -> None:
    async with _server(most=3) as (limits, port, refused), asyncio.timeout(120):
        silent = [await asyncio.open_connection(HOST, port) for _ in range(3)]
        with capture_logs() as told:
            answers = await asyncio.gather(*(_ask(port) for _ in range(20)))
        assert all(answer.startswith(b"HTTP/1.1 503") and b"Retry-After" in answer for answer in answers)
        assert all(answer.endswith(b'{"code":503}') for answer in answers)
        assert refused == ["connections"] * 20
        assert [line["event"] for line in told] == ["connections.refused"]  # one line for all of them
        silent[0][1].write(REQUEST)
        assert (await silent[0][0].readuntil(b"here")).startswith(b"HTTP/1.1 200")
        silent[1][1].close()
        await until(lambda: limits.n_open < 3)
        assert b"here" in await _ask(port)
        for _, writer in silent:
            writer.close()


async def test_one_address_does_not_take_all_connections() -> None:
    async with _server(most=10, most_per_address=2) as (_, port, refused), asyncio.timeout(120):
        both = [await asyncio.open_connection(HOST, port) for _ in range(2)]
        assert (await _ask(port)).startswith(b"HTTP/1.1 503")
        assert refused == ["address"]
        reader, writer = await asyncio.open_connection(HOST, port, local_addr=("127.0.0.2", 0))
        writer.write(REQUEST)
        assert (await reader.readuntil(b"here")).startswith(b"HTTP/1.1 200")
        for _, each in [*both, (reader, writer)]:
            each.close()


async def test_a_connection_on_which_nothing_or_only_part_of_a_header_comes_is_closed() -> None:
    async with _server(first_request_s=0.05) as (limits, port, _), asyncio.timeout(120):
        silent, _keep = await asyncio.open_connection(HOST, port)
        dripping, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"GET / HT")
        with suppress(ConnectionResetError):
            assert await silent.read() == b""
        with suppress(ConnectionResetError):
            assert await dripping.read() == b""
        await until(lambda: limits.n_open == 0)


async def test_a_connection_that_has_asked_is_kept_for_the_next_request() -> None:
    async with _server(first_request_s=0.05) as (limits, port, _), asyncio.timeout(120):
        reader, writer = await asyncio.open_connection(HOST, port)
        for _ in range(3):
            writer.write(REQUEST)
            await reader.readuntil(b"here")
            silent, _keep = await asyncio.open_connection(HOST, port)
            with suppress(ConnectionResetError):
                assert await silent.read() == b"", "one that asks nothing has come later, and its time is over"
        await until(lambda: limits.n_open == 1)
        writer.write(REQUEST)
        await reader.readuntil(b"here")
        writer.close()


async def test_a_part_of_a_head_after_earlier_requests_is_not_waited_for_either() -> None:
    async with _server(first_request_s=0.05) as (limits, port, _), asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(REQUEST)
        await reader.readuntil(b"here")
        writer.write(REQUEST + b"GET / HTTP/1.1\r\nHo")
        await reader.readuntil(b"here")
        writer.write(b"s")
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        await until(lambda: limits.n_open == 0)


def test_the_soft_limit_of_descriptors_is_raised_as_far_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [1024, 20_000]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.__setitem__(slice(None), list(wanted)))
    assert connections.raise_descriptor_limit() == 20_000
    assert limits == [20_000, 20_000]
    limits[:] = [1024, resource.RLIM_INFINITY]
    assert connections.raise_descriptor_limit() == connections.MAX_DESCRIPTORS

    def forbidden(*_: object) -> None:
        raise ValueError("not allowed")

    limits[:] = [1024, 4096]
    monkeypatch.setattr(resource, "setrlimit", forbidden)
    assert connections.raise_descriptor_limit() == 1024


def test_descriptors_are_kept_for_what_is_no_client() -> None:
    assert connection_cap(10_000, 20_000) == 10_000
    assert connection_cap(10_000, 1024) == 1024 - connections.RESERVED_DESCRIPTORS
    assert connection_cap(10_000, 100) == 1
