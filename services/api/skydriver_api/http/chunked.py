"""Responses in pieces: a client that stalls is disconnected, and a response that cannot be finished is cut off, never ended."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

logger = structlog.get_logger(__name__)

READ_TIMEOUT = web.RequestKey("read_timeout", asyncio.Timeout)
"""The time until the response to a read must have begun."""
STALL_TIMEOUT_S = 60.0
"""A client that takes less than a portion in this time, though there is one for it, has stopped reading."""
PORTION_BYTES = 256 * 1024
_MAX_BUFFER_BYTES = 16 * 1024


class ClientStalled(ConnectionResetError):
    """The client does not read."""


@asynccontextmanager
async def stall_limit(request: web.Request, n_bytes: int) -> AsyncIterator[None]:
    """Around sending so many bytes: a client that reads may take as long as it likes. Raises ClientStalled.

    One timer looks at what the transport still holds, so that the bytes need not be sent in portions to see them taken.
    """
    loop, transport, limit = asyncio.get_running_loop(), request.transport, asyncio.timeout(None)

    def look(unsent_before: int) -> None:
        unsent = 0 if transport is None else transport.get_write_buffer_size()
        if unsent_before - unsent < PORTION_BYTES:
            limit.reschedule(loop.time())
        else:
            timers.append(loop.call_later(STALL_TIMEOUT_S, look, unsent))

    timers = [loop.call_later(STALL_TIMEOUT_S, look, n_bytes)]
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise ClientStalled("the client does not read") from error
    finally:
        timers[-1].cancel()


def abort(request: web.Request) -> None:
    """Close the connection at once, whatever is still to be sent."""
    if request.transport is not None:
        request.transport.abort()


class ChunkedResponse:
    """A response that is sent piece by piece. It begins with the first one: until then an error can still become a response."""

    def __init__(
        self, request: web.Request, headers: Mapping[str, str], *, status: int = 200, reason: str | None = None
    ) -> None:
        self.response = web.StreamResponse(status=status, reason=reason, headers=headers)
        self._request = request

    @property
    def has_begun(self) -> bool:
        """Whether anything was sent."""
        return self.response.prepared

    async def begin(self) -> None:
        """Send status and headers. From here on a client that reads may take as long as it likes."""
        timeout = self._request.get(READ_TIMEOUT)
        if timeout is not None:
            timeout.reschedule(None)
        await self.response.prepare(self._request)

    def bound_buffer(self) -> None:
        """Buffer little for a client that reads slowly; there may be thousands of them."""
        if self._request.transport is not None:
            self._request.transport.set_write_buffer_limits(high=_MAX_BUFFER_BYTES)

    async def write(self, piece: "bytes | memoryview[int]") -> None:
        """Send a piece, as fast as the client reads. Raises ConnectionResetError, ClientStalled."""
        try:
            async with asyncio.timeout(STALL_TIMEOUT_S):
                if not self.has_begun:
                    await self.begin()
                await self.response.write(piece)
        except TimeoutError as error:
            raise ClientStalled("the client does not read") from error

    async def write_all(self, body: bytes, *, portion_bytes: int) -> None:
        """Send a large piece in portions of so many bytes. Raises as ``write`` does."""
        view = memoryview(body)
        for begin in range(0, len(view), portion_bytes):
            await self.write(view[begin : begin + portion_bytes])

    async def end(self) -> None:
        """End the response, unless the client is gone."""
        if self._request.transport is not None and not self._request.transport.is_closing():
            async with asyncio.timeout(STALL_TIMEOUT_S):
                await self.response.write_eof()

    def break_off(self) -> None:
        """Close the connection before the end of the response: one that is cut off must not look whole."""
        abort(self._request)


@asynccontextmanager
async def streaming(request: web.Request, headers: Mapping[str, str]) -> AsyncIterator[ChunkedResponse]:
    """Send a response in pieces. An error in the block is the caller's while nothing was sent; later it cuts the connection off."""
    stream = ChunkedResponse(request, headers)
    try:
        yield stream
    except Exception as error:
        if not stream.has_begun:
            raise
        stream.break_off()
        if isinstance(error, ClientStalled):
            logger.warning("response.stalled", path=request.path)
        elif not isinstance(error, ConnectionResetError):
            logger.warning("response.broken-off", path=request.path, error=type(error).__name__, exc_info=error)
