"""Secrets out of log lines: by the name of a field, and by what a text looks like.

The last line of defence, not the first: nobody should log a secret. It catches what slips into texts of foreign exceptions,
such as a URL with a password in it.
"""

import datetime
import re
from collections.abc import Mapping
from typing import Any

from structlog.typing import EventDict, WrappedLogger

__all__ = ["REDACTED", "redact_event", "redact_text"]

REDACTED = "[redacted]"
DEPTH_LIMIT = 6

_SECRET_KEY = re.compile(
    r"token|secret|passw(?:or)?d|passphrase|authorization|cookie|credential|api_?key|private_?key|signature", re.IGNORECASE
)
_PLAIN = (bool, int, float, type(None), datetime.datetime, datetime.date, datetime.timedelta)

_TEXTS: tuple[tuple[re.Pattern[str], str], ...] = (
    # user:password@ in a URL. Up to the last @ before the path, for a password may hold an unescaped one.
    (re.compile(r"([a-z][a-z0-9+.\-]*://)[^/\s'\"<>?#]*@", re.IGNORECASE), rf"\1{REDACTED}@"),
    # Query parameters that grant access, those of presigned object store URLs among them.
    (
        re.compile(
            r"([?&](?:[\w\-]*(?:token|signature|secret|password|credential)|sig|api_?key|code)=)[^&\s'\"<>#]+", re.IGNORECASE
        ),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"\b(bearer|basic)\s+[\w\-.~+/=]{8,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    # A JSON web token on its own: three base64url parts, the first beginning with '{"'.
    (re.compile(r"\beyJ[\w\-]{4,}\.[\w\-]+\.[\w\-]*"), REDACTED),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL), REDACTED),
)
_MAY_HOLD_A_SECRET = re.compile(r"://|[?&]\w|bearer|basic|eyJ|-----BEGIN", re.IGNORECASE)


def redact_text(text: str) -> str:
    """The text without passwords in URLs, tokens, signatures and private keys."""
    if not _MAY_HOLD_A_SECRET.search(text):
        return text
    for pattern, replacement in _TEXTS:
        text = pattern.sub(replacement, text)
    return text


def redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The structlog processor; it must come after tracebacks are rendered to text and before the event is."""
    return {key: _redact(key, value, DEPTH_LIMIT) for key, value in event.items()}


def _redact(key: str, value: Any, depth: int) -> Any:
    if isinstance(value, _PLAIN):
        return value  # counts and times: `n_tokens=3` is no secret
    if _SECRET_KEY.search(key):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if depth == 0:
        return "…"
    if isinstance(value, Mapping):
        return {str(inner): _redact(str(inner), item, depth - 1) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact("", item, depth - 1) for item in value]
    # Anything else would reach the renderer as it is, and its repr be printed past us.
    return redact_text(value.decode(errors="replace") if isinstance(value, bytes) else str(value))
