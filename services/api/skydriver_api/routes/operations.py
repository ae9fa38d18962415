"""The front door's own routes: liveness, its description, backlog."""

import orjson
from aiohttp import web

from skydriver_api.deps import DEPS
from skydriver_api.routes.answers import json_response

OPENAPI = web.AppKey("openapi", bytes)


async def get_root(_: web.Request) -> web.StreamResponse:
    """``GET /``: REST contract 4.1."""
    return json_response(b"{}")


async def get_openapi(request: web.Request) -> web.StreamResponse:
    """``GET /openapi.json``: REST contract 4.2."""
    return json_response(request.app[OPENAPI])


async def get_backlog(request: web.Request) -> web.StreamResponse:
    """``GET /scans/backlog``: REST contract 4.4, oldest first."""
    entries = [
        {
            "scan_id": row.scan_id,
            "timestamp": row.queued_at,
            "pickled_k8s_job": None,
            "priority": row.priority,
            "pending_timestamp": row.taken_at,
            "next_attempt": row.attempts,
        }
        async for row in request.app[DEPS].reads.backlog()
    ]
    return json_response(orjson.dumps({"entries": entries}))
