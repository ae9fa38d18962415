"""What several routes do with bodies: read large ones off the loop, respond with bytes as they are."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

from skydriver_api.deps import DEPS
from skydriver_api.http.chunked import PORTION_BYTES, streaming
from skydriver_api.http.delivery import hold_memory
from skydriver_api.http.http_errors import check_client
from skydriver_api.reads.result_cache import ResultView, envelope_of_result
from skydriver_common.log import blobs

T = TypeVar("T")

OFF_THE_LOOP_BYTES = 256 * 1024
"""Bodies above this size are parsed in a thread."""

STREAMED_ABOVE_BYTES = 32 * 1024 * 1024
"""Results up to this size are cached; larger ones are unpacked as the client takes them."""


async def parsed_body(raw: bytes, parse: Callable[[bytes], T], *, off_the_loop_bytes: int = OFF_THE_LOOP_BYTES) -> T:
    """Parse the body, a large one off the loop. Raises what the parser raises."""
    return await asyncio.to_thread(parse, raw) if len(raw) > off_the_loop_bytes else parse(raw)


def json_response(body: bytes) -> web.Response:
    """200 with JSON bytes as they are."""
    return web.Response(body=body, content_type="application/json")


class LoadedResult:
    """A Result (REST contract 5.2) that is ready to be sent: it is read, and its memory is held until the request has ended."""

    def __init__(self, body: bytes, view: ResultView | None = None, packed: blobs.Packed | None = None) -> None:
        """Either the whole body, or what is stored of a large one."""
        self._body = body
        self._view = view
        self._packed = packed

    async def respond(self, request: web.Request, *, before: bytes = b"", after: bytes = b"") -> web.StreamResponse:
        """200 with the Result between other bytes of JSON; a large one in portions, unpacked as the client takes them."""
        if self._packed is None or self._view is None:
            # joined only where there is something to join: a copy of 5 MB costs as much as sending it
            return json_response(b"".join((before, self._body, after)) if before or after else self._body)
        head, tail = envelope_of_result(self._view)
        head, tail = before + head, tail + after
        async with streaming(request, {"Content-Type": "application/json; charset=utf-8"}) as stream:
            stream.response.content_length = len(head) + self._packed.size + len(tail)
            await stream.write(head)
            async for portion in blobs.portions(self._packed, PORTION_BYTES):
                await stream.write(portion)
            await stream.write(tail)
            await stream.end()
        return stream.response


async def load_result(request: web.Request, view: ResultView | None) -> LoadedResult:
    """Read the scan's result when there is memory for it: before a command is sent, whose effect must not be hidden by a 503.

    Raises TryLater.
    """
    reads = request.app[DEPS].reads
    if view is None or view.size is None:
        return LoadedResult(b"{}")
    if view.size > STREAMED_ABOVE_BYTES:
        await hold_memory(request, view.size)
        check_client(request)
        return LoadedResult(b"", view, await reads.packed_result(view))
    permit = await hold_memory(request, 2 * view.size)
    body = await reads.result_body(view)
    permit.shrink_to(len(body))
    return LoadedResult(body)


async def respond_with_result(request: web.Request, view: ResultView | None) -> web.StreamResponse:
    """200 with the Result. A large one waits for its memory. Raises TryLater."""
    return await (await load_result(request, view)).respond(request)
