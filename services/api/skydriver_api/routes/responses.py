"""What several routes do with bodies: read large ones off the loop, answer with bytes as they are."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

from skydriver_api.commands.idempotency import OFF_THE_LOOP_BYTES
from skydriver_api.http.delivery import hold_memory
from skydriver_api.http.deps import DEPS
from skydriver_api.http.middleware import check_client
from skydriver_api.reads.view_queries import ResultView, envelope_of_result
from skydriver_api.routes.chunked import PORTION_BYTES, streaming
from skydriver_common.log import blobs

T = TypeVar("T")

LARGE_BYTES = 32 * 1024 * 1024
"""Results up to this size are kept for those who ask for them next; larger ones are sent as they are read."""


async def parsed_body(raw: bytes, parse: Callable[[bytes], T], *, off_the_loop_bytes: int = OFF_THE_LOOP_BYTES) -> T:
    """What the parser makes of the body; a large one does not hold up others meanwhile. Raises what the parser raises."""
    return await asyncio.to_thread(parse, raw) if len(raw) > off_the_loop_bytes else parse(raw)


def json_response(body: bytes) -> web.Response:
    """200 with JSON bytes as they are."""
    return web.Response(body=body, content_type="application/json")


class ResultInHand:
    """A Result (REST contract 5.2) that can be answered: it is read, and there is memory for it until the request has ended."""

    def __init__(self, body: bytes, view: ResultView | None = None, packed: blobs.Packed | None = None) -> None:
        """Either the whole body, or what is stored of a large one."""
        self._body = body
        self._view = view
        self._packed = packed

    async def answer(self, request: web.Request, *, before: bytes = b"", after: bytes = b"") -> web.StreamResponse:
        """200 with the Result between other bytes of JSON; a large one in portions, unpacked as the client takes them."""
        if self._packed is None or self._view is None:
            return json_response(b"".join((before, self._body, after)))
        head, tail = envelope_of_result(self._view)
        head, tail = before + head, tail + after
        async with streaming(request, {"Content-Type": "application/json; charset=utf-8"}) as answer:
            answer.response.content_length = len(head) + self._packed.size + len(tail)
            await answer.write(head)
            async for portion in blobs.portions(self._packed, PORTION_BYTES):
                await answer.write(portion)
            await answer.write(tail)
            await answer.end()
        return answer.response


async def result_in_hand(request: web.Request, view: ResultView | None) -> ResultInHand:
    """Read the scan's result, when there is memory for it: before a command is sent, whose effect must not be answered 503.

    Raises TryLater.
    """
    reads = request.app[DEPS].reads
    if view is None or view.size is None:
        return ResultInHand(b"{}")
    if view.size > LARGE_BYTES:
        await hold_memory(request, view.size)
        check_client(request)
        return ResultInHand(b"", view, await reads.packed_result(view))
    share = await hold_memory(request, 2 * view.size)
    body = await reads.result_body(view)
    share.shrink_to(len(body))
    return ResultInHand(body)


async def with_result(request: web.Request, view: ResultView | None) -> web.StreamResponse:
    """200 with the Result. A large one waits for its share of memory. Raises TryLater."""
    return await (await result_in_hand(request, view)).answer(request)
