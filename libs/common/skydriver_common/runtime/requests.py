"""What clients do wrong with HTTP itself is no error of ours: one line of the log, a count, and an answer that repeats nothing.

aiohttp logs such things as errors with a traceback, and quotes the request in its answer, which may hold a token.
"""

from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError, LineTooLong

logger = structlog.get_logger(__name__)

ABORT, BODY, ENCODING, MALFORMED, TOO_LONG = "abort", "body", "encoding", "malformed", "too-long"
KINDS = (ABORT, BODY, ENCODING, MALFORMED, TOO_LONG)
"""Hung up before the answer; a body that is cut off or not encoded as announced; an encoding that is not known; no HTTP; a line of
the head that is too long."""

_TEXTS = {
    ENCODING: "Content-Encoding: must be gzip or deflate, or be left out",
    MALFORMED: "request: not well-formed HTTP",
    TOO_LONG: "request: a header line is too long",
}
_SERVER_ERROR = "internal error; see the log of the gateway"

Answer = Callable[[int, str], bytes]
"""From status and text to the body of an error, JSON."""
OnFault = Callable[[str], None]
"""Called with one of KINDS, for metrics."""


class ClientRequests(web.RequestHandler):
    """aiohttp's protocol of one connection, which tells faults of clients from ours."""

    __slots__ = ("_answer", "_on_fault")

    def __init__(self, manager: web.Server, *, answer: Answer, on_fault: OnFault, **options: Any) -> None:
        super().__init__(manager, **options)
        self._answer = answer
        self._on_fault = on_fault

    @property
    def awaits_request(self) -> bool:
        """Whether nothing is being answered and no further request has come in whole."""
        return self._waiter is not None and not self._waiter.done()

    def fault(self, kind: str) -> None:
        """Log and count something that the client has done wrong."""
        logger.info("client.fault", kind=kind)
        self._on_fault(kind)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what never reached a handler, or left it as an error. Raises ConnectionError when nobody would read it."""
        if isinstance(exc, ConnectionError):
            raise exc
        if isinstance(exc, HttpProcessingError):
            kind = _kind_of(exc)
            self.fault(kind)
            text = _TEXTS[kind]
        else:
            logger.error("request.failed", exc_info=exc)
            text = _SERVER_ERROR
        if request.writer.output_size > 0:
            raise ConnectionResetError("a part of an answer was sent already")
        response = web.Response(status=status, body=self._answer(status, text), content_type="application/json")
        response.force_close()
        return response

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Called by aiohttp for what went wrong beside the handler; the rest of a body that was answered already tells nothing."""
        if not isinstance(options.get("exc_info"), ConnectionError | web.RequestPayloadError | HttpProcessingError):
            super().log_exception(*args, **options)


class ClientServer(web.Server):
    """Makes these protocols in place of aiohttp's own server, whose handler and options it takes over."""

    def __init__(self, of: web.Server, *, answer: Answer, on_fault: OnFault) -> None:
        super().__init__(
            of.request_handler, request_factory=of.request_factory, handler_cancellation=of.handler_cancellation,
            loop=of._loop, **of._kwargs,
        )  # fmt: skip
        self._answer = answer
        self._on_fault = on_fault

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of one connection."""
        return ClientRequests(self, loop=self._loop, answer=self._answer, on_fault=self._on_fault, **self._kwargs)


def note_fault(request: web.BaseRequest, kind: str) -> None:
    """Log and count something that the client of this request has done wrong. kind: one of KINDS."""
    if isinstance(request.protocol, ClientRequests):
        request.protocol.fault(kind)


def _kind_of(error: HttpProcessingError) -> str:
    match error:
        case ContentEncodingError():
            return ENCODING
        case LineTooLong():
            return TOO_LONG
        case _:
            return MALFORMED
