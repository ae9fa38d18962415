"""Answers in pieces: a reader that stalls is let go, and an answer that can't be finished is broken off, never ended."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

logger = structlog.get_logger(__name__)

READ_LIMIT = web.RequestKey("read_limit", asyncio.Timeout)
"""The time that a reader has until its answer begins."""
WRITE_LIMIT_S = 60.0
"""A client that takes nothing for so long has stopped reading."""
_BUFFER_BYTES = 16 * 1024
PORTION_BYTES = 256 * 1024
"""Of a large answer at once: a client that reads a few kilobytes a second takes one in time."""


def write_limit() -> float:
    """For one portion, seconds."""
    return WRITE_LIMIT_S


class ClientStalled(ConnectionResetError):
    """The client does not read."""


class ChunkedResponse:
    """A response in the making. It begins with the first piece: until then an error can still be answered."""

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
        """Send status and headers. From here on the reader takes as long as it likes, while it reads."""
        limit = self._request.get(READ_LIMIT)
        if limit is not None:
            limit.reschedule(None)
        await self.response.prepare(self._request)

    def bound_buffer(self) -> None:
        """Keep little for a client that reads slowly; there may be thousands of them."""
        if self._request.transport is not None:
            self._request.transport.set_write_buffer_limits(high=_BUFFER_BYTES)

    async def write(self, piece: "bytes | memoryview[int]") -> None:
        """Send a piece, as fast as the client reads. Raises ConnectionResetError, ClientStalled."""
        try:
            async with asyncio.timeout(WRITE_LIMIT_S):
                if not self.has_begun:
                    await self.begin()
                await self.response.write(piece)
        except TimeoutError as error:
            raise ClientStalled("the client does not read") from error

    async def write_all(self, body: bytes, *, portion: int = PORTION_BYTES) -> None:
        """Send a large piece in portions of so many bytes. Raises as ``write`` does."""
        view = memoryview(body)
        for begin in range(0, len(view), portion):
            await self.write(view[begin : begin + portion])

    async def end(self) -> None:
        """Say that this was all, unless the client is gone."""
        if self._request.transport is not None and not self._request.transport.is_closing():
            async with asyncio.timeout(WRITE_LIMIT_S):
                await self.response.write_eof()

    def break_off(self) -> None:
        """Close the connection before the end of the answer: a cut answer must not look whole."""
        if self._request.transport is not None:
            self._request.transport.abort()


@asynccontextmanager
async def streaming(request: web.Request, headers: Mapping[str, str]) -> AsyncIterator[ChunkedResponse]:
    """A stream. An error in the block is the caller's while nothing was sent; later it breaks the connection off, and ends here."""
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
