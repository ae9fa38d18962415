"""What the queues' state means: ready or not, how far back in the line, until when. Source: EWMS contract 8."""

import base64
import binascii
import json
from collections.abc import Iterable, Sequence

from skydriver_common.model.events import Event, QueuesActivated, QueuesAwaited
from skydriver_common.model.scan import Scan
from skydriver_ewms_bridge.decide.scan import wants_queues
from skydriver_ewms_bridge.ewms_types import FROM_CLIENT, TO_CLIENT, Json, QueueProfile, Taskforce


def all_activated(profiles: Sequence[QueueProfile]) -> bool:
    """Whether a scanner can connect: both queues are there, and every queue is activated and complete.

    An unknown or not yet reserved workflow has an empty list, which is not "all".
    """
    return {TO_CLIENT, FROM_CLIENT} <= {p.alias for p in profiles} and all(
        p.is_activated and p.auth_token is not None and p.broker_type is not None and p.broker_address is not None
        for p in profiles
    )


def queue_profile(profiles: Sequence[QueueProfile]) -> dict[str, Json]:
    """The content of `ewms.json`; the order of the profiles does not matter. Source: REST contract 9.4.

    Raises ValueError unless `all_activated`.
    """
    if not all_activated(profiles):
        raise ValueError("the queues are not all activated")
    by_alias = {p.alias: p for p in profiles}
    return {"toclient": _side(by_alias[TO_CLIENT]), "fromclient": _side(by_alias[FROM_CLIENT])}


def _side(profile: QueueProfile) -> Json:
    return {
        "name": profile.mqid,
        "auth_token": profile.auth_token,
        "broker_type": profile.broker_type,
        "broker_address": profile.broker_address,
    }


def tokens_end_at(profiles: Iterable[QueueProfile]) -> float | None:
    """When the first of the queue tokens expires (Unix seconds), or None when no token says so.

    The token is read, not checked: checking is the broker's part. A token that is no JWT (a plain password) has no end.
    """
    ends = [end for p in profiles if p.auth_token is not None and (end := _expiry(p.auth_token)) is not None]
    return min(ends, default=None)


def _expiry(token: str) -> float | None:
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    end = claims.get("exp") if isinstance(claims, dict) else None
    return float(end) if isinstance(end, int | float) and not isinstance(end, bool) else None


def place_in_line(waiting: Iterable[Taskforce], workflow_id: str) -> int | None:
    """How many workflows are activated before this one, or None if it is not in the line.

    waiting: each taskforce in phase `pre-mq-activation`, of all tenants. EWMS takes the highest priority first, then the
    oldest taskforce. Place 0 is next; multiply by `ACTIVATION_PERIOD_S` for the time.
    """
    first: dict[str, tuple[int, float]] = {}
    for taskforce in waiting:
        key = (-taskforce.priority, taskforce.timestamp)
        first[taskforce.workflow_id] = min(key, first.get(taskforce.workflow_id, key))
    if workflow_id not in first:
        return None
    return sum(1 for other, key in first.items() if (key, other) < (first[workflow_id], workflow_id))


def decide_queues_awaited(scan: Scan | None, place_in_line: int) -> list[Event]:
    """Record a change in how many workflows are activated before this one."""
    if scan is None or not wants_queues(scan) or scan.ewms.place_in_line == place_in_line:
        return []
    return [QueuesAwaited(place_in_line=place_in_line)]


def decide_queues_activated(scan: Scan | None, queues: dict[str, str], tokens_end_at: float | None) -> list[Event]:
    """Record that the scanner was given its queues; nothing when that is known, or it needs none any more.

    queues: alias to queue id. tokens_end_at: Unix seconds, None: never.
    """
    if scan is None or not wants_queues(scan) or scan.ewms.queues == queues:
        return []
    return [QueuesActivated(queues=queues, tokens_end_at=tokens_end_at)]


def not_activated_in_time(limit_s: float) -> str:
    """Return why a scan whose queues are not activated is given up."""
    return f"EWMS did not activate the queues within {_in_words(limit_s)}"


def _in_words(seconds: float) -> str:
    """Return a length of time in the units people use, such as ``2 min 10 s``."""
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return " ".join(f"{n} {unit}" for n, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if n)
