"""An HTTP server that answers in EWMS's place what a test tells it to, in order, and notes what it was asked.

It knows nothing of EWMS's rules: for those there is the sandbox. It is for answers that a well-behaved server never gives.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    body: Any
    token: str


@dataclass
class Unruly:
    """The server's script: each call takes the next answer from `answers`; without one it is told 500.

    An answer is (status, body) or (status, body, headers); a body that is no bytes goes out as JSON. The words "drop" and
    "hang" close the connection without an answer, or never answer.
    """

    url: str = ""
    answers: deque[Any] = field(default_factory=deque)
    asked: list[Asked] = field(default_factory=list)
    tokens_given: int = 0
    token_answers: deque[Any] = field(default_factory=deque)
    token_life_s: float = 3600.0

    def say(self, *answers: Any) -> None:
        """Queue answers."""
        self.answers.extend(answers)


@asynccontextmanager
async def unruly_ewms() -> AsyncIterator[Unruly]:
    """A running server on a free loopback port; the issuer of tokens is the same address."""
    script = Unruly()
    released = asyncio.Event()

    async def discovery(_: web.Request) -> web.Response:
        return web.json_response({"token_endpoint": f"{script.url}/token"})

    async def token(request: web.Request) -> web.StreamResponse:
        form = await request.post()
        assert form["grant_type"] == "client_credentials"
        assert form["scope"] == "offline_access"
        if script.token_answers:
            return await answer(request, script.token_answers.popleft())
        script.tokens_given += 1
        return web.json_response({"access_token": f"token-{script.tokens_given}", "expires_in": script.token_life_s})

    async def anything(request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        script.asked.append(Asked(request.method, request.raw_path, orjson.loads(raw) if raw else None, token))
        reply = script.answers.popleft() if script.answers else (500, {"code": 500, "error": "no answer was prepared"})
        return await answer(request, reply)

    async def answer(request: web.Request, reply: Any) -> web.StreamResponse:
        if reply == "drop":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if reply == "hang":
            await released.wait()
            return web.Response(status=500)
        status, body, *rest = reply
        headers = rest[0] if rest else {}
        if isinstance(body, bytes):
            return web.Response(status=status, body=body, headers=headers)
        return web.json_response(body, status=status, headers=headers)

    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", discovery)
    app.router.add_post("/token", token)
    app.router.add_route("*", "/v1/{rest:.*}", anything)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        script.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield script
    finally:
        released.set()
        await runner.cleanup()
