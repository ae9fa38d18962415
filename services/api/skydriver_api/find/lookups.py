"""The part of a filter that an index can answer.

From a checked filter, a weaker condition is derived that every matching manifest fulfils. It stands beside the exact one (AND),
so it never changes the answer, and lets the planner fetch few rows. It speaks about columns of the view and of migration 0010:

* `find_keys`, a small JSON object with what people look scans up by, under a GIN index: containment;
* `find_keys -> timestamp` as a number, under a B-tree index: ranges;
* `scan_id`, `is_deleted`.

It relies on the shapes of REST contract 5.1 (no Manifest field is a list; classifiers may hold lists of scalars).
"""

import json
from collections.abc import Callable, Mapping
from typing import TypeAlias

from skydriver_api.find.nodes import All, Any, Compare, Equals, Field, IsIn, Json, Node, Not, Test

__all__ = ["lookup_condition"]

_ID_ROOTS = {"i3_event_id", "ewms_workflow_id", "replaced_by_scan_id"}
_NULLABLE_ROOTS = {"event_metadata", "progress"}
_FINISHED = ("progress", "processing_stats", "finished")
_MAX_PROBES = 1_000  # one descent of the index each; above, reading everything is no slower
_TIMESTAMP = "(CASE WHEN jsonb_typeof(m.find_keys -> 'timestamp') = 'number' THEN (m.find_keys -> 'timestamp')::float8 END)"

Bind: TypeAlias = Callable[[object, str], str]
"""(value, SQL type) to a placeholder."""

Lookup: TypeAlias = Callable[[Bind], str]
"""A condition whose values are still to be bound: nothing may be bound for a condition that is given up."""


def lookup_condition(node: Node, bind: Bind) -> str | None:
    """A SQL condition that every match of `node` fulfils, or None."""
    lookup = _lookup(node)
    return lookup(bind) if lookup else None


def _lookup(node: Node) -> Lookup | None:
    match node:
        case All(nodes):
            some = [part for part in map(_lookup, nodes) if part]
            return _joined(some, " AND ") if some else None
        case Any(nodes):
            every = [part for part in map(_lookup, nodes[:_MAX_PROBES]) if part]
            # One branch without an index needs every row, so the others need none.
            return _joined(every, " OR ") if nodes and len(every) == len(nodes) else None
        case Field(path, test):
            return _field(path, test)
        case Not():
            return None


def _joined(parts: list[Lookup], word: str) -> Lookup:
    return lambda bind: "(" + word.join(part(bind) for part in parts) + ")"


def _field(path: tuple[str, ...], test: Test) -> Lookup | None:
    match test:
        case Equals(value):
            values: tuple[Json, ...] = (value,)
        case IsIn(some):
            values = some
        case Compare(order, limit) if path == ("timestamp",) and not isinstance(limit, bool | str):
            # Both sides are rounded to float8, which keeps order but not strictness.
            return lambda bind: f"{_TIMESTAMP} {order[0]}= {bind(_as_float(limit), 'float8')}"
        case _:
            return None
    if path == ("scan_id",):
        texts = [value for value in values if isinstance(value, str)]
        return (lambda bind: f"m.scan_id = ANY({bind(texts, 'text[]')})") if len(texts) == len(values) else None
    if path == ("is_deleted",):
        if len(values) != 1 or not isinstance(values[0], bool):
            return None
        return (lambda bind: "m.is_deleted") if values[0] else (lambda bind: "NOT m.is_deleted")
    if not values or len(values) > _MAX_PROBES:
        return None
    shapes = [_shapes(path, value) for value in values]
    if not all(shapes):
        return None
    wanted = [json.dumps(shape, allow_nan=False) for some in shapes for shape in some]
    if len(wanted) == 1:
        return lambda bind: f"m.find_keys @> {bind(wanted[0], 'jsonb')}"
    return lambda bind: f"m.find_keys @> ANY({bind(wanted, 'jsonb[]')})"


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def _shapes(path: tuple[str, ...], value: Json) -> list[Json]:
    """The objects of which a matching manifest's `find_keys` contains at least one; empty if that can't be said."""
    if value is None:
        return [{path[0]: None}] if len(path) == 1 and path[0] in _NULLABLE_ROOTS else []
    if not isinstance(value, bool | int | float | str):
        return []
    match path:
        case ("classifiers", key):
            return [{"classifiers": {key: value}}, {"classifiers": {key: [value]}}]
        case ("event_metadata", key):
            return [{"event_metadata": {key: value}}]
        case (root,) if root in _ID_ROOTS:
            return [{root: value}]
        case ("progress", *_) if path == _FINISHED and isinstance(value, bool):
            inner: Mapping[str, Json] = {"finished": value}
            return [{"progress": {"processing_stats": inner}}]
    return []
