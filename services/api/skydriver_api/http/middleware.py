"""What surrounds every request: unknown paths, token and role, faults to answers, one log line."""

import asyncio
import time
import uuid
from io import BytesIO

import structlog
from aiohttp import ClientConnectionResetError, HttpVersion11, web

from skydriver_api.commands.client import CommandTooLarge
from skydriver_api.http.delivery import deliver, returning_shares
from skydriver_api.http.deps import DEPS
from skydriver_api.http.failures import HttpProblem, response_of
from skydriver_api.http.limits import Share
from skydriver_api.http.route import MIB, Handler
from skydriver_api.routes.chunked import READ_LIMIT, ClientStalled
from skydriver_common.auth import InvalidToken, Principal, Role, TokenVerifier, bearer_token
from skydriver_common.faults import BadMessage, TryLater
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan_tokens import is_long_ago
from skydriver_common.runtime.connections import note_request
from skydriver_common.runtime.memory import free_memory_soon
from skydriver_common.runtime.requests import ABORT, BODY, note_fault

logger = structlog.get_logger(__name__)

_READ_LIMIT_S = 10.0
_BODY_LIMIT_S = 300.0

CLIENT_GONE = 499
_CONTINUE = "100-continue"


class Expectation:
    """What the client waits for before it sends the body. is_pending: it was not told to go on yet."""

    def __init__(self, header: str) -> None:
        self._header = header
        self.is_pending = header == _CONTINUE

    def check(self) -> None:
        """Raises HttpProblem 417 for one that is not known."""
        if self._header not in ("", _CONTINUE):
            raise HttpProblem(417, f"Expect: only {_CONTINUE} is known")


EXPECTATION = web.RequestKey("expectation", Expectation)
PRINCIPAL = web.RequestKey("principal", Principal)
ROLES = web.RequestKey("roles", frozenset[Role])
"""Effective roles: those of the token that the route allows (REST contract 1.2)."""

BODY_SHARE = web.RequestKey("body_share", Share)
"""What a large body holds of the memory for bodies."""


@web.middleware
async def answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what handlers raise into the error responses of the contract, and log each request once."""
    note_request(request)
    request[EXPECTATION] = Expectation(request.headers.get("Expect", "").lower())
    async with returning_shares(request):
        # what is refused leaves the same way; for what was delivered already this does nothing
        return await deliver(request, await _answered(request, handler))


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    started = time.monotonic()
    status = 500
    try:
        request[EXPECTATION].check()
        response = await deliver(request, await _limited(handler, request))
        status = response.status
        return response
    except HttpProblem as problem:
        status = problem.status
        if status == CLIENT_GONE:
            note_fault(request, ABORT)
        return response_of(problem)
    except BadMessage as bad:
        status = 400
        return response_of(HttpProblem(400, bad.reason))
    except TryLater as fault:
        status = 503
        return response_of(
            HttpProblem(503, f"Try again later: {fault.what}", {"Retry-After": str(max(1, round(fault.after_s)))})
        )
    except (web.HTTPRequestEntityTooLarge, CommandTooLarge):
        status = 413
        return response_of(HttpProblem(413, "The body is larger than this route accepts"))
    except web.HTTPMethodNotAllowed as error:
        status = 405
        allowed = ", ".join(sorted(error.allowed_methods))
        return response_of(HttpProblem(405, f"{request.method} is not possible here, only {allowed}", {"Allow": allowed}))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        status = error.status
        return response_of(HttpProblem(error.status, "There is no such path" if error.status == 404 else error.reason))
    except web.RequestPayloadError:
        status = 400
        note_fault(request, BODY)
        return response_of(HttpProblem(400, "body: is cut off, or not encoded as Content-Encoding says"))
    except Exception as error:
        if _is_from_client(request, error):
            status = CLIENT_GONE
            if isinstance(error, ClientStalled):
                logger.warning("response.stalled", path=request.path)
            else:
                note_fault(request, ABORT)
            raise ConnectionResetError("the client is gone") from error
        error_id = uuid.uuid4().hex
        logger.exception("request.failed", error_id=error_id)
        return response_of(HttpProblem(500, f"A defect of the server; tell the admins this id: {error_id}"))
    finally:
        logger.debug(
            "request.answered", method=request.method, path=request.path, status=status,
            duration_s=round(time.monotonic() - started, 4),
        )  # fmt: skip


def _is_from_client(request: web.Request, error: Exception) -> bool:
    """Whether an error says that the client has left: connections of our own can break as well."""
    if isinstance(error, ClientStalled | ClientConnectionResetError) or error is request.content.exception():
        return True
    return isinstance(error, ConnectionError) and is_gone(request)


async def _limited(handler: Handler, request: web.Request) -> web.StreamResponse:
    """A reader does not hang while the database does not answer; a writer has the limits of its steps. Raises TryLater.

    What streams its answer takes the limit off when it begins.
    """
    if request.method != "GET":
        return await handler(request)
    limit = request[READ_LIMIT] = asyncio.timeout(_READ_LIMIT_S)
    try:
        async with limit:
            return await handler(request)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise TryLater("what this is answered from does not answer in time", 5.0) from error
    finally:
        del request[READ_LIMIT]


def with_body_limit(most_bytes: int, handler: Handler) -> Handler:
    """The handler on a request that may have a body of so many bytes. Large ones are let in as far as memory allows.

    A client that waits for it (``Expect: 100-continue``) is asked for the body here, when all that can be said before was said.
    """

    async def accepted(request: web.Request) -> web.StreamResponse:
        if request[EXPECTATION].is_pending and (request.content_length or 0) > most_bytes:
            raise web.HTTPRequestEntityTooLarge(most_bytes, request.content_length or 0)
        if most_bytes == MIB:
            await _ask_for_body(request)
            return await handler(request)
        request = request.clone(client_max_size=most_bytes)
        is_told = request.content_length is not None and "Content-Encoding" not in request.headers
        expected = min(request.content_length or 0, most_bytes) if is_told else most_bytes
        if expected <= MIB:
            await _ask_for_body(request)
            return await handler(request)
        async with request.app[DEPS].body_bytes.taking(expected) as share:
            check_client(request)
            await _ask_for_body(request)
            await _read(request, most_bytes)
            request[BODY_SHARE] = share
            try:
                return await handler(request)
            finally:
                free_memory_soon()

    return accepted


async def _ask_for_body(request: web.Request) -> None:
    """Tell a client that waits for it to send the body. Raises HttpProblem 404 when its scan is not known, TryLater."""
    expectation = request[EXPECTATION]
    if not expectation.is_pending or request.version < HttpVersion11:
        return
    scan_id = request.match_info.get("scan_id")
    if scan_id is not None and await request.app[DEPS].reads.manifest(ScanId(scan_id)) is None:
        raise HttpProblem(404, f"Scan {scan_id} is not known")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # what is answered has not begun
    expectation.is_pending = False


async def close_unless_asked(request: web.Request, response: web.StreamResponse) -> None:
    """When a request is answered without its body, the client may still send it: the connection can't be used again."""
    if EXPECTATION in request and request[EXPECTATION].is_pending and request.body_exists:
        response.force_close()
        response.headers["Connection"] = "close"


async def no_such_path(request: web.Request) -> web.StreamResponse:
    """The route of all paths that have none, so that also their bodies are not asked for. Raises HTTPException 404, 405."""
    own = request.match_info.route.resource
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource is not own:
            allowed |= (await resource.resolve(request))[1]
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)
    raise web.HTTPNotFound


async def leave_to_handler(_: web.Request) -> None:
    """In place of aiohttp's answer to ``Expect``, which asks for any body before the request is looked at."""


def admitting(command_key: str, handler: Handler) -> Handler:
    """The handler while its command would be let in: a request that would be refused is told so before its body is read."""

    async def admitted(request: web.Request) -> web.StreamResponse:
        request.app[DEPS].commander.admission(command_key).check()
        return await handler(request)

    return admitted


async def _read(request: web.Request, most_bytes: int) -> None:
    """Have the whole body, in a time that a slow line needs: it takes memory from others. Raises TryLater.

    It is collected in one buffer, whose bytes then are the body: ``request.read`` would hold it twice.
    """
    buffer = BytesIO()
    try:
        async with asyncio.timeout(_BODY_LIMIT_S):
            while chunk := await request.content.readany():
                buffer.write(chunk)
                if buffer.tell() > most_bytes:
                    raise web.HTTPRequestEntityTooLarge(most_bytes, buffer.tell())
    except TimeoutError as error:
        raise TryLater("the body did not come in time") from error
    request._read_bytes = buffer.getvalue()


def forget_body(request: web.Request, *, keeping: int) -> None:
    """Let others have the memory of the body: whoever calls this has taken out of it what it needs, so many bytes."""
    request._read_bytes = b""
    if BODY_SHARE in request:
        request[BODY_SHARE].shrink_to(keeping)


def require_roles(roles: frozenset[Role], verifier: TokenVerifier, handler: Handler, *, scan_tokens: bool = True) -> Handler:
    """The handler behind a check of token, role and, for tokens of one scan, the scan. Source: REST contract 1.2.

    scan_tokens: whether such tokens may do this at all.
    """

    async def checked(request: web.Request) -> web.StreamResponse:
        try:
            principal = await verifier.verify(bearer_token(request.headers.get("Authorization")))
        except InvalidToken as error:
            raise _unauthorized(error.reason) from error
        effective = principal.roles & roles
        if not effective:
            raise HttpProblem(403, "The token's roles do not allow this")
        if principal.scan_id is not None:
            await _check_limit(request, principal, principal.scan_id, scan_tokens=scan_tokens)
        request[PRINCIPAL] = principal
        request[ROLES] = effective
        return await handler(request)

    return checked


async def _check_limit(request: web.Request, principal: Principal, own: ScanId, *, scan_tokens: bool) -> None:
    """Whether a token of one scan is good here and now. Raises HttpProblem 401, 403."""
    scan_id = request.match_info.get("scan_id")
    if scan_id is None or not principal.may_touch(ScanId(scan_id)):
        raise HttpProblem(403, "This token is good for another scan only")
    if not scan_tokens:
        raise HttpProblem(403, "A token of a single scan does not allow this")
    deps = request.app[DEPS]
    if is_long_ago(await deps.reads.ended_at(own), time.time(), deps.scan_token_grace_s):
        raise _unauthorized("its scan has ended")


def is_gone(request: web.Request) -> bool:
    """Whether the client has closed its connection."""
    return request.transport is None or request.transport.is_closing()


def check_client(request: web.Request) -> None:
    """Do nothing more for a client that has closed its connection: it repeats what it still wants. Raises HttpProblem 499."""
    if is_gone(request):
        raise HttpProblem(CLIENT_GONE, "The client has closed the connection; nothing was changed")


def _unauthorized(why: str) -> HttpProblem:
    return HttpProblem(401, f"No valid token: {why}", {"WWW-Authenticate": "Bearer"})
