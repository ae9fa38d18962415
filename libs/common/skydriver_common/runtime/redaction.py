"""Secrets out of log lines, by the rule of ``skydriver_common.redaction``."""

import datetime
from collections.abc import Mapping
from typing import Any

from structlog.typing import EventDict, WrappedLogger

from skydriver_common.redaction import REDACTED, is_secret_name, redact_text

__all__ = ["REDACTED", "redact_event", "redact_text"]

DEPTH_LIMIT = 6

_PLAIN = (bool, int, float, type(None), datetime.datetime, datetime.date, datetime.timedelta)


def redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The structlog processor; it must come after tracebacks are rendered to text and before the event is."""
    return {key: _redact(key, value, DEPTH_LIMIT) for key, value in event.items()}


def _redact(key: str, value: Any, depth: int) -> Any:
    if isinstance(value, _PLAIN):
        return value  # counts and times: `n_tokens=3` is no secret
    if is_secret_name(key):
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
