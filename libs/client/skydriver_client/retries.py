"""When a request is sent again, and how long a stream waits before it is opened again. No clock: callers sleep."""

import random

from skydriver_client.errors import SkyDriverError, StatusError

READ_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
SILENCE_S = 45.0
"""Three heartbeats of the server: a stream that is silent for longer is dead, whatever the socket says."""
MAX_STREAM_FAILURES = 40
"""In a row; with the pauses below a quarter of an hour: longer than a rollout, a failover, a laptop's short sleep."""
_MAX_PAUSE_S = 30.0
_AGAIN = frozenset({408, 429, 502, 503, 504})


def pause_before(attempt: int, error: SkyDriverError, *, may_repeat: bool, max_retries: int) -> float | None:
    """Seconds to wait before a request is sent again; None: the error is final. attempt: how many failed, from 1."""
    if not may_repeat or attempt > max_retries:
        return None
    if isinstance(error, StatusError) and error.status not in _AGAIN:
        return None
    asked_s = error.retry_after_s if isinstance(error, StatusError) else 0.0
    return max(asked_s, _backoff_s(attempt))


def pause_of_stream(failures: int, asked_s: float = 0.0) -> float:
    """Seconds before a stream is opened again. failures: openings in a row that brought nothing."""
    return max(asked_s, _backoff_s(failures))


def _backoff_s(failures: int) -> float:
    return float(min(_MAX_PAUSE_S, 0.25 * 2.0 ** min(failures, 10)) * random.uniform(0.75, 1.25))  # noqa: S311 - spreads load only
