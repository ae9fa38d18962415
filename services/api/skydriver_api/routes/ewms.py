"""What EWMS does for a scan: workflow id, workforce, status. Answered from views, never by waiting for EWMS."""

import asyncio
import time
from contextlib import suppress

import orjson
from aiohttp import web

from skydriver_api.commands.idempotency import ask
from skydriver_api.http.deps import DEPS, Deps
from skydriver_api.http.failures import body_of
from skydriver_api.http.middleware import PRINCIPAL
from skydriver_api.payloads.requests import parse_add_workers, parse_workflow_id
from skydriver_api.reads.view_queries import StatusView
from skydriver_api.routes.responses import json_response
from skydriver_api.routes.scan_lookup import ask_about, scan_id_of, visible
from skydriver_common.faults import TryLater
from skydriver_common.model.commands import AddWorkers, AssignWorkflow, RefreshTaskforces
from skydriver_common.model.ids import NOT_YET_REQUESTED, ScanId
from skydriver_common.model.problems import ewms_away, workers_unknown

_NO_TASKFORCES = b'{"taskforces":[]}'
_OLD_S = 300.0
"""EWMS is asked once a minute at least: this is no knowledge any more."""
_ALIVE = ("PENDING__", "IN_PROGRESS__")
_REFRESH_LIMIT_S = 7.0
_LOGS_LIMIT_S = 5.0


async def get_status(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/status``: REST contract 4.13."""
    deps = request.app[DEPS]
    view = await visible(request, deps.reads, await deps.reads.status(scan_id_of(request)))
    deps.eyes.on(view)
    await _look_for_the_end_of_the_log(deps, view.scan_id)
    head = orjson.dumps(
        {
            "scan_state": view.state,
            "is_deleted": view.is_deleted,
            "ewms_deactivated": view.deactivated,
            "scan_complete": view.state == "SCAN_HAS_FINAL_RESULT",
            "scanner_server_logs": {"url": deps.links.url(view.scan_id)},
            "ewms_as_of": view.ewms_as_of,
        }
    )
    return json_response(b'%b,"problems":%b,"ewms_workforce":%b}' % (head[:-1], _problems(view), _workforce(view)))


async def get_logs(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/logs``: REST contract 4.14."""
    deps = request.app[DEPS]
    view = await visible(request, deps.reads, await deps.reads.status(scan_id_of(request)))
    looking = await _look_for_the_end_of_the_log(deps, view.scan_id)
    if looking is not None:
        await asyncio.wait({looking}, timeout=_LOGS_LIMIT_S)
    return json_response(orjson.dumps({"scanner_server": {"url": deps.links.url(view.scan_id)}}))


async def get_workforce(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/ewms/workforce``: REST contract 4.17."""
    deps = request.app[DEPS]
    view = await visible(request, deps.reads, await deps.reads.status(scan_id_of(request)))
    deps.eyes.on(view)
    return json_response(_workforce(view))


async def get_taskforces(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/ewms/taskforces``: REST contract 4.17. The bridge is asked to refresh them; what is kept is the answer."""
    deps = request.app[DEPS]
    view = await visible(request, deps.reads, await deps.reads.status(scan_id_of(request)))
    if view.ewms_workflow_id in (None, NOT_YET_REQUESTED):
        return json_response(_NO_TASKFORCES)
    with suppress(TryLater, TimeoutError):  # the bridge is away: the last known ones, as when EWMS is
        async with asyncio.timeout(_REFRESH_LIMIT_S):
            await deps.commander.ask(RefreshTaskforces(scan_id=view.scan_id), actor=request[PRINCIPAL].subject)
    return json_response(await deps.reads.taskforces(view.scan_id) or _NO_TASKFORCES)


async def get_workflow_id(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/ewms/workflow-id``: REST contract 4.16."""
    deps = request.app[DEPS]
    view = await visible(request, deps.reads, await deps.reads.manifest(scan_id_of(request)))
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
    return json_response(body_of(await ask(request, command, raw)))


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
    return json_response(body_of(await ask_about(request, command, raw, found, no_redirect=parsed.no_redirect)))


def _problems(view: StatusView) -> bytes:
    """What is stored with the scan, and what no event of it tells: that EWMS is away, or nobody asks it."""
    if view.deactivated or view.is_deleted or not view.state.startswith(_ALIVE):
        return view.problems
    if view.ewms_away_since is not None:
        more = ewms_away(view.ewms_away_since)
    elif view.ewms_as_of is not None and time.time() - view.ewms_as_of > _OLD_S:
        more = workers_unknown(view.ewms_as_of)
    else:
        return view.problems
    return b"[%b%b%b" % (orjson.dumps(more), b"" if view.problems == b"[]" else b",", view.problems[1:])


def _workforce(view: StatusView) -> bytes:
    """``{"workflow_id", "statuses", "n_running", "top_errors"}``: REST contract 8.6."""
    return b'{"workflow_id":%b,%b' % (orjson.dumps(view.ewms_workflow_id), view.workforce[1:])


async def _look_for_the_end_of_the_log(deps: Deps, scan_id: ScanId) -> "asyncio.Task[None] | None":
    """Begin to look; ``status`` does not wait for it and shows the window the next time."""
    if not deps.links.is_due(scan_id):
        return deps.links.look(scan_id)
    started = await deps.reads.scan_start(scan_id)
    return None if started is None else deps.links.look_up(scan_id, started)
