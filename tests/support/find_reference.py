"""A slow, plain evaluator of find filters in Python, written from REST contract 10 alone: one of the oracles of the SQL compiler.

It shares no code with the service. Filters are taken to be valid.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

MISSING: Any = object()

_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}


def matches(query: Mapping[str, Any], document: Any) -> bool:
    """Whether a document is matched by a filter."""
    for key, value in query.items():
        if key == "$comment":
            continue
        if key == "$and":
            passed = all(matches(part, document) for part in value)
        elif key == "$or":
            passed = any(matches(part, document) for part in value)
        elif key == "$nor":
            passed = not any(matches(part, document) for part in value)
        else:
            passed = _field(list(_reached(document, key.split("."), inside_array=False)), value)
        if not passed:
            return False
    return True


def _reached(value: Any, path: list[str], *, inside_array: bool) -> Iterator[Any]:
    """What a path ends at: values, or MISSING."""
    if not path:
        yield value
    elif isinstance(value, dict):
        if path[0] in value:
            yield from _reached(value[path[0]], path[1:], inside_array=False)
        else:
            yield MISSING
    elif isinstance(value, list) and not inside_array:
        for element in value:
            if isinstance(element, dict):
                yield from _reached(element, path, inside_array=True)
        if re.fullmatch(r"0|[1-9][0-9]{0,8}", path[0]) and int(path[0]) < len(value):
            yield from _reached(value[int(path[0])], path[1:], inside_array=False)
    else:
        yield MISSING


def _is_operators(value: Any) -> bool:
    return isinstance(value, dict) and any(key.startswith("$") for key in value)


def _field(reached: list[Any], wanted: Any) -> bool:
    if not _is_operators(wanted):
        return any(_looking_inside(found, lambda one: _equal(one, wanted)) for found in reached)
    return all(_operator(reached, name, value, wanted) for name, value in wanted.items())


def _looking_inside(found: Any, test: Any) -> bool:
    return test(found) or (isinstance(found, list) and any(test(element) for element in found))


def _operator(reached: list[Any], name: str, value: Any, whole: Mapping[str, Any]) -> bool:
    match name:
        case "$comment" | "$options":
            return True
        case "$ne":
            return not _operator(reached, "$eq", value, whole)
        case "$nin":
            return not _operator(reached, "$in", value, whole)
        case "$not":
            return not _field(reached, value)
        case "$exists":
            return any(found is not MISSING for found in reached) is value
        case "$all":
            return bool(value) and all(_field(reached, part) for part in value)
        case "$size":
            return any(isinstance(found, list) and len(found) == value for found in reached)
        case "$elemMatch":
            return any(isinstance(found, list) and any(_element(one, value) for one in found) for found in reached)
    return any(_looking_inside(found, lambda one: _single(one, name, value, whole)) for found in reached)


def _element(one: Any, query: Mapping[str, Any]) -> bool:
    if _is_operators(query) and not set(query) & {"$and", "$or", "$nor"}:
        return all(_on_element(one, name, value, query) for name, value in query.items())
    return isinstance(one, dict | list) and matches(query, one)


def _on_element(one: Any, name: str, value: Any, whole: Mapping[str, Any]) -> bool:
    """An operator inside `$elemMatch`, which doesn't look into the element."""
    match name:
        case "$ne":
            return not _single(one, "$eq", value, whole)
        case "$nin":
            return not _single(one, "$in", value, whole)
        case "$not":
            return not all(_on_element(one, inner, item, value) for inner, item in value.items())
        case "$all":
            return bool(value) and all(_single(one, "$eq", item, whole) for item in value)
        case "$exists" | "$size" | "$elemMatch" | "$options" | "$comment":
            return _operator([one], name, value, whole)
    return _single(one, name, value, whole)


def _single(one: Any, name: str, value: Any, whole: Mapping[str, Any]) -> bool:
    match name:
        case "$eq":
            return _equal(one, value)
        case "$in":
            return any(_equal(one, item) for item in value)
        case "$gt" | "$gte" | "$lt" | "$lte":
            if value is None:
                return name in ("$gte", "$lte") and _equal(one, None)
            if _kind(one) != _kind(value):
                return False
            return bool({"$gt": one > value, "$gte": one >= value, "$lt": one < value, "$lte": one <= value}[name])
        case "$type":
            return any(_is_type(one, kind) for kind in ([value] if isinstance(value, str) else value))
        case "$regex":
            # \w and its kin are ASCII; letter case follows Unicode, so Python's re.ASCII would take too much
            value = value.replace(r"\w", "[0-9A-Za-z_]")
            flags = sum(_FLAGS[flag] for flag in whole.get("$options", ""))
            return isinstance(one, str) and re.search(value, one, flags) is not None
        case "$mod":
            if _kind(one) != "number":
                return False
            whole_number = int(one)
            quotient = abs(whole_number) // abs(value[0]) * (1 if (whole_number < 0) == (value[0] < 0) else -1)
            return bool(whole_number - quotient * value[0] == value[1])
    raise AssertionError(f"no valid operator: {name}")


def _kind(value: Any) -> str:
    if value is MISSING:
        return "missing"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return {str: "string", list: "array", dict: "object", type(None): "null"}[type(value)]


def _equal(a: Any, b: Any) -> bool:
    """Null equals missing; numbers by value; objects whatever their order of keys."""
    if b is None:
        return a is None or a is MISSING
    if _kind(a) != _kind(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_kind(a[key]) == _kind(b[key]) and _equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(_kind(x) == _kind(y) and _equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _is_type(one: Any, name: str) -> bool:
    if name not in ("int", "long", "double"):
        return _kind(one) == name
    if _kind(one) != "number":
        return False
    if isinstance(one, float):
        return name == "double"
    return name == ("int" if -(2**31) <= one < 2**31 else "long")
