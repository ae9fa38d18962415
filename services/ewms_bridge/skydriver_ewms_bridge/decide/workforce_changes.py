"""What to record of a scan's workers, and how soon to count them again. Pure. Source: REST contract 8.6."""

from datetime import datetime, timedelta
from hashlib import sha256

from skydriver_common.model import event_codec
from skydriver_common.model.events import WorkforceChanged
from skydriver_common.model.scan import Scan
from skydriver_ewms_bridge.decide.scan import is_working
from skydriver_ewms_bridge.decide.workforce import Workforce
from skydriver_ewms_bridge.records import Watched
from skydriver_ewms_bridge.retry_policy import FAST_REFRESH_PERIOD


def reported_problems(scan: Scan, workforce: Workforce) -> list[dict[str, str]]:
    """Return the problems of the workers, as events have them; none for a scan without work left, which should have no workers."""
    return [{"code": p.code.value, "text": p.text} for p in workforce.problems] if is_working(scan) else []


def decide_workforce_changed(scan: Scan, workforce: Workforce) -> list[WorkforceChanged]:
    """Record the workers as they are; nothing when that is known."""
    event = WorkforceChanged(
        statuses={status: dict(counts) for status, counts in workforce.statuses.items()},
        n_running=workforce.n_running,
        top_errors=dict(workforce.top_errors),
        problems=reported_problems(scan, workforce),
    )
    known = scan.ewms
    is_known = (known.statuses, known.n_running, known.top_errors, known.problems) == (
        event.statuses, event.n_running, event.top_errors, event.problems,
    )  # fmt: skip
    return [] if is_known else [event]


def digest_of(workforce: Workforce) -> str:
    """Return a digest of what is recorded of these workers: as long as it stays the same there is nothing to decide."""
    recorded = [workforce.statuses, workforce.n_running, workforce.top_errors, [p.code for p in workforce.problems]]
    return sha256(event_codec.encode(recorded)).hexdigest()


def is_over(workforce: Workforce, *, is_stopped: bool) -> bool:
    """Whether there is nothing left to count. is_stopped: the workflow is; workers of one that is not may be added to."""
    return is_stopped and (workforce.has_ended or (workforce.is_complete and not workforce.n_alive))


def refresh_interval(watched: Watched, *, now: datetime, interval: timedelta, fast_interval: timedelta) -> timedelta:
    """Return when to count the workers again. fast_interval: in a workflow's first minutes, and while somebody views the scan."""
    is_viewed = watched.viewed_until is not None and watched.viewed_until > now
    return fast_interval if is_viewed or now - watched.since < FAST_REFRESH_PERIOD else interval
