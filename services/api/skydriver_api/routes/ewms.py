"""What EWMS does for a scan: workflow id, workforce, status. Read from views, never by waiting for EWMS."""

import asyncio
import time
from contextlib import suppress

import orjson
from aiohttp import web

from skydriver_api.deps import DEPS, Deps
from skydriver_api.http.access import PRINCIPAL
from skydriver_api.http.http_errors import body_of
from skydriver_api.payloads.requests import parse_add_workers, parse_workflow_id
from skydriver_api.reads.view_queries import StatusView
from skydriver_api.routes.idempotency import send_idempotent
from skydriver_api.routes.responses import json_response
from skydriver_api.routes.scan_lookup import resolve_scan, scan_id_of, send_scan_command
from skydriver_common.faults import TryLater
from skydriver_common.model.commands import AddWorkers, AssignWorkflow, RefreshTaskforces
from skydriver_common.model.ids import NOT_YET_REQUESTED, ScanId
from skydriver_common.model.problems import bridge_away, ewms_away, launches_held, workers_unknown

_NO_TASKFORCES = b'{"taskforces":[]}'
_STALE_S = 300.0
"""EWMS is queried once a minute at least: counts this old are out of date."""
_ACTIVE_PREFIXES = ("PENDING__", "IN_PROGRESS__")
_REFRESH_TIMEOUT_S = 7.0
_LOG_LOOKUP_TIMEOUT_S = 5.0


async def get_status(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/status``: REST contract 4.13."""
    deps = request.app[DEPS]
    view = await resolve_scan(request, deps.reads, await deps.reads.status(scan_id_of(request)))
    deps.viewer_hints.note_view(view)
    await _start_log_lookup(deps, view.scan_id)
    head = orjson.dumps(
        {
            "scan_state": view.state,
            "is_deleted": view.is_deleted,
            "ewms_deactivated": view.deactivated,
            "scan_complete": view.state == "SCAN_HAS_FINAL_RESULT",
            "scanner_server_logs": {"url": deps.log_links.url(view.scan_id)},
            "ewms_as_of": view.ewms_as_of,
        }
    )
    return json_response(b'%b,"problems":%b,"ewms_workforce":%b}' % (head[:-1], _problems(view), _workforce(view)))


async def get_logs(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/logs``: REST contract 4.14."""
    deps = request.app[DEPS]
    view = await resolve_scan(request, deps.reads, await deps.reads.status(scan_id_of(request)))
    lookup = await _start_log_lookup(deps, view.scan_id)
    if lookup is not None:
        await asyncio.wait({lookup}, timeout=_LOG_LOOKUP_TIMEOUT_S)
    return json_response(orjson.dumps({"scanner_server": {"url": deps.log_links.url(view.scan_id)}}))


async def get_workforce(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/ewms/workforce``: REST contract 4.17."""
    deps = request.app[DEPS]
    view = await resolve_scan(request, deps.reads, await deps.reads.status(scan_id_of(request)))
    deps.viewer_hints.note_view(view)
    return json_response(_workforce(view))


async def get_taskforces(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/ewms/taskforces``: REST contract 4.17. The bridge is asked to refresh them; the response is what it stored last."""
    deps = request.app[DEPS]
    view = await resolve_scan(request, deps.reads, await deps.reads.status(scan_id_of(request)))
    if view.ewms_workflow_id in (None, NOT_YET_REQUESTED):
        return json_response(_NO_TASKFORCES)
    with suppress(TryLater, TimeoutError):  # the bridge is unavailable: the last known ones, as when EWMS is
        async with asyncio.timeout(_REFRESH_TIMEOUT_S):
            await deps.commands.call(RefreshTaskforces(scan_id=view.scan_id), actor=request[PRINCIPAL].subject)
    return json_response(await deps.reads.taskforces(view.scan_id) or _NO_TASKFORCES)


async def get_workflow_id(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/ewms/workflow-id``: REST contract 4.16."""
    deps = request.app[DEPS]
    view = await resolve_scan(request, deps.reads, await deps.reads.manifest(scan_id_of(request)))
    return json_response(
        orjson.dumps(
            {
                "workflow_id": view.ewms_workflow_id,
                "requested_ewms_workflow": view.ewms_workflow_id not in (None, NOT_YET_REQUESTED),
                "eligible_for_ewms": view.ewms_workflow_id is not None,
                "ewms_address": view.ewms_address,
            }
        )
    )


async def post_workflow_id(request: web.Request) -> web.StreamResponse:
    """``POST /scan/{id}/ewms/workflow-id``: REST contract 4.16."""
    raw = await request.read()
    parsed = parse_workflow_id(raw)
    command = AssignWorkflow(scan_id=scan_id_of(request), workflow_id=parsed.workflow_id, ewms_address=parsed.ewms_address)
    return json_response(body_of(await send_idempotent(request, command, raw)))


async def add_workers(request: web.Request) -> web.StreamResponse:
    """``POST /scan/{id}/actions/add-workers``: REST contract 4.7."""
    deps = request.app[DEPS]
    raw = await request.read()
    parsed = parse_add_workers(raw, limits=deps.worker_limits)
    scan_id = scan_id_of(request)
    command = AddWorkers(
        scan_id=scan_id,
        n_workers=parsed.n_workers,
        cluster_location=parsed.cluster_location,
        debug_cap=deps.clusters.get(parsed.cluster_location),
    )
    found = await deps.reads.status(scan_id)
    return json_response(body_of(await send_scan_command(request, command, raw, found, no_redirect=parsed.no_redirect)))


def _problems(view: StatusView) -> bytes:
    """Return the stored problems and those that no event of the scan records, the cause first.

    Such are: launches are held back, the bridge does not work, EWMS is unavailable, or nobody queries it.
    """
    if view.deactivated or view.is_deleted or not view.state.startswith(_ACTIVE_PREFIXES):
        return view.problems
    if view.held is not None:
        current = launches_held(view.held)
    elif view.bridge_away_since is not None:
        current = bridge_away(view.bridge_away_since)
    elif view.ewms_away_since is not None:
        current = ewms_away(view.ewms_away_since)
    elif view.ewms_as_of is not None and time.time() - view.ewms_as_of > _STALE_S:
        current = workers_unknown(view.ewms_as_of)
    else:
        return view.problems
    return b"[%b%b%b" % (orjson.dumps(current), b"" if view.problems == b"[]" else b",", view.problems[1:])


def _workforce(view: StatusView) -> bytes:
    """``{"workflow_id", "statuses", "n_running", "top_errors"}``: REST contract 8.6."""
    return b'{"workflow_id":%b,%b' % (orjson.dumps(view.ewms_workflow_id), view.workforce[1:])


async def _start_log_lookup(deps: Deps, scan_id: ScanId) -> "asyncio.Task[None] | None":
    """Start to look for the end of the scan's log; ``status`` does not wait for it and has the link's time window the next time."""
    if not deps.log_links.is_due(scan_id):
        return deps.log_links.lookup_of(scan_id)
    started = await deps.reads.scan_start(scan_id)
    return None if started is None else deps.log_links.start_lookup(scan_id, started)
