"""One tree of errors: ``except SkyDriverError`` catches all of them."""

import json
from collections.abc import Mapping


class SkyDriverError(Exception):
    """Anything that goes wrong between this library and SkyDriver; the text is one line for people."""


class BadProfile(SkyDriverError):
    """A file of this library (the profile, a stored connection) cannot be used."""


class NoCredentials(SkyDriverError):
    """There is no address, or no token for it."""


class ConnectionFailed(SkyDriverError):
    """The server cannot be reached, or a connection broke off and came back no more."""


class WaitTimedOut(SkyDriverError):
    """What was waited for did not come true in time. The scan goes on."""


class ScanFailed(SkyDriverError):
    """A scan that was waited for has ended without its final result. scan_state: what it is now."""

    def __init__(self, scan_id: str, scan_state: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(f"scan {scan_id} ended in state {scan_state}" + (f": {'; '.join(problems)}" if problems else ""))
        self.scan_id = scan_id
        self.scan_state = scan_state
        self.problems = problems


class StatusError(SkyDriverError):
    """The server refused the request. status: of HTTP. reason: the server's own words. retry_after_s: 0.0 when it names none."""

    def __init__(self, status: int, reason: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{reason} ({status})")
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class BadRequest(StatusError):
    """400, 413: something in the request is not understood; the reason names the field."""


class Unauthorized(StatusError):
    """401: the token is missing, expired or of another issuer."""


class Forbidden(StatusError):
    """403: the token's role does not permit this."""


class NotFound(StatusError):
    """404: no such scan, or it is deleted."""


class Conflict(StatusError):
    """409, 422: the scan's state does not allow this."""


class RateLimited(StatusError):
    """429: too many requests."""


class Unavailable(StatusError):
    """502, 503, 504: the server is starting, busy or away; a later attempt may succeed."""


class ServerError(StatusError):
    """Any other 5xx: an error of the server."""


_BY_STATUS: Mapping[int, type[StatusError]] = {
    400: BadRequest, 401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict, 413: BadRequest, 422: Conflict, 429: RateLimited,
    502: Unavailable, 503: Unavailable, 504: Unavailable,
}  # fmt: skip
MAX_RETRY_AFTER_S = 60.0


def error_of(status: int, content: bytes, retry_after: str = "") -> StatusError:
    """Return the error of a response that is not 200. retry_after: its header, seconds."""
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else StatusError)
    wait_s = min(float(retry_after), MAX_RETRY_AFTER_S) if retry_after.isascii() and retry_after.isdecimal() else 0.0
    return kind(status, _reason(status, content), retry_after_s=wait_s)


def _reason(status: int, content: bytes) -> str:
    try:
        body = json.loads(content)
        return " ".join(str(body.get("message") or body["reason"]).split())
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"the server responded with HTTP {status}"
