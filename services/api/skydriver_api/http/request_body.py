"""Bodies of requests: a limit for each route, a pace, a share of memory for large ones, and ``Expect: 100-continue``."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO

from aiohttp import HttpVersion11, web

from skydriver_api.http.compressed import KNOWN_ENCODINGS, BadlyPacked, UnknownEncoding, unpack, unpacked_size
from skydriver_api.http.http_errors import HttpError, check_client
from skydriver_api.http.limits import MEMORY, Permit
from skydriver_api.http.route import MIB, Handler
from skydriver_common.faults import TryLater
from skydriver_common.runtime.memory import free_memory_soon
from skydriver_common.runtime.requests import BODY, ENCODING, note_fault

_BODY_TIMEOUT_S = 300.0
_PACE_S = 30.0
_PACE_BYTES = 30_000
"""What has to arrive in each such time: 1 kB/s, with a pause now and then."""
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
        if max_body_bytes == MIB:
            await _ask_for_body(request, before_body)
            await _read(request, max_body_bytes)
            return await handler(request)
        request = request.clone(client_max_size=max_body_bytes)
        has_length = request.content_length is not None and "Content-Encoding" not in request.headers
        expected = min(request.content_length or 0, max_body_bytes) if has_length else max_body_bytes
        if expected <= MIB:
            await _ask_for_body(request, before_body)
            await _read(request, max_body_bytes)
            return await handler(request)
        async with request.app[MEMORY].request_bodies.hold(expected) as permit:
            check_client(request)
            await _ask_for_body(request, before_body)
            await _read(request, max_body_bytes, permit)
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


async def _read(request: web.Request, max_body_bytes: int, permit: Permit | None = None) -> None:
    """Read the whole body within the time that a slow line needs: it takes memory from others. Raises HttpError 400, 413, TryLater.

    It is collected in one buffer, whose bytes then are the body: ``request.read`` would hold it twice. permit: shrinks to what a
    compressed body takes, once that is known.
    """
    buffer = BytesIO()
    try:
        async with _at_a_pace(buffer):
            while chunk := await request.content.readany():
                buffer.write(chunk)
                if buffer.tell() > max_body_bytes:
                    raise _too_large(max_body_bytes)
    except TimeoutError as error:
        raise TryLater("the request body was not received in time") from error
    body = buffer.getvalue()
    encoding = request.headers.get("Content-Encoding", "").lower()
    if body and encoding in KNOWN_ENCODINGS:
        body = await _unpacked(request, body, encoding, max_body_bytes, permit)
    request._read_bytes = body


@asynccontextmanager
async def _at_a_pace(buffer: BytesIO) -> AsyncIterator[None]:
    """Limit the time in which the buffer is filled. Raises TimeoutError, also when too little arrives for a while."""
    loop, limit = asyncio.get_running_loop(), asyncio.timeout(_BODY_TIMEOUT_S)

    def look(n_before: int) -> None:
        if buffer.tell() - n_before < _PACE_BYTES:
            limit.reschedule(loop.time())
        else:
            timers.append(loop.call_later(_PACE_S, look, buffer.tell()))

    timers = [loop.call_later(_PACE_S, look, 0)]
    try:
        async with limit:
            yield
    finally:
        timers[-1].cancel()


async def _unpacked(request: web.Request, packed: bytes, encoding: str, max_body_bytes: int, permit: Permit | None) -> bytes:
    """Unpack a compressed body off the loop. Raises HttpError 400, 413 before anything is kept that is too large."""
    try:
        n_bytes = await asyncio.to_thread(unpacked_size, packed, encoding, max_body_bytes)
        if n_bytes > max_body_bytes:
            raise _too_large(max_body_bytes)
        if permit is not None:
            permit.shrink_to(len(packed) + n_bytes)
        return await asyncio.to_thread(unpack, packed, encoding)
    except UnknownEncoding as error:
        note_fault(request, ENCODING)
        raise HttpError(400, "Content-Encoding: must be gzip or deflate, or be left out") from error
    except BadlyPacked as error:
        note_fault(request, BODY)
        raise HttpError(400, "body: incomplete, or not encoded as Content-Encoding declares") from error


def release_body(request: web.Request, *, keep_bytes: int) -> None:
    """Release the memory of the body but for ``keep_bytes``, which the caller has copied out of it."""
    request._read_bytes = b""
    if _PERMIT in request:
        request[_PERMIT].shrink_to(keep_bytes)


def _too_large(max_body_bytes: int) -> HttpError:
    return HttpError(413, f"body: larger than {max_body_bytes // MIB} MiB")
