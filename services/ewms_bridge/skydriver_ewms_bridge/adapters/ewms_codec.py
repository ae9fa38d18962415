"""EWMS's JSON to values, strictly: what does not fit the contract is named and refused. Source: EWMS contract 4, 8, 9."""

import sys
from collections.abc import Callable
from typing import TypeVar

from skydriver_ewms_bridge.ewms_types import Json, PhaseChange, QueueProfile, TaskDirective, Taskforce, Workflow

T = TypeVar("T")

_LARGEST_INTEGER = 2**63 - 1
_LARGEST_NUMBER = sys.float_info.max
"""Neither a number that is none (NaN, infinity) is below it, nor an integer of which no float can be made."""


class Unreadable(Exception):
    """An answer that is not what the contract promises. The text names the field, never its content."""


def as_object(value: Json, what: str) -> dict[str, Json]:
    """The JSON object, or Unreadable."""
    if not isinstance(value, dict):
        raise Unreadable(f"{what} must be an object")
    return value


def items(document: dict[str, Json], key: str) -> list[Json]:
    """The list under `key`, whatever is in it."""
    found = document.get(key)
    if not isinstance(found, list):
        raise Unreadable(f"{key} must be a list")
    return found


def objects(document: dict[str, Json], key: str) -> list[dict[str, Json]]:
    """The list of objects under `key`."""
    return [as_object(item, f"{key}[]") for item in items(document, key)]


def workflow_id_of(item: Json) -> str:
    """Whose document this is, however unreadable the rest is; "" when that is unreadable, too."""
    workflow_id = item.get("workflow_id") if isinstance(item, dict) else None
    return workflow_id if isinstance(workflow_id, str) else ""


def parse_all(document: dict[str, Json], key: str, parse: Callable[[dict[str, Json]], T]) -> tuple[T, ...]:
    """Every object of the list under `key`, parsed."""
    return tuple(parse(item) for item in objects(document, key))


def workflow(item: dict[str, Json]) -> Workflow:
    """A workflow object."""
    return Workflow(
        workflow_id=_text(item, "workflow_id"),
        timestamp=_number(item, "timestamp"),
        priority=_integer(item.get("priority", 100), "priority"),
        deactivated=_text_or_none(item, "deactivated"),
    )


def task_directive(item: dict[str, Json]) -> TaskDirective:
    """A task directive; other fields are not looked at."""
    locations = item.get("cluster_locations")
    if not isinstance(locations, list):
        raise Unreadable("cluster_locations must be a list")
    names = tuple(name for name in locations if isinstance(name, str))
    if len(names) != len(locations):
        raise Unreadable("cluster_locations[] must be a string")
    return TaskDirective(_text(item, "task_id"), _text(item, "workflow_id"), _number(item, "timestamp"), names)


def queue_profile(item: dict[str, Json]) -> QueueProfile:
    """A public queue profile, activated or not."""
    is_activated = item.get("is_activated")
    if not isinstance(is_activated, bool):
        raise Unreadable("is_activated must be a boolean")
    return QueueProfile(
        mqid=_text(item, "mqid"),
        alias=_text(item, "alias"),
        is_activated=is_activated,
        auth_token=_text_or_none(item, "auth_token"),
        broker_type=_text_or_none(item, "broker_type"),
        broker_address=_text_or_none(item, "broker_address"),
    )


def taskforce(item: dict[str, Json]) -> Taskforce:
    """A taskforce, complete or projected to `ewms_rest.TASKFORCE_FIELDS`."""
    n_workers, cluster_id = item.get("n_workers"), item.get("cluster_id")
    return Taskforce(
        taskforce_uuid=_text(item, "taskforce_uuid"),
        task_id=_text(item, "task_id"),
        workflow_id=_text(item, "workflow_id"),
        timestamp=_number(item, "timestamp"),
        n_workers=0 if n_workers is None else _integer(n_workers, "n_workers"),
        phase=_text(item, "phase"),
        priority=_integer(item.get("priority", 100), "priority"),
        cluster_id=None if cluster_id is None else _integer(cluster_id, "cluster_id"),
        statuses={
            storable(status): _counts(counts, "compound_statuses{}")
            for status, counts in _maybe(item, "compound_statuses").items()
        },
        top_errors=_counts(item.get("top_task_errors"), "top_task_errors"),
        phase_changes=_phase_changes(item.get("phase_change_log")),
    )


def _phase_changes(value: Json) -> tuple[PhaseChange, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Unreadable("phase_change_log must be a list")
    entries = [as_object(entry, "phase_change_log[]") for entry in value]
    return tuple(
        PhaseChange(_text(entry, "target_phase"), _number(entry, "timestamp"), entry.get("was_successful") is True)
        for entry in entries
    )


def storable(text: str) -> str:
    """A text of EWMS, or of a worker's error, as Postgres takes it: without NUL."""
    return text.replace("\0", "\ufffd")


def _maybe(item: dict[str, Json], key: str) -> dict[str, Json]:
    value = item.get(key)
    return {} if value is None else as_object(value, key)


def _counts(value: Json, what: str) -> dict[str, int]:
    if value is None:
        return {}
    counts: dict[str, int] = {}
    for key, count in as_object(value, what).items():
        text = storable(key)
        counts[text] = counts.get(text, 0) + _integer(count, f"{what}{{}}")
    return counts


def _text(item: dict[str, Json], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise Unreadable(f"{key} must be a string")
    return storable(value)


def _text_or_none(item: dict[str, Json], key: str) -> str | None:
    return None if item.get(key) is None else _text(item, key)


def _number(item: dict[str, Json], key: str) -> float:
    value = item.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST_NUMBER:
        raise Unreadable(f"{key} must be a number")
    return float(value)


def _integer(value: Json, what: str) -> int:
    # 3.0 is an integer to EWMS's schema too
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not abs(value) <= _LARGEST_INTEGER
        or value != int(value)
    ):
        raise Unreadable(f"{what} must be an integer")
    return int(value)
