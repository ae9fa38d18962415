"""Searching scans: the answer is streamed in bounded memory. Source: REST contract 4.3."""

from contextlib import aclosing

from aiohttp import web

from skydriver_api.deps import DEPS
from skydriver_api.find.store import find_query, stream
from skydriver_api.payloads.requests import parse_find
from skydriver_api.routes.answers import json_response
from skydriver_common.db.translate import database_faults


async def find_scans(request: web.Request) -> web.StreamResponse:
    """``POST /scans/find``: REST contract 4.3."""
    parsed = parse_find(await request.read())
    query = find_query(
        parsed.filter,
        include_deleted=parsed.include_deleted,
        projection=parsed.manifest_projection,
        limit=parsed.limit,
        after=parsed.after,
    )
    response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
    with database_faults():
        async with aclosing(stream(request.app[DEPS].reads.pool, query)) as manifests:
            is_first = True
            async for manifest in manifests:
                if is_first:
                    await response.prepare(request)
                # an error from here on breaks the connection off: a cut list must not look whole
                await response.write((b'{"manifests":[' if is_first else b",") + manifest)
                is_first = False
    if is_first:
        return json_response(b'{"manifests":[]}')
    await response.write(b"]}")
    await response.write_eof()
    return response
