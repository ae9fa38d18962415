"""Searching scans: the answer is streamed in bounded memory. Source: REST contract 4.3."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from skydriver_api.deps import DEPS
from skydriver_api.find.store import FindQuery, find_query, stream
from skydriver_api.payloads.requests import parse_find
from skydriver_api.routes.answers import json_response, parsed_body
from skydriver_api.routes.streaming import streaming
from skydriver_common.db.pool import Pool
from skydriver_common.db.translate import database_faults

_JSON = {"Content-Type": "application/json; charset=utf-8"}


async def find_scans(request: web.Request) -> web.StreamResponse:
    """``POST /scans/find``: REST contract 4.3."""
    parsed = await parsed_body(await request.read(), parse_find)
    query = find_query(
        parsed.filter,
        include_deleted=parsed.include_deleted,
        projection=parsed.manifest_projection,
        limit=parsed.limit,
        after=parsed.after,
    )
    deps = request.app[DEPS]
    async with streaming(request, _JSON) as answer, deps.searches.taking():
        async with aclosing(_found(deps.reads.pool, query)) as manifests:
            async for manifest in manifests:
                await answer.write((b"," if answer.has_begun else b'{"manifests":[') + manifest)
        if not answer.has_begun:
            return json_response(b'{"manifests":[]}')
        await answer.write(b"]}")
        await answer.end()
    return answer.response


async def _found(pool: Pool, query: FindQuery) -> AsyncGenerator[bytes, None]:
    """What the search yields. Raises BadFilter, TooSlow, TryLater."""
    with database_faults():
        async with aclosing(stream(pool, query)) as manifests:
            async for manifest in manifests:
                yield manifest
