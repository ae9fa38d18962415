"""What both clients make of httpx2: its errors, its responses, the parameters of a request."""

from typing import Any, TypeVar

import httpx2

from skydriver_client.calls import Call
from skydriver_client.errors import ConnectionFailed, SkyDriverError, error_of
from skydriver_client.retries import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, SILENCE_S

T = TypeVar("T")
USER_AGENT = "skydriver-client/1.0.0"


def client_options(transport: Any) -> dict[str, Any]:
    """Of httpx2's clients. transport: of httpx2, None for its own."""
    return {
        "timeout": httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        "follow_redirects": True,  # 307 of a replaced scan: same method, same body; the token never leaves the origin
        "headers": {"User-Agent": USER_AGENT, "Accept": "application/json"},
        "transport": transport,
    }


def request_options(call: Call[Any], url: str, token: str) -> dict[str, Any]:
    """Of one request."""
    return {
        "method": call.method, "url": url + call.path, "params": list(call.query) or None, "content": call.content,
        "headers": {**call.headers, "Authorization": f"Bearer {token}"},
    }  # fmt: skip


def stream_options(path: str, after: int, url: str, token: str, remaining_s: float | None) -> dict[str, Any]:
    """Of a request for server-sent events after a version. remaining_s: how long the caller still wants to wait."""
    silence_s = SILENCE_S if remaining_s is None else max(0.05, min(SILENCE_S, remaining_s))
    return {
        "method": "GET", "url": url + path, "timeout": httpx2.Timeout(silence_s, connect=CONNECT_TIMEOUT_S),
        "headers": {"Accept": "text/event-stream", "Last-Event-ID": str(after), "Authorization": f"Bearer {token}"},
    }  # fmt: skip


def value_of(call: Call[T], response: Any) -> T:
    """The value of a response that was read. Raises StatusError; SkyDriverError for what is no response of SkyDriver."""
    content: bytes = response.content
    check(response, content)
    try:
        return call.read(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SkyDriverError(
            f"{response.url} is not a SkyDriver server ({type(error).__name__}: {error}); check the url"
        ) from error


def check(response: Any, content: bytes) -> None:
    """Raises StatusError unless the response is 200."""
    status: int = response.status_code
    if status != 200:
        raise error_of(status, content, response.headers.get("Retry-After", ""))


def failure(url: str, error: Exception) -> ConnectionFailed:
    """The error of a connection."""
    reason = str(error) or "no answer in time"
    return ConnectionFailed(f"cannot reach {url} ({type(error).__name__}: {' '.join(reason.split())})")
