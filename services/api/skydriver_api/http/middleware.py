"""What surrounds every request: unknown paths, faults to error responses, the time for reads, one log line."""

import asyncio
import time
import uuid
from contextlib import nullcontext

import structlog
from aiohttp import ClientConnectionResetError, web

from skydriver_api.http.chunked import READ_TIMEOUT, ClientStalled
from skydriver_api.http.delivery import deliver, releasing_memory
from skydriver_api.http.figures import in_flight, note_answer
from skydriver_api.http.http_errors import CLIENT_GONE, HttpError, is_client_gone, response_of
from skydriver_api.http.proxies import TRUSTED_PROXIES
from skydriver_api.http.request_body import EXPECTATION, Expectation
from skydriver_api.http.route import Handler
from skydriver_common.faults import BadMessage, TryLater
from skydriver_common.runtime.connections import note_request
from skydriver_common.runtime.requests import ABORT, BODY, note_fault

logger = structlog.get_logger(__name__)

_READ_TIMEOUT_S = 10.0
_UNKNOWN_PATH = "unknown path; see GET /openapi.json"


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what handlers raise into the error responses of the contract, and log each request once."""
    note_request(request)
    request[EXPECTATION] = Expectation(request.headers.get("Expect", "").lower())
    with in_flight(request):
        return await _deliver(request, handler)


async def _deliver(request: web.Request, handler: Handler) -> web.StreamResponse:
    async with releasing_memory(request):
        # errors leave the same way; for what was delivered already this does nothing
        return await deliver(request, await _respond(request, handler))


async def _respond(request: web.Request, handler: Handler) -> web.StreamResponse:
    started = time.monotonic()
    status = 500
    try:
        request[EXPECTATION].check()
        proxies = request.app.get(TRUSTED_PROXIES)
        with nullcontext() if proxies is None else proxies.counted(request):
            response = await deliver(request, await _with_read_timeout(handler, request))
        status = response.status
        return response
    except HttpError as error:
        status = error.status
        if status == CLIENT_GONE:
            note_fault(request, ABORT)
        return response_of(error)
    except BadMessage as bad:
        status = 400
        return response_of(HttpError(400, bad.reason))
    except TryLater as fault:
        status = 503
        retry_after_s = max(1, round(fault.after_s))
        return response_of(
            HttpError(
                503,
                f"temporarily unavailable: {fault.what}; retry after {retry_after_s} s",
                {"Retry-After": str(retry_after_s)},
            )
        )
    except web.HTTPMethodNotAllowed as error:
        status = 405
        allowed = ", ".join(sorted(error.allowed_methods))
        return response_of(
            HttpError(405, f"method {request.method} is not allowed on this path; allowed: {allowed}", {"Allow": allowed})
        )
    except web.HTTPException as error:
        if error.status < 400:
            raise
        status = error.status
        return response_of(HttpError(error.status, _UNKNOWN_PATH if error.status == 404 else error.reason))
    except web.RequestPayloadError:
        status = 400
        note_fault(request, BODY)
        return response_of(HttpError(400, "body: incomplete, or not encoded as Content-Encoding declares"))
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
        return response_of(HttpError(500, f"internal error; please give the operators this id: {error_id}"))
    finally:
        note_answer(request, status, started)
        logger.debug(
            "request.answered", method=request.method, path=request.path, status=status,
            duration_s=round(time.monotonic() - started, 4),
        )  # fmt: skip


def _is_from_client(request: web.Request, error: Exception) -> bool:
    """Whether the client has closed its connection: our own connections raise the same errors."""
    if isinstance(error, ClientStalled | ClientConnectionResetError) or error is request.content.exception():
        return True
    return isinstance(error, ConnectionError) and is_client_gone(request)


async def _with_read_timeout(handler: Handler, request: web.Request) -> web.StreamResponse:
    """Limit the time of a read, so that it does not hang with the database; the steps of a write have limits each. Raises TryLater.

    A streamed response lifts the limit when it begins.
    """
    if request.method != "GET":
        return await handler(request)
    timeout = request[READ_TIMEOUT] = asyncio.timeout(_READ_TIMEOUT_S)
    try:
        async with timeout:
            return await handler(request)
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise TryLater("the database did not respond in time", 5.0) from error
    finally:
        del request[READ_TIMEOUT]


async def unknown_path(request: web.Request) -> web.StreamResponse:
    """Handle all paths without a route, so that their bodies are not requested either. Raises HTTPException 404, 405."""
    own = request.match_info.route.resource
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource is not own:
            allowed |= (await resource.resolve(request))[1]
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)
    raise web.HTTPNotFound
