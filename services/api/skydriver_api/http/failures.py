"""From refusals and faults to HTTP: the only place where a code becomes a status."""

from aiohttp import web

from skydriver_api.http.http_errors import error_body, reason_phrase
from skydriver_common.model.rejections import Code, Reply

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


class HttpProblem(Exception):
    """An answer that is not 200. text: for people, shown in body and reason phrase."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers or {}


def response_of(problem: HttpProblem) -> web.Response:
    """The error response of the REST contract, 1.3."""
    return web.Response(
        status=problem.status,
        reason=reason_phrase(problem.text),
        body=error_body(problem.status, problem.text),
        content_type="application/json",
        headers=problem.headers,
    )


def body_of(reply: Reply) -> bytes:
    """The body of a reply that is done. Raises HttpProblem for a refusal."""
    if reply.code is not None:
        raise HttpProblem(STATUS[reply.code], reply.reason)
    return reply.body
