"""What several routes do with bodies: read large ones off the loop, answer with bytes as they are."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

T = TypeVar("T")

_OFF_THE_LOOP_BYTES = 256 * 1024


async def parsed_body(raw: bytes, parse: Callable[[bytes], T]) -> T:
    """What the parser makes of the body; a large one does not hold up others meanwhile. Raises what the parser raises."""
    return await asyncio.to_thread(parse, raw) if len(raw) > _OFF_THE_LOOP_BYTES else parse(raw)


def json_response(body: bytes) -> web.Response:
    """200 with JSON bytes as they are."""
    return web.Response(body=body, content_type="application/json")
