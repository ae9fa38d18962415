"""What several routes do with bodies: read large ones off the loop, answer with bytes as they are."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

from skydriver_api.deps import DEPS
from skydriver_api.idempotency import OFF_THE_LOOP_BYTES
from skydriver_api.reads import ResultView
from skydriver_api.routes.streaming import streaming

T = TypeVar("T")

LARGE_BYTES = 8 * 1024 * 1024


async def parsed_body(raw: bytes, parse: Callable[[bytes], T], *, off_the_loop_bytes: int = OFF_THE_LOOP_BYTES) -> T:
    """What the parser makes of the body; a large one does not hold up others meanwhile. Raises what the parser raises."""
    return await asyncio.to_thread(parse, raw) if len(raw) > off_the_loop_bytes else parse(raw)


def json_response(body: bytes) -> web.Response:
    """200 with JSON bytes as they are."""
    return web.Response(body=body, content_type="application/json")


async def with_result(
    request: web.Request, view: ResultView | None, *, before: bytes = b"", after: bytes = b""
) -> web.StreamResponse:
    """200 with the Result between other bytes of JSON. A large one waits for its share of memory. Raises TryLater."""
    deps = request.app[DEPS]
    if view is None or view.size is None:
        return json_response(before + b"{}" + after)
    if view.size <= LARGE_BYTES:
        body = await deps.reads.result_body(view)
        return json_response(b"".join((before, body, after)) if before else body)
    async with (
        streaming(request, {"Content-Type": "application/json; charset=utf-8"}) as answer,
        deps.result_bytes.taking(view.size),
    ):
        body = await deps.reads.result_body(view)
        answer.response.content_length = len(before) + len(body) + len(after)
        for piece in (before, body, after):
            await answer.write_all(piece)
        await answer.end()
    return answer.response
