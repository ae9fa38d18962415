"""The stand-in's routes: WMS, MQS, issuer, object store, and the sandbox's own. Source: EWMS contract 2–8.

Order of checks as in EWMS: route, then role (403), then schema (400), then the handler. Unknown routes get HTML.
"""

import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from skydriver_sandbox.ewms import checks, queries, workflows
from skydriver_sandbox.ewms.errors import AUTHENTICATION_FAILED, AUTHORIZATION_FAILED, RestError
from skydriver_sandbox.ewms.faults import Faults
from skydriver_sandbox.ewms.objects import ObjectStore
from skydriver_sandbox.ewms.phases import Notifier
from skydriver_sandbox.ewms.pool import PILOT_STATUSES, Pool
from skydriver_sandbox.ewms.settings import Settings
from skydriver_sandbox.ewms.store import Store
from skydriver_sandbox.ewms.tokens import Issuer, basic_credentials, token_error

log = logging.getLogger("sandbox.ewms")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_ID = "[A-Za-z0-9_-]+"
_MAX_BODY_BYTES = 16 * 1024 * 1024
_HANG_S = 3600.0
_HANDLERS = {
    "create": "WorkflowHandler",
    "workflow": "WorkflowIDHandler",
    "directive": "TaskDirectiveIDHandler",
    "taskforce": "TaskforceUUIDHandler",
    "stop": "WorkflowIDActionHandler",
    "add_workers": "TaskDirectiveIDActionAddWorkersHandler",
    "profiles": "MQProfilesHandler",
}
_QUERY_HANDLERS = {
    "workflows": "WorkflowsFindHandler",
    "task-directives": "TaskDirectivesFindHandler",
    "taskforces": "TaskforcesFindHandler",
}
_HTML = "<html><title>{0}: {1}</title><body>{0}: {1}</body></html>"


def _answer(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(body).encode(), status=status, content_type="application/json")


def _error(status: int, reason: str) -> web.Response:
    return _answer({"code": status, "error": reason}, status)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RestError as error:
        answer = _error(error.status, _unhandled(request) if error.status == 500 else error.reason)
        if error.status == 503:
            answer.headers["Retry-After"] = "1"
        return answer
    except web.HTTPNotFound:
        return web.Response(status=404, text=_HTML.format(404, "Not Found"), content_type="text/html")
    except web.HTTPMethodNotAllowed:
        return _error(405, "Method Not Allowed")
    except web.HTTPException as error:
        return _error(error.status, error.reason)
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return _error(500, _unhandled(request))


def _unhandled(request: web.Request) -> str:
    """EWMS's text when one of its handlers fails: it says no more than which."""
    name = getattr(request.match_info.handler, "__name__", "")
    kind = request.match_info.get("kind", "")
    return f"Error in {_QUERY_HANDLERS.get(kind) or _HANDLERS.get(name, 'BaseWMSHandler')}"


async def _body(request: web.Request, check: checks.Check) -> Any:
    """The request's JSON, checked. Raises RestError 400, 500."""
    raw = await request.read()
    if request.content_type != "application/json":
        raise RestError(400, "a body needs Content-Type: application/json")
    try:
        body = json.loads(raw)  # with NaN and the like, as EWMS reads it
    except (ValueError, RecursionError):
        raise RestError(400, "the body is not JSON") from None
    checks.insist(check, body)
    if checks.holds_too_large_an_integer(body):
        raise RestError(500, "MongoDB takes integers of 64 bits only")
    return body


class Api:
    """Handlers over one store."""

    def __init__(
        self, settings: Settings, store: Store, issuer: Issuer, faults: Faults, notifier: Notifier, pool: Pool
    ) -> None:
        self._settings = settings
        self._store = store
        self._issuer = issuer
        self._faults = faults
        self._notifier = notifier
        self._pool = pool

    def application(self, objects: ObjectStore) -> web.Application:
        app = web.Application(middlewares=[_errors], client_max_size=_MAX_BODY_BYTES)
        v1 = "/v1"
        app.add_routes(
            [
                web.get("/healthz", self.healthz),
                web.get("/.well-known/openid-configuration", self.discovery),
                web.get("/issuer/jwks", self.jwks),
                web.post("/issuer/token", self.token),
                web.get(f"{v1}/", self._for_users(self.root)),
                web.post(f"{v1}/workflows", self._for_users(self.create)),
                web.get(f"{v1}/workflows/{{id:{_ID}}}", self._for_users(self.workflow)),
                web.get(f"{v1}/task-directives/{{id:{_ID}}}", self._for_users(self.directive)),
                web.get(f"{v1}/taskforces/{{id:{_ID}}}", self._for_users(self.taskforce)),
                web.post(f"{v1}/workflows/{{id:{_ID}}}/actions/{{action:abort|finished}}", self._for_users(self.stop)),
                web.post(f"{v1}/query/{{kind:workflows|task-directives|taskforces}}", self._for_users(self.query)),
                web.post(f"{v1}/task-directives/{{id:{_ID}}}/actions/add-workers", self._for_users(self.add_workers)),
                web.get(f"{v1}/mqs/workflows/{{id:{_ID}}}/mq-profiles/public", self._for_users(self.profiles)),
                web.get("/openapi", self.openapi),
                web.get(f"{v1}/schema/openapi", self.openapi),
                web.route("*", f"{v1}/tms/{{rest:.*}}", self.tms),
                web.post("/sandbox/workers/{job}/report", self.worker_report),
                web.get("/sandbox/faults", self.faults),
                web.post("/sandbox/faults", self.change_faults),
                web.delete("/sandbox/faults", self.reset_faults),
                *objects.routes(),
            ]
        )
        return app

    def _for_users(self, handler: Handler) -> Handler:
        @functools.wraps(handler)
        async def checked(request: web.Request) -> web.StreamResponse:
            self._issuer.require_user(request.headers.get("Authorization"))
            if self._faults.slow_s:
                await asyncio.sleep(self._faults.slow_s)
            if self._faults.take("unavailable"):
                raise RestError(503, "the service is overloaded")
            if self._faults.take("errors"):
                raise RestError(500, "Internal Server Error")
            if self._faults.take("drops"):
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()
            if self._faults.take("garbage"):
                return web.Response(text="<html>something is in the way</html>", content_type="text/html")
            return await handler(request)

        return checked

    async def healthz(self, _request: web.Request) -> web.Response:
        await self._store.run(lambda tx: tx.execute("SELECT 1").fetchone())
        return _answer({"status": "ok"})

    async def discovery(self, _request: web.Request) -> web.Response:
        return _answer(self._issuer.discovery())

    async def jwks(self, _request: web.Request) -> web.Response:
        return _answer(self._issuer.jwks())

    async def token(self, request: web.Request) -> web.Response:
        form = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        basic = basic_credentials(request.headers.get("Authorization"))
        client_id, client_secret = basic or (form.get("client_id", ""), form.get("client_secret", ""))
        if not self._issuer.is_client(client_id, client_secret):
            return web.Response(status=401, body=token_error("invalid_client"), content_type="application/json")
        if form.get("grant_type") != "client_credentials":
            return web.Response(status=400, body=token_error("unsupported_grant_type"), content_type="application/json")
        lifetime_s = self._faults.access_token_lifetime_s
        return _answer(self._issuer.issue(self._settings.access_token_lifetime_s if lifetime_s is None else lifetime_s))

    async def openapi(self, _request: web.Request) -> web.Response:
        """Open to all, as EWMS's."""
        return _answer({"openapi": "3.1.0", "info": {"title": "EWMS (stand-in)", "version": "1.0.0"}, "paths": {}})

    async def tms(self, request: web.Request) -> web.Response:
        """Routes for EWMS's own services, whose role nobody here has."""
        self._issuer.require_user(request.headers.get("Authorization"))
        raise RestError(403, AUTHORIZATION_FAILED)

    async def root(self, _request: web.Request) -> web.Response:
        return _answer({})

    async def create(self, request: web.Request) -> web.Response:
        body = await _body(request, checks.WORKFLOW)
        checks.refuse_forbidden_variables(body)
        workflow_id = workflows.new_workflow_id()
        # Two steps, as in EWMS: a workflow refused after this leaves its reserved queues behind.
        await self._store.run(lambda tx: workflows.reserve_queues(tx, workflow_id, body))
        created = await self._store.run(lambda tx: workflows.create(tx, workflow_id, body))
        self._notifier.notify()
        await self._lose_the_answer("create")
        return _answer(created)

    async def _lose_the_answer(self, call: str) -> None:
        if self._faults.take(f"{call}_hangs"):
            await asyncio.sleep(_HANG_S)
        if self._faults.take(f"{call}_fails"):
            raise RestError(500, "Internal Server Error")

    async def workflow(self, request: web.Request) -> web.Response:
        return _found(await self._store.run(lambda tx: tx.workflow(request.match_info["id"])), "workflow", request)

    async def directive(self, request: web.Request) -> web.Response:
        return _found(await self._store.run(lambda tx: tx.directive(request.match_info["id"])), "task", request)

    async def taskforce(self, request: web.Request) -> web.Response:
        return _found(await self._store.run(lambda tx: tx.taskforce(request.match_info["id"])), "taskforce", request)

    async def stop(self, request: web.Request) -> web.Response:
        await request.read()  # EWMS does not look at it
        label = "ABORTED" if request.match_info["action"] == "abort" else "FINISHED"
        stopped = await self._store.run(lambda tx: workflows.stop(tx, request.match_info["id"], label))
        self._notifier.notify()
        return _answer(stopped)

    async def query(self, request: web.Request) -> web.Response:
        body = await _body(request, checks.QUERY)
        table = queries.TABLES[request.match_info["kind"]]
        return _answer(await self._store.run(lambda tx: queries.page(tx, table, body, self._settings.page_bytes)))

    async def add_workers(self, request: web.Request) -> web.Response:
        body = await _body(request, checks.ADD_WORKERS)
        added = await self._store.run(lambda tx: workflows.add_workers(tx, request.match_info["id"], body))
        self._notifier.notify()
        await self._lose_the_answer("add")
        return _answer(added)

    async def profiles(self, request: web.Request) -> web.Response:
        found = await self._store.run(lambda tx: tx.profiles(request.match_info["id"]))
        return _answer({"mqprofiles": [profile for profile in found if profile["is_public"]]})

    async def worker_report(self, request: web.Request) -> web.Response:
        body = await _body(request, checks.anything_object)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        status, error, done = body.get("status"), body.get("error"), body.get("done")
        if scheme != "Bearer" or status not in PILOT_STATUSES or not isinstance(done, int):
            raise RestError(400, "not a worker's report")
        text = error[:4000] if isinstance(error, str) else None
        await self._pool.report(request.match_info["job"], token, status, text, done)
        return _answer({})

    def _require_admin(self, request: web.Request) -> None:
        if self._settings.admin_token is None or request.headers.get("Authorization") != f"Bearer {self._settings.admin_token}":
            raise RestError(403, AUTHENTICATION_FAILED)

    async def faults(self, request: web.Request) -> web.Response:
        self._require_admin(request)
        return _answer(self._faults.as_json())

    async def change_faults(self, request: web.Request) -> web.Response:
        self._require_admin(request)
        self._faults.change(await _body(request, checks.anything_object))
        self._notifier.notify()
        return _answer(self._faults.as_json())

    async def reset_faults(self, request: web.Request) -> web.Response:
        self._require_admin(request)
        self._faults.reset()
        self._notifier.notify()
        return _answer(self._faults.as_json())


def _found(document: dict[str, Any] | None, what: str, request: web.Request) -> web.Response:
    if document is None:
        raise RestError(404, f"no {what} found with id: {request.match_info['id']}")
    return _answer(document)
