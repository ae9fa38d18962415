"""Bodies of requests: a limit for each route, a share of memory for large ones, and ``Expect: 100-continue``."""

import asyncio
from collections.abc import Awaitable, Callable
from io import BytesIO

from aiohttp import HttpVersion11, web

from skydriver_api.http.http_errors import HttpError, check_client
from skydriver_api.http.limits import MEMORY, Permit
from skydriver_api.http.route import MIB, Handler
from skydriver_common.faults import TryLater
from skydriver_common.runtime.memory import free_memory_soon

_BODY_TIMEOUT_S = 300.0
_CONTINUE = "100-continue"

BeforeBody = Callable[[web.Request], Awaitable[None]]
"""What can be refused before the client is told to send its body. Raises HttpError, TryLater."""


class Expectation:
    """What the client waits for before it sends the body. is_pending: it was not told to go on yet."""

    def __init__(self, header: str) -> None:
        self._header = header
        self.is_pending = header == _CONTINUE

    def check(self) -> None:
        """Raise HttpError 417 for an expectation that the server does not support."""
        if self._header not in ("", _CONTINUE):
            raise HttpError(417, f"Expect: only {_CONTINUE} is supported")


EXPECTATION = web.RequestKey("expectation", Expectation)

_PERMIT = web.RequestKey("body_permit", Permit)
"""What a large body holds of the memory for bodies."""


def with_body_limit(max_body_bytes: int, handler: Handler, before_body: BeforeBody) -> Handler:
    """Return the handler with a limit on the request's body. Large bodies are read as far as memory allows.

    A client that waits for it (``Expect: 100-continue``) is told here to send the body, after ``before_body`` has passed.
    """

    async def limited(request: web.Request) -> web.StreamResponse:
        if request[EXPECTATION].is_pending and (request.content_length or 0) > max_body_bytes:
            raise _too_large(max_body_bytes)
        try:
            return await handle(request)
        except web.HTTPRequestEntityTooLarge as error:  # aiohttp reads the small ones
            raise _too_large(max_body_bytes) from error

    async def handle(request: web.Request) -> web.StreamResponse:
        if max_body_bytes == MIB:
            await _ask_for_body(request, before_body)
            return await handler(request)
        request = request.clone(client_max_size=max_body_bytes)
        has_length = request.content_length is not None and "Content-Encoding" not in request.headers
        expected = min(request.content_length or 0, max_body_bytes) if has_length else max_body_bytes
        if expected <= MIB:
            await _ask_for_body(request, before_body)
            return await handler(request)
        async with request.app[MEMORY].request_bodies.hold(expected) as permit:
            check_client(request)
            await _ask_for_body(request, before_body)
            await _read(request, max_body_bytes)
            request[_PERMIT] = permit
            try:
                return await handler(request)
            finally:
                free_memory_soon()

    return limited


async def _ask_for_body(request: web.Request, before_body: BeforeBody) -> None:
    """Tell a client that waits for it to send the body. Raises what ``before_body`` raises."""
    expectation = request[EXPECTATION]
    if not expectation.is_pending or request.version < HttpVersion11:
        return
    await before_body(request)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the response itself has not begun
    expectation.is_pending = False


async def close_unless_asked(request: web.Request, response: web.StreamResponse) -> None:
    """Close the connection after a response that came before the body: the client may still send the body."""
    if EXPECTATION in request and request[EXPECTATION].is_pending and request.body_exists:
        response.force_close()
        response.headers["Connection"] = "close"


async def leave_to_handler(_: web.Request) -> None:
    """Replace aiohttp's handling of ``Expect``, which asks for any body before the request is looked at."""


async def _read(request: web.Request, max_body_bytes: int) -> None:
    """Read the whole body within the time that a slow line needs: it takes memory from others. Raises HttpError 413, TryLater.

    It is collected in one buffer, whose bytes then are the body: ``request.read`` would hold it twice.
    """
    buffer = BytesIO()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            while chunk := await request.content.readany():
                buffer.write(chunk)
                if buffer.tell() > max_body_bytes:
                    raise _too_large(max_body_bytes)
    except TimeoutError as error:
        raise TryLater("the request body was not received in time") from error
    request._read_bytes = buffer.getvalue()


def release_body(request: web.Request, *, keep_bytes: int) -> None:
    """Release the memory of the body but for ``keep_bytes``, which the caller has copied out of it."""
    request._read_bytes = b""
    if _PERMIT in request:
        request[_PERMIT].shrink_to(keep_bytes)


def _too_large(max_body_bytes: int) -> HttpError:
    return HttpError(413, f"body: larger than {max_body_bytes // MIB} MiB")
