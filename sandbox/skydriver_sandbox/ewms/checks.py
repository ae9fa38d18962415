"""Checks of request bodies, as strict as EWMS's OpenAPI schema. Source: EWMS contract 3.1, 6, 7.

A check takes a value and its place in the body and yields complaints; a whole body is judged before anything is done.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from skydriver_sandbox.ewms.errors import RestError

Check = Callable[[Any, str], Iterator[str]]

_MOST_ECHOED = 200
_PILOT_TAG = re.compile(r"^\d+\.\d+\.\d+$|latest|^[\w.]+-[\w.-]+$")
FORBIDDEN_PILOT_VARIABLES = frozenset(
    f"EWMS_PILOT_{name}" for name in ("TASK_IMAGE", "TASK_ARGS", "TASK_ENV_JSON", "INIT_IMAGE", "INIT_ARGS", "INIT_ENV_JSON")
)


def _is_whole(value: Any) -> bool:
    # JSON Schema: 3.0 is an integer, true is not.
    return (type(value) is int) or (type(value) is float and value.is_integer())


def _of_type(name: str, holds: Callable[[Any], bool]) -> Check:
    def check(value: Any, place: str) -> Iterator[str]:
        if not holds(value):
            yield f"'{place}': must be type {name}, not {_echoed(value)}"

    return check


def _echoed(value: Any) -> str:
    """EWMS's texts repeat what was sent, secrets too: who shows them has to take care."""
    return repr(value)[:_MOST_ECHOED]


text = _of_type("string", lambda value: isinstance(value, str))
flag = _of_type("boolean", lambda value: isinstance(value, bool))
whole = _of_type("integer", _is_whole)
whole_or_null = _of_type("integer or null", lambda value: value is None or _is_whole(value))
text_or_whole = _of_type("string or integer", lambda value: isinstance(value, str) or _is_whole(value))
anything_object = _of_type("object", lambda value: isinstance(value, dict))


def one_of(*allowed: str) -> Check:
    def check(value: Any, place: str) -> Iterator[str]:
        if value not in allowed:
            yield f"'{place}': must be one of {', '.join(allowed)}, not {_echoed(value)}"

    return check


def matching(pattern: re.Pattern[str]) -> Check:
    def check(value: Any, place: str) -> Iterator[str]:
        if not isinstance(value, str):
            yield f"'{place}': must be type string"
        elif not pattern.search(value):
            yield f"'{place}': does not match the pattern: {_echoed(value)}"

    return check


def list_of(item: Check, *, at_least: int = 0, unique: bool = True) -> Check:
    def check(value: Any, place: str) -> Iterator[str]:
        if not isinstance(value, list):
            yield f"'{place}': must be type array"
            return
        if len(value) < at_least:
            yield f"'{place}': must have at least {at_least} item(s)"
        if unique and len({_canonical(entry) for entry in value}) < len(value):
            yield f"'{place}': has non-unique items"
        for number, entry in enumerate(value):
            yield from item(entry, f"{place}.{number}")

    return check


def _canonical(value: Any) -> str:
    """Equal texts for values JSON Schema calls equal (1 and 1.0 are, 1 and true are not)."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_canonical(entry)}" for key, entry in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return json.dumps(int(value) if _is_whole(value) else value)


def map_of(entry: Check) -> Check:
    def check(value: Any, place: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"'{place}': must be type object"
            return
        for key, found in value.items():
            yield from entry(found, f"{place}.{key}")

    return check


def object_of(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with exactly these fields."""
    known = {**required, **(optional or {})}

    def check(value: Any, place: str) -> Iterator[str]:
        inside = f"{place}." if place else ""
        if not isinstance(value, dict):
            yield f"'{place}': must be type object" if place else "the body must be type object"
            return
        for name in required:
            if name not in value:
                yield f"'{inside}{name}': missing required property"
        for name, found in value.items():
            if name in known:
                yield from known[name](found, f"{inside}{name}")
            else:
                yield f"'{inside}{name}': additional properties are not allowed"

    return check


def _environment_value(value: Any, place: str) -> Iterator[str]:
    is_fine = (
        isinstance(value, str)
        or type(value) in (int, float)
        or (isinstance(value, list) and all(isinstance(v, str) for v in value))
    )
    if not is_fine or value == []:
        yield f"'{place}': must be type string, number or a non-empty array of strings, not {_echoed(value)}"


def holds_too_large_an_integer(value: Any) -> bool:
    """Whether an integer beyond 64 bits is in it anywhere, which MongoDB cannot take: EWMS does not handle that."""
    if isinstance(value, dict):
        return any(map(holds_too_large_an_integer, value.values()))
    if isinstance(value, list):
        return any(map(holds_too_large_an_integer, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63


_worker_config = object_of(
    {
        "do_transfer_worker_stdouterr": flag,
        "max_worker_runtime": whole,
        "n_cores": whole,
        "priority": whole,
        "worker_disk": text_or_whole,
        "worker_memory": text_or_whole,
        "condor_requirements": text,
    }
)
_pilot_config = object_of(
    {
        "tag": matching(_PILOT_TAG),
        "image_source": one_of("cvmfs", "auto"),
        "environment": map_of(_environment_value),
        "input_files": list_of(text),
    }
)
_task = object_of(
    {
        "cluster_locations": list_of(text, at_least=1),
        "task_image": text,
        "task_args": text,
        "input_queue_aliases": list_of(text),
        "output_queue_aliases": list_of(text),
        "worker_config": _worker_config,
    },
    {
        "task_env": map_of(text),
        "init_image": text,
        "init_args": text,
        "init_env": map_of(text),
        "n_workers": whole_or_null,
        "pilot_config": _pilot_config,
    },
)
WORKFLOW = object_of({"public_queue_aliases": list_of(text), "tasks": list_of(_task, at_least=1)}, {"priority": whole})
QUERY = object_of({"query": anything_object}, {"projection": list_of(text, at_least=1), "after": text})
ADD_WORKERS = object_of({"cluster_location": text, "n_workers": whole_or_null})


def insist(check: Check, body: Any) -> None:
    """Raises RestError 400 that names every field at fault, joined with `; `."""
    complaints = list(check(body, ""))
    if complaints:
        raise RestError(400, "; ".join(complaints))


def refuse_forbidden_variables(body: dict[str, Any]) -> None:
    """Raises RestError 400 for pilot variables that are EWMS's own. Source: EWMS contract 3.1."""
    for number, task in enumerate(body["tasks"]):
        bad = sorted(FORBIDDEN_PILOT_VARIABLES & task.get("pilot_config", {}).get("environment", {}).keys())
        if bad:
            raise RestError(400, f"'tasks.{number}.pilot_config.environment': cannot override {', '.join(bad)}")
