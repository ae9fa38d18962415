"""The application: every route with the roles it allows, what it takes and what it returns."""

from functools import partial

import orjson
from aiohttp import web
from pydantic import BaseModel

from skydriver_api.deps import DEPS, Deps
from skydriver_api.find.limits import LIMITS
from skydriver_api.http.access import require_roles
from skydriver_api.http.figures import FIGURES, RequestFigures
from skydriver_api.http.limits import MEMORY
from skydriver_api.http.middleware import error_middleware, unknown_path
from skydriver_api.http.openapi import document
from skydriver_api.http.request_body import close_unless_asked, leave_to_handler, with_body_limit
from skydriver_api.http.route import MIB, Handler, Route
from skydriver_api.payloads import requests as bodies
from skydriver_api.payloads import responses
from skydriver_api.payloads.parameters import LIST_PARAMETERS
from skydriver_api.routes import events, ewms, find, listing, operations, results, scans
from skydriver_api.routes.idempotency import with_admission
from skydriver_api.routes.scan_lookup import scan_must_exist
from skydriver_api.routes.scan_tokens import check_scan_token
from skydriver_common.auth import Role, TokenVerifier
from skydriver_common.model import commands
from skydriver_common.payloads import reports
from skydriver_common.runtime.metrics import Metrics

_U = frozenset({Role.USER})
_S = frozenset({Role.SYSTEM})
_US = _U | _S
_SCAN = r"/scan/{scan_id:[A-Za-z0-9_]+}"
_DELETED = ("include_deleted",)


def _get(
    path: str, handler: Handler, summary: str, roles: frozenset[Role], response: type[BaseModel], *,
    query: tuple[str, ...] = (), redirects: bool = False, streams: bool = False,
) -> Route:  # fmt: skip
    return Route(
        method="GET", path=path, handler=handler, summary=summary, roles=roles, response=response, query=query,
        redirects=redirects, streams=streams,
    )  # fmt: skip


ROUTES: tuple[Route, ...] = (
    Route(method="GET", path="/", handler=operations.get_root, summary="Check that the server is up", roles=_U,
          response=responses.Empty),
    Route(method="GET", path="/openapi.json", handler=operations.get_openapi, summary="Get this document", roles=frozenset(),
          response=responses.OpenApiDocument),
    Route(method="POST", path="/scans/find", handler=find.find_scans, summary="Find scans with a MongoDB-style filter", roles=_U,
          response=responses.Manifests, body=bodies.FindBody, description=LIMITS),
    _get("/scans", listing.list_scans, "List scans as summaries, a page at a time", _U, responses.ScanSummaries,
         query=tuple(f"list_{name}" for name in LIST_PARAMETERS)),
    _get("/scans/backlog", operations.get_backlog, "List scans that are waiting to be launched", _U, responses.Backlog,
         query=("after_scan", "scans_limit")),
    Route(method="POST", path="/scan", handler=scans.request_scan, summary="Request a scan", roles=_U,
          response=responses.Manifest, body=bodies.WholeScanRequest, sends_command=commands.RequestScan, max_body_bytes=32 * MIB),
    Route(method="POST", path=f"{_SCAN}/actions/rescan", handler=scans.rescan_scan, summary="Repeat a scan with the same request",
          roles=_US, response=responses.Manifest, body=bodies.RescanBody, body_is_optional=True, redirects=True,
          sends_command=commands.RescanScan, allows_scan_tokens=False),
    Route(method="POST", path=f"{_SCAN}/actions/add-workers", handler=ewms.add_workers, summary="Add workers",
          roles=_U, response=responses.AddedWorkers, body=bodies.AddWorkersBody, redirects=True,
          sends_command=commands.AddWorkers, extra_statuses=(500,)),
    _get(_SCAN, scans.get_scan, "Get a scan's manifest and result", _US, responses.Scan, query=_DELETED, redirects=True),
    Route(method="DELETE", path=_SCAN, handler=scans.delete_scan, summary="Stop and delete a scan (its history is kept)", roles=_U,
          response=responses.Scan, body=bodies.DeleteBody, body_is_optional=True, redirects=True, sends_command=commands.DeleteScan),
    _get(f"{_SCAN}/manifest", scans.get_manifest, "Get a scan's manifest", _US, responses.Manifest,
         query=("include_deleted", "projection"), redirects=True),
    Route(method="PATCH", path=f"{_SCAN}/manifest", handler=scans.patch_manifest, summary="Report progress and metadata (scanners only)",
          roles=_S, response=responses.Manifest, body=reports.PatchBody, sends_command=commands.PatchManifest),
    _get(f"{_SCAN}/i3-event", scans.get_i3_event, "Get the i3 event as submitted", _US, responses.I3Event, redirects=True),
    _get(f"{_SCAN}/result", results.get_result, "Get the result", _U, responses.Result, query=_DELETED, redirects=True),
    Route(method="PUT", path=f"{_SCAN}/result", handler=results.put_result, summary="Upload a result (scanners only)", roles=_S,
          response=responses.Result, body=reports.ResultBody, sends_command=commands.PutResult, max_body_bytes=101 * MIB),
    _get(f"{_SCAN}/status", ewms.get_status, "Get state, problems and worker counts", _US, responses.Status, redirects=True),
    _get(f"{_SCAN}/logs", ewms.get_logs, "Get links to the scanner server's logs", _U, responses.Logs, redirects=True),
    _get(f"{_SCAN}/events", events.get_events,
         "Get the scan's events, as pages or (with `Accept: text/event-stream`) as a stream that resumes after `Last-Event-ID`",
         _US, responses.Events, query=("after", "limit"), streams=True),
    _get(r"/scan-request/{scan_id:[A-Za-z0-9_]+}", scans.get_scan_request,
         "Get the scan's request, in the form that POST /scan accepts", _U, responses.ScanRequest),
    _get(f"{_SCAN}/ewms/workflow-id", ewms.get_workflow_id, "Get the EWMS workflow id", _US, responses.WorkflowId, redirects=True),
    Route(method="POST", path=f"{_SCAN}/ewms/workflow-id", handler=ewms.post_workflow_id, summary="Set the EWMS workflow id (once)",
          roles=_S, response=responses.Manifest, body=bodies.WorkflowIdBody, sends_command=commands.AssignWorkflow,
          allows_scan_tokens=False),
    _get(f"{_SCAN}/ewms/workforce", ewms.get_workforce, "Get worker counts over all taskforces", _US, responses.Workforce,
         redirects=True),
    _get(f"{_SCAN}/ewms/taskforces", ewms.get_taskforces, "Get EWMS's taskforces, with all fields", _US, responses.Taskforces,
         redirects=True),
)  # fmt: skip
"""Source: REST contract 3. ``/scan/{id}/events`` is an addition (1.10), and so is ``GET /scans``."""

_HOT_PATHS = tuple(f"{_SCAN}/{name}" for name in ("manifest", "status", "result"))
"""The router tries one path after the other: these first."""


_ANY_PATH = r"/{path:[\s\S]*}"


def make_app(deps: Deps, verifier: TokenVerifier, metrics: Metrics | None = None) -> web.Application:
    """Build the REST application, ready to be served. metrics: where requests are counted."""
    app = web.Application(middlewares=[error_middleware], client_max_size=MIB)
    app[DEPS] = deps
    app[FIGURES] = RequestFigures(metrics if metrics is not None else Metrics())
    app[MEMORY] = deps.memory
    app[operations.OPENAPI] = orjson.dumps(document(ROUTES, clusters=deps.clusters, limits=deps.worker_limits))
    for route in sorted(ROUTES, key=lambda route: route.path not in _HOT_PATHS):
        handler = route.handler if route.body is None else with_body_limit(route.max_body_bytes, route.handler, scan_must_exist)
        if route.sends_command is not None:
            handler = with_admission(route.sends_command.key, handler)
        if route.roles:
            check = partial(check_scan_token, is_allowed=route.allows_scan_tokens)
            handler = require_roles(route.roles, verifier, handler, check_scan_token=check)
        app.router.add_route(route.method, route.path, handler, expect_handler=leave_to_handler)
    app.router.add_route("*", _ANY_PATH, unknown_path, expect_handler=leave_to_handler)
    app.on_response_prepare.append(close_unless_asked)

    async def end_streams(_: web.Application) -> None:
        deps.live.close()

    app.on_shutdown.append(end_streams)
    return app
