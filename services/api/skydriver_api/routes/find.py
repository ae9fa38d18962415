"""Searching scans: the response is streamed in bounded memory. Source: REST contract 4.3."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from skydriver_api.deps import DEPS
from skydriver_api.find.search import FindQuery, Statement, find_query, statement_for, stream
from skydriver_api.http.chunked import streaming
from skydriver_api.http.http_errors import check_client
from skydriver_api.payloads.requests import parse_find
from skydriver_api.routes.responses import json_response
from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Pool

_JSON = {"Content-Type": "application/json; charset=utf-8"}
_OFF_THE_LOOP_BYTES = 10_000
"""Larger filters are parsed in a thread: one costs up to a thousand times as much as other bodies of its size."""


async def find_scans(request: web.Request) -> web.StreamResponse:
    """``POST /scans/find``: REST contract 4.3."""
    query, statement = await _parsed_search(request, await request.read())
    deps = request.app[DEPS]
    async with streaming(request, _JSON) as response, deps.searches.hold():
        check_client(request)
        async with aclosing(_run_search(deps.reads.pool, query, statement)) as manifests:
            async for manifest in manifests:
                await response.write((b"," if response.has_begun else b'{"manifests":[') + manifest)
        if not response.has_begun:
            return json_response(b'{"manifests":[]}')
        await response.write(b"]}")
        await response.end()
    return response.response


async def _parsed_search(request: web.Request, raw: bytes) -> tuple[FindQuery, Statement]:
    """Parse the body; large ones in a thread, one after the other: several at once would take turns with the loop. Raises TryLater."""
    if len(raw) <= _OFF_THE_LOOP_BYTES:
        return _parse_search(raw)
    async with request.app[DEPS].large_filters.hold():
        check_client(request)
        return await asyncio.to_thread(_parse_search, raw)


def _parse_search(raw: bytes) -> tuple[FindQuery, Statement]:
    """Parse the body into a statement for the database. Raises InvalidBody, BadFilter."""
    parsed = parse_find(raw)
    query = find_query(
        parsed.filter,
        include_deleted=parsed.include_deleted,
        projection=parsed.manifest_projection,
        limit=parsed.limit,
        after=parsed.after,
    )
    return query, statement_for(query)


async def _run_search(pool: Pool, query: FindQuery, statement: Statement) -> AsyncGenerator[bytes, None]:
    """Yield the manifests that match. Raises BadFilter, TooSlow, TryLater."""
    with database_faults():
        async with aclosing(stream(pool, query, statement=statement)) as manifests:
            async for manifest in manifests:
                yield manifest
