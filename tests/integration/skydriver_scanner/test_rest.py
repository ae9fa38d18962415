"""What a scanner sends over REST: large bodies on slow lines, answers that nobody asked for, lines that stand still."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from skydriver_scanner import CallFailed, rest
from tests.support.waiting import pause

LARGE = b'{"skyscan_result": {}, "is_final": true, "filler": "' + b"x" * 24 * 1024 * 1024 + b'"}'


@asynccontextmanager
async def _sending_to(handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[rest.Rest]:
    app = web.Application(client_max_size=2**30)
    app.router.add_put("/scan/s/result", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _, port = runner.addresses[0][:2]
    client = rest.Rest(f"http://127.0.0.1:{port}", "token", "s")
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


async def test_no_answer_is_asked_for_and_what_comes_is_dropped_unread() -> None:
    asked: list[str | None] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Prefer"))
        await request.read()
        return web.Response(body=b"{" * len(LARGE), content_type="application/json")

    async with _sending_to(handle) as client:
        await client.send("result", LARGE, producer="p", sequence=1)
    assert asked == ["return=minimal"]


async def test_a_slow_line_may_take_longer_than_the_limit_as_long_as_something_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_s, pieces = 1.0, []
    monkeypatch.setattr(rest, "NO_RETRY", rest.RetryPolicy(timeout_s=limit_s, retries=0, is_large=True))
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def handle(request: web.Request) -> web.StreamResponse:
        async for piece in request.content.iter_chunked(256 * 1024):
            pieces.append(len(piece))
            if loop.time() - began < 3 * limit_s:
                await pause(limit_s / 10)  # the slow line itself
        return web.json_response({})

    async with _sending_to(handle) as client:
        await client.send("result", LARGE, producer="p", sequence=1)
    assert sum(pieces) == len(LARGE)


async def test_a_line_that_stands_still_ends_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "NO_RETRY", rest.RetryPolicy(timeout_s=0.5, retries=0, is_large=True))
    is_over = asyncio.Event()

    async def handle(_: web.Request) -> web.StreamResponse:
        await is_over.wait()  # reads nothing
        return web.json_response({})

    async with _sending_to(handle) as client:
        with pytest.raises(CallFailed, match="TimeoutError") as caught:
            await client.send("result", LARGE, producer="p", sequence=1)
        is_over.set()
    assert not caught.value.is_final
