"""MongoDB filters over JSON documents: the part of the language EWMS's clients use. Source: EWMS contract 6 and 14."""

from collections.abc import Callable
from typing import Any


class BadFilterError(Exception):
    """A filter MongoDB would refuse; EWMS answers 500 to it."""


def matches(document: dict[str, Any], query: dict[str, Any]) -> bool:
    """Whether a document fits a filter. Raises BadFilterError, also for operators this evaluator does not know."""
    for key, condition in query.items():
        if key in {"$and", "$or", "$nor"}:
            if not isinstance(condition, list) or not condition or not all(isinstance(part, dict) for part in condition):
                raise BadFilterError(f"{key} needs a list of filters")
            # A list, not a generator: a bad part must be refused even when an earlier one decides.
            hits = [matches(document, part) for part in condition]
            fits = all(hits) if key == "$and" else any(hits) is (key == "$or")
        elif key.startswith("$"):
            raise BadFilterError(f"unknown top level operator: {key}")
        else:
            fits = _fits(_values(document, key.split(".")), condition)
        if not fits:
            return False
    return True


def _values(document: Any, path: list[str]) -> list[Any]:
    """All values a dotted path leads to, through arrays too; empty if the path leads nowhere."""
    if not path:
        return [document]
    if isinstance(document, dict):
        return _values(document[path[0]], path[1:]) if path[0] in document else []
    if isinstance(document, list):
        found = [value for entry in document if isinstance(entry, dict) for value in _values(entry, path)]
        if path[0].isdigit() and int(path[0]) < len(document):
            found += _values(document[int(path[0])], path[1:])
        return found
    return []


def _fits(values: list[Any], condition: Any) -> bool:
    if isinstance(condition, dict) and any(key.startswith("$") for key in condition):
        hits = [_operator(values, name, operand) for name, operand in condition.items()]
        return all(hits)
    return _equal(values, condition)


def _operator(values: list[Any], name: str, operand: Any) -> bool:
    match name:
        case "$eq":
            return _equal(values, operand)
        case "$ne":
            return not _equal(values, operand)
        case "$in" | "$nin":
            if not isinstance(operand, list):
                raise BadFilterError(f"{name} needs an array")
            hits = [_equal(values, wanted) for wanted in operand]
            return any(hits) is (name == "$in")
        case "$exists":
            return bool(values) is bool(operand)
        case "$not":
            if not isinstance(operand, dict):
                raise BadFilterError("$not needs a document")
            return not _fits(values, operand)
        case "$gt":
            return _compares(values, operand, lambda a, b: a > b)
        case "$gte":
            return _compares(values, operand, lambda a, b: a >= b)
        case "$lt":
            return _compares(values, operand, lambda a, b: a < b)
        case "$lte":
            return _compares(values, operand, lambda a, b: a <= b)
    raise BadFilterError(f"unknown operator: {name}")


def _same(value: Any, wanted: Any) -> bool:
    # In MongoDB true is no number, while Python's True equals 1.
    return value == wanted and isinstance(value, bool) is isinstance(wanted, bool)


def _equal(values: list[Any], wanted: Any) -> bool:
    if wanted is None and not values:
        return True
    return any(_same(value, wanted) or (isinstance(value, list) and any(_same(v, wanted) for v in value)) for value in values)


def _compares(values: list[Any], operand: Any, holds: Callable[[Any, Any], bool]) -> bool:
    """Comparison within one kind only, as MongoDB brackets types."""
    flat = [entry for value in values for entry in (value if isinstance(value, list) else [value])]
    return any(_kind(value) == _kind(operand) is not None and holds(value, operand) for value in flat)


def _kind(value: Any) -> str | None:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else None
