"""Routes that are about no single scan: liveness, the OpenAPI document, the backlog."""

import re
from contextlib import aclosing

import orjson
from aiohttp import web

from skydriver_api.deps import DEPS
from skydriver_api.http.chunked import streaming
from skydriver_api.http.http_errors import HttpError
from skydriver_api.http.query_params import parse_integer
from skydriver_api.reads.view_queries import BacklogRow
from skydriver_api.routes.responses import json_response
from skydriver_common.model.ids import ScanId

_JSON = {"Content-Type": "application/json; charset=utf-8"}
_SCAN_ID = re.compile(r"[A-Za-z0-9_]{1,64}")
OPENAPI = web.AppKey("openapi", bytes)


async def get_root(_: web.Request) -> web.StreamResponse:
    """``GET /``: REST contract 4.1."""
    return json_response(b"{}")


async def get_openapi(request: web.Request) -> web.StreamResponse:
    """``GET /openapi.json``: REST contract 4.2."""
    return json_response(request.app[OPENAPI])


async def get_backlog(request: web.Request) -> web.StreamResponse:
    """``GET /scans/backlog``: REST contract 4.4, oldest first; the whole list, or ``limit`` entries after the scan ``after``."""
    deps = request.app[DEPS]
    after = request.query.get("after", "").strip() or None
    limit = parse_integer(request.query.get("limit", ""), "limit", default=0, minimum=1)
    if after is not None and _SCAN_ID.fullmatch(after) is None:
        raise HttpError(400, "after: must be a scan id")
    async with streaming(request, _JSON) as response, deps.searches.hold():
        async with aclosing(
            deps.reads.backlog(after=None if after is None else ScanId(after), limit=limit or None)
        ) as portions:
            async for rows in portions:
                entries = b",".join(orjson.dumps(_entry(row)) for row in rows)
                await response.write((b"," if response.has_begun else b'{"entries":[') + entries)
        if not response.has_begun:
            return json_response(b'{"entries":[]}')
        await response.write(b"]}")
        await response.end()
    return response.response


def _entry(row: BacklogRow) -> dict[str, object]:
    """A BacklogEntry (REST contract 5.3)."""
    return {
        "scan_id": row.scan_id,
        "timestamp": row.queued_at,
        "pickled_k8s_job": None,
        "priority": row.priority,
        "pending_timestamp": row.taken_at,
        "next_attempt": row.attempts,
    }
