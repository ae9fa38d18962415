"""The application: every route with the roles it allows, and the size of body it accepts."""

from aiohttp import web

from skydriver_api.deps import DEPS, Deps
from skydriver_api.middleware import Handler, allowing, answers
from skydriver_api.routes import ewms, find, operations, results, scans
from skydriver_common.auth import Role, TokenVerifier

_U = frozenset({Role.USER})
_S = frozenset({Role.SYSTEM})
_US = _U | _S
_MIB = 1024 * 1024
_SCAN = r"/scan/{scan_id:[A-Za-z0-9_]+}"

_LARGE = {"/scan": 32 * _MIB, f"{_SCAN}/result": 101 * _MIB}
"""Bodies beyond 1 MiB are accepted here only. Source: REST contract 1.1."""

ROUTES: list[tuple[str, str, frozenset[Role], Handler]] = [
    ("GET", "/", _U, operations.get_root),
    ("GET", "/scans/backlog", _U, operations.get_backlog),
    ("POST", "/scans/find", _U, find.find_scans),
    ("POST", "/scan", _U, scans.request_scan),
    ("POST", f"{_SCAN}/actions/rescan", _US, scans.rescan_scan),
    ("POST", f"{_SCAN}/actions/add-workers", _U, ewms.add_workers),
    ("GET", _SCAN, _US, scans.get_scan),
    ("DELETE", _SCAN, _U, scans.delete_scan),
    ("GET", f"{_SCAN}/manifest", _US, scans.get_manifest),
    ("PATCH", f"{_SCAN}/manifest", _S, scans.patch_manifest),
    ("GET", f"{_SCAN}/i3-event", _US, scans.get_i3_event),
    ("GET", f"{_SCAN}/result", _U, results.get_result),
    ("PUT", f"{_SCAN}/result", _S, results.put_result),
    ("GET", f"{_SCAN}/status", _US, ewms.get_status),
    ("GET", f"{_SCAN}/logs", _U, ewms.get_logs),
    ("GET", r"/scan-request/{scan_id:[A-Za-z0-9_]+}", _U, scans.get_scan_request),
    ("GET", f"{_SCAN}/ewms/workflow-id", _US, ewms.get_workflow_id),
    ("POST", f"{_SCAN}/ewms/workflow-id", _S, ewms.post_workflow_id),
    ("GET", f"{_SCAN}/ewms/workforce", _US, ewms.get_workforce),
]


def make_app(deps: Deps, verifier: TokenVerifier) -> web.Application:
    """The REST application, ready to be served."""
    app = web.Application(middlewares=[answers], client_max_size=_MIB)
    app[DEPS] = deps
    for method, path, roles, handler in ROUTES:
        limit = _LARGE.get(path)
        app.router.add_route(method, path, allowing(roles, verifier, _accepting(handler, limit)))
    return app


def _accepting(handler: Handler, most_bytes: int | None) -> Handler:
    """The handler on a request that may have a body of so many bytes; None: the application's limit."""
    if most_bytes is None:
        return handler

    async def accepting(request: web.Request) -> web.StreamResponse:
        return await handler(request.clone(client_max_size=most_bytes))

    return accepting
