"""The one way out for answers: a share of memory, portions, and a limit for clients that do not read.

An answer holds memory from when it is loaded until the client has taken it. So a route that can tell its size takes a share
*before* it loads anything (``hold_memory``); of other answers it is taken before they are sent. A share is given back when the
request has ended, by ``returning_shares``.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from skydriver_api.http.deps import DEPS
from skydriver_api.http.limits import Share
from skydriver_api.http.route import MIB
from skydriver_api.routes.chunked import PORTION_BYTES, ChunkedResponse, ClientStalled, write_limit
from skydriver_common.runtime.memory import free_memory_soon

COUNTED_BYTES = 64 * 1024
"""Answers below are not counted: connections are limited, and the kernel and aiohttp buffer as much for each."""

_SHARES = web.RequestKey("shares", list[Share])


@asynccontextmanager
async def returning_shares(request: web.Request) -> AsyncIterator[None]:
    """Around a request with its answer: what it holds is given back at the end."""
    shares = request[_SHARES] = []
    try:
        yield
    finally:
        is_large = any(share.taken > MIB for share in shares)
        for share in shares:
            share.give_back()
        if is_large:
            free_memory_soon()


async def hold_memory(request: web.Request, n_bytes: int) -> Share:
    """Have room for so many bytes until the request has ended. Raises TryLater when others hold too much.

    Small and large answers have a budget each, so that a few large ones that go slowly do not hold up the many small ones.
    """
    deps = request.app[DEPS]
    if n_bytes <= COUNTED_BYTES:
        return Share(deps.answer_bytes, 0)
    share = await (deps.answer_bytes if n_bytes <= MIB else deps.result_bytes).take(n_bytes)
    request[_SHARES].append(share)
    return share


async def deliver(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Send an answer, unless a stream has done that. Raises TryLater before anything is sent, ConnectionResetError, ClientStalled.

    What a request has changed is told in any case: 503 would deny it. Its answer holds memory without waiting for it.
    """
    if response.prepared or not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return response
    body = response.body
    if len(body) > COUNTED_BYTES and not request[_SHARES]:
        if request.method == "GET":
            await hold_memory(request, len(body))
        else:
            deps = request.app[DEPS]
            budget = deps.answer_bytes if len(body) <= MIB else deps.result_bytes
            request[_SHARES].append(budget.take_at_once(len(body)))
    if len(body) <= PORTION_BYTES:
        try:
            async with asyncio.timeout(write_limit()):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError as error:
            if request.transport is not None:
                request.transport.abort()
            raise ClientStalled("the client does not read") from error
        return response
    stream = ChunkedResponse(request, response.headers, status=response.status, reason=response.reason)
    stream.response.content_length = len(body)
    try:
        await stream.write_all(body)
        await stream.end()
    except BaseException:
        stream.break_off()
        raise
    return stream.response
