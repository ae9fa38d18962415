"""What EWMS does for a scan: workflow id, workforce, status. Answered from views, never by waiting for EWMS."""

from urllib.parse import quote

import orjson
from aiohttp import web

from skydriver_api.deps import DEPS, Deps
from skydriver_api.failures import body_of
from skydriver_api.idempotency import ask
from skydriver_api.payloads.requests import parse_add_workers, parse_workflow_id
from skydriver_api.reads import StatusView
from skydriver_api.routes.answers import json_response
from skydriver_api.routes.lookup import scan_id_of, visible
from skydriver_common.model.commands import AddWorkers, AssignWorkflow
from skydriver_common.model.ids import NOT_YET_REQUESTED


async def get_status(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/status``: REST contract 4.13."""
    deps = request.app[DEPS]
    view = await visible(request, deps.reads, await deps.reads.status(scan_id_of(request)))
    head = orjson.dumps(
        {
            "scan_state": view.state,
            "is_deleted": view.is_deleted,
            "ewms_deactivated": view.deactivated,
            "scan_complete": view.state == "SCAN_HAS_FINAL_RESULT",
            "scanner_server_logs": {"url": _logs_url(deps, view.scan_id)},
        }
    )
    return json_response(b'%b,"ewms_workforce":%b}' % (head[:-1], _workforce(view)))


async def get_logs(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/logs``: REST contract 4.14."""
    deps = request.app[DEPS]
    view = await visible(request, deps.reads, await deps.reads.status(scan_id_of(request)))
    return json_response(orjson.dumps({"scanner_server": {"url": _logs_url(deps, view.scan_id)}}))


async def get_workforce(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/ewms/workforce``: REST contract 4.17."""
    deps = request.app[DEPS]
    view = await visible(request, deps.reads, await deps.reads.status(scan_id_of(request)))
    return json_response(_workforce(view))


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
    parsed = parse_add_workers(raw)
    scan_id = scan_id_of(request)
    await visible(request, deps.reads, await deps.reads.status(scan_id), no_redirect=parsed.no_redirect)
    command = AddWorkers(
        scan_id=scan_id,
        n_workers=parsed.n_workers,
        cluster_location=parsed.cluster_location,
        debug_cap=deps.clusters.get(parsed.cluster_location),
    )
    return json_response(body_of(await ask(request, command, raw)))


def _workforce(view: StatusView) -> bytes:
    """``{"workflow_id", "statuses", "n_running", "top_errors"}``: REST contract 8.6."""
    return b'{"workflow_id":%b,%b' % (orjson.dumps(view.ewms_workflow_id), view.workforce[1:])


def _logs_url(deps: Deps, scan_id: str) -> str | None:
    """Where the scanner server's log can be seen: REST contract 8.7. None without a dashboard."""
    if not deps.dashboard_url:
        return None
    namespace, container = quote(deps.namespace, safe=""), quote(f"skyscan-server-{scan_id}", safe="")
    return f"{deps.dashboard_url}&var-namespace={namespace}&var-container={container}"
