"""From rejections and faults to HTTP: the only place where a code becomes a status and a text becomes an error body.

Source: REST contract 1.3.
"""

import orjson
from aiohttp import web

from skydriver_common.model.rejections import Code, Reply

_MAX_PHRASE_CHARS = 400
CLIENT_GONE = 499

STATUS: dict[Code, int] = {
    Code.SCAN_UNKNOWN: 404,
    Code.REQUEST_UNKNOWN: 404,
    Code.EVENT_UNKNOWN: 400,
    Code.METADATA_IS_SET: 400,
    Code.SCAN_IS_COMPLETE: 400,
    Code.SCAN_HAS_FINAL_RESULT: 422,
    Code.SCAN_IS_DELETED: 422,
    Code.WORKFLOW_IS_MISSING: 422,
    Code.WORKFLOW_IS_SET: 404,
    Code.WORKFLOW_NOT_WANTED: 404,
    Code.WORKFLOW_HAS_ENDED: 422,
    Code.TOO_MANY_WORKERS: 422,
    Code.TOO_MANY_DEBUG_WORKERS: 422,
    Code.CLUSTER_REFUSED: 400,
    Code.EWMS_FAILED: 500,
    Code.KEY_WAS_USED: 422,
}


class HttpError(Exception):
    """An error response. text: for people, shown in body and reason phrase."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers or {}


def response_of(error: HttpError) -> web.Response:
    """The error response of the REST contract, 1.3."""
    return web.Response(
        status=error.status,
        reason=reason_phrase(error.text),
        body=error_body(error.status, error.text),
        content_type="application/json",
        headers=error.headers,
    )


def body_of(reply: Reply) -> bytes:
    """Return the body of a reply. Raises HttpError for a rejection."""
    if reply.code is not None:
        raise HttpError(STATUS[reply.code], reply.reason)
    return reply.body


def error_body(status: int, text: str) -> bytes:
    """The JSON body of every error: ``error`` and ``reason`` repeat the reason phrase, ``message`` has all of it."""
    phrase = reason_phrase(text)
    return orjson.dumps({"error": phrase, "reason": phrase, "message": printable(text), "code": status})


def reason_phrase(text: str) -> str:
    """One line of printable ASCII, at most 400 characters: what Python clients show of an error."""
    line = " ".join(text.split()).encode("ascii", "replace").decode()
    line = "".join(char if " " <= char <= "~" else "?" for char in line)
    return line if len(line) <= _MAX_PHRASE_CHARS else line[: _MAX_PHRASE_CHARS - 3] + "..."


def printable(text: str) -> str:
    """The text without characters that cannot be written as UTF-8."""
    return text.encode("utf-8", "replace").decode()


def is_client_gone(request: web.Request) -> bool:
    """Whether the client has closed its connection."""
    return request.transport is None or request.transport.is_closing()


def check_client(request: web.Request) -> None:
    """Do no more work for a client that has closed its connection: it repeats what it still wants. Raises HttpError 499."""
    if is_client_gone(request):
        raise HttpError(CLIENT_GONE, "the client has closed the connection; nothing was changed")
