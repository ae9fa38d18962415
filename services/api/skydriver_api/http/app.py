"""The application: every route with the roles it allows, what it takes and what it answers."""

import orjson
from aiohttp import web

from skydriver_api.http import schemas
from skydriver_api.http.deps import DEPS, Deps
from skydriver_api.http.middleware import (
    admitting,
    answers,
    close_unless_asked,
    leave_to_handler,
    no_such_path,
    require_roles,
    with_body_limit,
)
from skydriver_api.http.openapi import document
from skydriver_api.http.route import MIB, Handler, Route
from skydriver_api.payloads import requests as bodies
from skydriver_api.routes import events, ewms, find, operations, results, scans
from skydriver_common.auth import Role, TokenVerifier
from skydriver_common.model import commands
from skydriver_common.payloads import reports

_U = frozenset({Role.USER})
_S = frozenset({Role.SYSTEM})
_US = _U | _S
_SCAN = r"/scan/{scan_id:[A-Za-z0-9_]+}"
_DELETED = ("include_deleted",)


def _get(
    path: str, handler: Handler, summary: str, roles: frozenset[Role], answer: str, *,
    query: tuple[str, ...] = (), redirects: bool = False, streams: bool = False,
) -> Route:  # fmt: skip
    return Route(
        method="GET", path=path, handler=handler, summary=summary, roles=roles, answer=schemas.ref(answer), query=query,
        redirects=redirects, streams=streams,
    )  # fmt: skip


ROUTES: tuple[Route, ...] = (
    Route(method="GET", path="/", handler=operations.get_root, summary="Whether the server answers", roles=_U,
          answer=schemas.EMPTY),
    Route(method="GET", path="/openapi.json", handler=operations.get_openapi, summary="This document", roles=frozenset(),
          answer={"type": "object"}),
    Route(method="POST", path="/scans/find", handler=find.find_scans, summary="Find scans by a Mongo-style filter", roles=_U,
          answer=schemas.ref("Manifests"), body=bodies.FindBody),
    _get("/scans/backlog", operations.get_backlog, "Scans that wait for their launch", _U, "Backlog",
         query=("after_scan", "scans_limit")),
    Route(method="POST", path="/scan", handler=scans.request_scan, summary="Request a scan", roles=_U,
          answer=schemas.ref("Manifest"), body=bodies.WholeScanRequest, sends_command=commands.RequestScan, most_bytes=32 * MIB),
    Route(method="POST", path=f"{_SCAN}/actions/rescan", handler=scans.rescan_scan, summary="Scan the same request again",
          roles=_US, answer=schemas.ref("Manifest"), body=bodies.RescanBody, body_is_optional=True, redirects=True,
          sends_command=commands.RescanScan, scan_tokens=False),
    Route(method="POST", path=f"{_SCAN}/actions/add-workers", handler=ewms.add_workers, summary="Ask EWMS for more workers",
          roles=_U, answer=schemas.ref("AddedWorkers"), body=bodies.AddWorkersBody, redirects=True,
          sends_command=commands.AddWorkers, refusals=(500,)),
    _get(_SCAN, scans.get_scan, "Manifest and result", _US, "Scan", query=_DELETED, redirects=True),
    Route(method="DELETE", path=_SCAN, handler=scans.delete_scan, summary="Stop a scan and hide it", roles=_U,
          answer=schemas.ref("Scan"), body=bodies.DeleteBody, body_is_optional=True, redirects=True, sends_command=commands.DeleteScan),
    _get(f"{_SCAN}/manifest", scans.get_manifest, "What is known of a scan", _US, "Manifest",
         query=("include_deleted", "projection"), redirects=True),
    Route(method="PATCH", path=f"{_SCAN}/manifest", handler=scans.patch_manifest, summary="A scanner's progress and metadata",
          roles=_S, answer=schemas.ref("Manifest"), body=reports.PatchBody, sends_command=commands.PatchManifest),
    _get(f"{_SCAN}/i3-event", scans.get_i3_event, "The event as it was posted", _US, "I3Event", redirects=True),
    _get(f"{_SCAN}/result", results.get_result, "The skymap", _U, "Result", query=_DELETED, redirects=True),
    Route(method="PUT", path=f"{_SCAN}/result", handler=results.put_result, summary="A scanner's skymap", roles=_S,
          answer=schemas.ref("Result"), body=reports.ResultBody, sends_command=commands.PutResult, most_bytes=101 * MIB),
    _get(f"{_SCAN}/status", ewms.get_status, "State and workforce", _US, "Status", redirects=True),
    _get(f"{_SCAN}/logs", ewms.get_logs, "Where the scanner server's log can be seen", _U, "Logs", redirects=True),
    _get(f"{_SCAN}/events", events.get_events,
         "The scan's events: a page, or with `Accept: text/event-stream` a stream that starts after `Last-Event-ID`", _US,
         "Events", query=("after", "limit"), streams=True),
    _get(r"/scan-request/{scan_id:[A-Za-z0-9_]+}", scans.get_scan_request, "The request, ready to be posted again", _U,
         "ScanRequest"),
    _get(f"{_SCAN}/ewms/workflow-id", ewms.get_workflow_id, "The scan's EWMS workflow", _US, "WorkflowId", redirects=True),
    Route(method="POST", path=f"{_SCAN}/ewms/workflow-id", handler=ewms.post_workflow_id, summary="Set the EWMS workflow, once",
          roles=_S, answer=schemas.ref("Manifest"), body=bodies.WorkflowIdBody, sends_command=commands.AssignWorkflow, scan_tokens=False),
    _get(f"{_SCAN}/ewms/workforce", ewms.get_workforce, "Workers, summed over all taskforces", _US, "Workforce", redirects=True),
    _get(f"{_SCAN}/ewms/taskforces", ewms.get_taskforces, "EWMS' taskforces, all fields", _US, "Taskforces", redirects=True),
)  # fmt: skip
"""Source: REST contract 3. ``/scan/{id}/events`` is an addition (1.10)."""

_HOT_PATHS = tuple(f"{_SCAN}/{name}" for name in ("manifest", "status", "result"))
"""The router tries one path after the other: these first."""


_ANY_PATH = r"/{path:[\s\S]*}"


def make_app(deps: Deps, verifier: TokenVerifier) -> web.Application:
    """The REST application, ready to be served."""
    app = web.Application(middlewares=[answers], client_max_size=MIB)
    app[DEPS] = deps
    app[operations.OPENAPI] = orjson.dumps(document(ROUTES, clusters=deps.clusters, limits=deps.worker_limits))
    for route in sorted(ROUTES, key=lambda route: route.path not in _HOT_PATHS):
        handler = route.handler if route.body is None else with_body_limit(route.most_bytes, route.handler)
        if route.sends_command is not None:
            handler = admitting(route.sends_command.key, handler)
        if route.roles:
            handler = require_roles(route.roles, verifier, handler, scan_tokens=route.scan_tokens)
        app.router.add_route(route.method, route.path, handler, expect_handler=leave_to_handler)
    app.router.add_route("*", _ANY_PATH, no_such_path, expect_handler=leave_to_handler)
    app.on_response_prepare.append(close_unless_asked)

    async def end_streams(_: web.Application) -> None:
        deps.live.close()

    app.on_shutdown.append(end_streams)
    return app
