"""The one way out for responses: a share of memory, and a limit for clients that do not read.

A response holds memory from when it is loaded until the client has taken it. So a route that can tell its size acquires a permit
*before* it loads anything (``hold_memory``); for other responses it is acquired before they are sent. Permits are released when the
request has ended, by ``releasing_memory``.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from skydriver_api.http.chunked import PORTION_BYTES, abort, stall_limit
from skydriver_api.http.limits import MEMORY, Permit, WeightedSemaphore
from skydriver_api.http.route import MIB
from skydriver_common.runtime.memory import free_memory_soon

COUNTED_BYTES = 64 * 1024
"""Responses below are not counted: connections are limited, and the kernel and aiohttp buffer as much for each."""

_PERMITS = web.RequestKey("response_permits", list[Permit])


@asynccontextmanager
async def releasing_memory(request: web.Request) -> AsyncIterator[None]:
    """Around a request with its response: what it holds is released at the end."""
    permits = request[_PERMITS] = []
    try:
        yield
    finally:
        is_large = any(permit.acquired > MIB for permit in permits)
        for permit in permits:
            permit.release()
        if is_large:
            free_memory_soon()


async def hold_memory(request: web.Request, n_bytes: int) -> Permit:
    """Hold so many bytes until the request has ended. Raises TryLater when others hold too much.

    Small and large responses have a limit each, so that a few large ones that go slowly do not hold up the many small ones.
    """
    if n_bytes <= COUNTED_BYTES:
        return Permit(request.app[MEMORY].small_responses, 0)
    permit = await _limit_for(request, n_bytes).acquire(n_bytes)
    request[_PERMITS].append(permit)
    return permit


async def deliver(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Send a response, unless a stream has done that. Raises TryLater before anything is sent, ConnectionResetError, ClientStalled.

    The effect of a request is reported in any case: 503 would deny it. Its response holds memory without waiting for it.
    """
    if response.prepared or not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return response
    n_bytes = len(response.body)
    if n_bytes > COUNTED_BYTES and not request[_PERMITS]:
        if request.method == "GET":
            await hold_memory(request, n_bytes)
        else:
            request[_PERMITS].append(_limit_for(request, n_bytes).acquire_now(n_bytes))
    whole = response if n_bytes <= PORTION_BYTES else _without_copy(response)
    try:
        async with stall_limit(request, n_bytes):
            await whole.prepare(request)
            if whole is not response:
                # at once: the body is in memory and counted, and the transport keeps a view of it, not a copy
                await whole.write(response.body)
            await whole.write_eof()
    except BaseException:
        abort(request)
        raise
    return whole


def _without_copy(response: web.Response) -> web.StreamResponse:
    """The same response, whose headers leave by themselves: aiohttp joins those of a ``Response`` with its body, in a copy."""
    stream = web.StreamResponse(status=response.status, reason=response.reason, headers=response.headers)
    stream.content_length = response.content_length
    return stream


def _limit_for(request: web.Request, n_bytes: int) -> WeightedSemaphore:
    memory = request.app[MEMORY]
    return memory.small_responses if n_bytes <= MIB else memory.large_responses
