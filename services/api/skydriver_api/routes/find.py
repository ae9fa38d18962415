"""Searching scans: the answer is streamed in bounded memory. Source: REST contract 4.3."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from skydriver_api.find.search import FindQuery, Statement, find_query, statement_for, stream
from skydriver_api.http.deps import DEPS
from skydriver_api.http.middleware import check_client
from skydriver_api.payloads.requests import parse_find
from skydriver_api.routes.chunked import streaming
from skydriver_api.routes.responses import json_response, parsed_body
from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Pool

_JSON = {"Content-Type": "application/json; charset=utf-8"}
_OFF_THE_LOOP_BYTES = 10_000
"""A filter costs up to a thousand times as much as other bodies of its size: it is read, checked and turned into SQL."""


async def find_scans(request: web.Request) -> web.StreamResponse:
    """``POST /scans/find``: REST contract 4.3."""
    query, statement = await parsed_body(await request.read(), _search, off_the_loop_bytes=_OFF_THE_LOOP_BYTES)
    deps = request.app[DEPS]
    async with streaming(request, _JSON) as answer, deps.searches.taking():
        check_client(request)
        async with aclosing(_found(deps.reads.pool, query, statement)) as manifests:
            async for manifest in manifests:
                await answer.write((b"," if answer.has_begun else b'{"manifests":[') + manifest)
        if not answer.has_begun:
            return json_response(b'{"manifests":[]}')
        await answer.write(b"]}")
        await answer.end()
    return answer.response


def _search(raw: bytes) -> tuple[FindQuery, Statement]:
    """From the body to what the database is asked. Raises InvalidBody, BadFilter."""
    parsed = parse_find(raw)
    query = find_query(
        parsed.filter,
        include_deleted=parsed.include_deleted,
        projection=parsed.manifest_projection,
        limit=parsed.limit,
        after=parsed.after,
    )
    return query, statement_for(query)


async def _found(pool: Pool, query: FindQuery, statement: Statement) -> AsyncGenerator[bytes, None]:
    """What the search yields. Raises BadFilter, TooSlow, TryLater."""
    with database_faults():
        async with aclosing(stream(pool, query, statement=statement)) as manifests:
            async for manifest in manifests:
                yield manifest
