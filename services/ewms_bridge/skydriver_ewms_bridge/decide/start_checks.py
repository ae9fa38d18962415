"""What can go wrong without an error between the queues and the first worker. Pure. Source: REST contract 9.5, EWMS contract 8."""

from datetime import UTC, datetime, timedelta

from skydriver_common.model.events import Event, QueueTokensEnding, StartupFileFound, StartupFileMissing
from skydriver_common.model.scan import Scan
from skydriver_ewms_bridge.decide.scan import is_working
from skydriver_ewms_bridge.retry_policy import TOKEN_WARNING


def decide_startup_file(scan: Scan | None, *, is_there: bool, waited_s: float) -> list[Event]:
    """Record that the workers' startup file is missing, or was found after all; nothing when that is known."""
    if scan is None or scan.ewms.is_startup_file_missing != is_there or not is_working(scan):
        return []
    return [StartupFileFound() if is_there else StartupFileMissing(waited_s=waited_s)]


def decide_tokens_ending(scan: Scan | None) -> list[Event]:
    """Record that the tokens of the queues expire soon; nothing when nobody needs them any more, or that is known."""
    if scan is None or not is_working(scan) or scan.ewms.are_tokens_ending or scan.ewms.tokens_end_at is None:
        return []
    return [QueueTokensEnding(ends_at=scan.ewms.tokens_end_at)]


def token_warning_in(tokens_end_at: float, *, now: datetime) -> timedelta:
    """Return when to report that the tokens expire, from now; may be negative. tokens_end_at: Unix seconds."""
    return datetime.fromtimestamp(tokens_end_at, UTC) - TOKEN_WARNING - now
