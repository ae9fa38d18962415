"""Read a filter: every operator checked, every refusal named with its place.

Source: REST contract 10. Where the contract is silent, MongoDB's behaviour decides; docs of each choice stand at its place.
"""

from collections.abc import Callable, Mapping

from skydriver_api.find.errors import FILTER, BadFilter, Place
from skydriver_api.find.literals import MAX_DEPTH, MAX_ELEMENTS, checked_array, checked_integer, checked_literal, checked_text
from skydriver_api.find.nodes import (
    ALL,
    All,
    Any,
    Compare,
    ElementIs,
    ElementMatches,
    Equals,
    Exists,
    Field,
    IsIn,
    Json,
    Matches,
    Node,
    Not,
    Order,
    Remainder,
    Size,
    TypeIs,
)
from skydriver_api.find.regex import to_postgres

__all__ = ["parse_filter"]

MAX_PATH_PARTS = 20
MAX_PATH_LENGTH = 1_000
MAX_PARTS = 100_000
"""Fields, operators and filters of one request. Far above what the limits on arrays need, and read in a moment."""

LOGICAL = {"$and", "$or", "$nor"}
FIELD_OPERATORS = {
    *("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$not", "$exists", "$type"),
    *("$regex", "$options", "$mod", "$all", "$elemMatch", "$size", "$comment"),
}
_ORDERS: Mapping[str, Order] = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_TYPES = ("double", "string", "object", "array", "bool", "null", "int", "long", "number")


def parse_filter(raw: object, path: Place | str = FILTER) -> Node:
    """The filter of a request body as a checked tree.

    raw: parsed JSON. path: how the body calls it, for messages. Raises BadFilter. Source: REST contract 10.
    """
    _check_parts(raw, path)
    return _filter(raw, path, 0)


def _check_parts(raw: object, path: Place | str) -> None:
    """Count before anything is made of it: a body of 1 MiB may hold 350,000 filters. Raises BadFilter."""
    n_parts, waiting = 0, [raw]
    while waiting and n_parts <= MAX_PARTS:
        part = waiting.pop()
        if not isinstance(part, dict):
            continue
        n_parts += 1 + len(part)
        for key, value in part.items():
            if key in LOGICAL or key == "$all":
                if isinstance(value, list):
                    waiting.extend(value[: MAX_ELEMENTS + 1])
            elif isinstance(value, dict) and (key in ("$not", "$elemMatch") or next(iter(value), "").startswith("$")):
                waiting.append(value)
    if n_parts > MAX_PARTS:
        raise BadFilter(
            f"the filter has more than {MAX_PARTS} fields, operators and filters; use $in instead of many branches, or split"
            " the request",
            path,
        )


def _filter(raw: object, path: Place | str, depth: int) -> Node:
    if not isinstance(raw, dict):
        raise BadFilter("a filter must be an object", path)
    _check_depth(depth, path)
    checked_array(list(raw), "a filter", path)
    nodes: list[Node] = []
    for key, value in raw.items():
        where = Place(path, key)
        if key == "$comment":
            continue
        if key in LOGICAL:
            parts = checked_array(value, key, where)
            if not parts:
                raise BadFilter(f"{key} takes a non-empty array", where)
            nodes.append(_logical(key, tuple(_filter(part, Place(where, i), depth + 1) for i, part in enumerate(parts))))
        elif key.startswith("$"):
            raise BadFilter(_why_not_here(key), where)
        else:
            nodes.append(_field(_path_parts(key, where), value, where, depth))
    return nodes[0] if len(nodes) == 1 else All(tuple(nodes))


def _logical(key: str, nodes: tuple[Node, ...]) -> Node:
    if key == "$and":
        return All(nodes)
    either = Any(_merged(nodes))
    return either if key == "$or" else Not(either)


def _merged(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Branches that compare one path with one value each are one `$in`, which costs the same for two values and for ten thousand."""
    values: dict[tuple[str, ...], list[Json]] = {}
    others: list[Node] = []
    for node in nodes:
        match node:
            case Field(path, Equals(value)):
                values.setdefault(path, []).append(value)
            case _:
                others.append(node)
    asked = (Field(path, Equals(some[0]) if len(some) == 1 else IsIn(tuple(some))) for path, some in values.items())
    return (*asked, *others)


def _check_depth(depth: int, path: Place | str) -> None:
    if depth > MAX_DEPTH:
        raise BadFilter(f"operators are nested more than {MAX_DEPTH} levels deep", path)


def _path_parts(key: str, where: Place) -> tuple[str, ...]:
    parts = tuple(checked_text(key, "filter").split("."))
    if len(parts) > MAX_PATH_PARTS or len(key) > MAX_PATH_LENGTH:
        raise BadFilter(
            f"a path may have at most {MAX_PATH_PARTS} parts and {MAX_PATH_LENGTH} characters",
            str(where)[: MAX_PATH_LENGTH + 7],
        )
    return parts


def _why_not_here(key: str) -> str:
    if key == "$not":
        return "$not applies to the operators of one field; use $nor here"
    if key in FIELD_OPERATORS:
        return f'{key} must be applied to a field, as in {{"timestamp": {{"{key}": 5}}}}'
    return f"operator {key} is not supported"


def _is_operators(value: object, path: Place) -> bool:
    """Whether a field's value holds operators, or is a value to compare with. Raises BadFilter for a mixture."""
    if not isinstance(value, dict) or not value:
        return False
    dollar = [key for key in value if key.startswith("$")]
    if dollar and len(dollar) < len(value):
        plain = next(key for key in value if not key.startswith("$"))
        raise BadFilter(f"operator {dollar[0]} and key '{plain}' cannot be mixed in one object", path)
    return bool(dollar)


def _field(parts: tuple[str, ...], value: object, path: Place, depth: int) -> Node:
    if _is_operators(value, path):
        assert isinstance(value, dict)
        return _operators(parts, value, path, depth)
    return Field(parts, Equals(checked_literal(value, path)))


def _operators(parts: tuple[str, ...], operators: Mapping[str, object], path: Place, depth: int) -> Node:
    nodes: list[Node] = []
    for key, value in operators.items():
        where = Place(path, key)
        if key == "$comment":
            continue
        if key == "$options":
            if "$regex" not in operators:
                raise BadFilter("$options requires $regex", where)
            continue
        if key == "$regex":
            nodes.append(Field(parts, _regex(value, operators.get("$options", ""), path)))
        elif key in _PARSERS:
            nodes.append(_PARSERS[key](parts, value, where, depth))
        elif key in LOGICAL:
            raise BadFilter(f"{key} combines filters; it cannot be applied to a field", where)
        else:
            raise BadFilter(f"operator {key} is not supported", where)
    if len(nodes) == 1:
        return nodes[0]
    return All(tuple(nodes)) if nodes else ALL


def _eq(parts: tuple[str, ...], value: object, path: Place, depth: int) -> Node:
    return Field(parts, Equals(checked_literal(value, path)))


def _ne(parts: tuple[str, ...], value: object, path: Place, depth: int) -> Node:
    return Not(_eq(parts, value, path, depth))


def _in(parts: tuple[str, ...], value: object, path: Place, depth: int) -> Node:
    name = str(path.step)
    values = checked_array(value, name, path)
    return Field(parts, IsIn(tuple(checked_literal(item, Place(path, i)) for i, item in enumerate(values))))


def _nin(parts: tuple[str, ...], value: object, path: Place, depth: int) -> Node:
    return Not(_in(parts, value, path, depth))


def _compare(parts: tuple[str, ...], value: object, path: Place, depth: int) -> Node:
    """Numbers, strings and booleans have an order. Null only equals itself (as in MongoDB): `$gte` and `$lte` match it."""
    name = str(path.step)
    literal = checked_literal(value, path)
    if literal is None:
        return Field(parts, Equals(None)) if name in ("$gte", "$lte") else Any(())
    if isinstance(literal, bool | int | float | str):
        return Field(parts, Compare(_ORDERS[name], literal))
    raise BadFilter(f"{name} compares numbers, strings or booleans, not arrays or objects", path)


def _not(parts: tuple[str, ...], value: object, path: Place, depth: int) -> Node:
    _check_depth(depth + 1, path)
    if not isinstance(value, dict) or not value or not _is_operators(value, path):
        raise BadFilter("$not takes an object with operators, as in {'$not': {'$gt': 5}}", path)
    return Not(_operators(parts, value, path, depth + 1))


def _exists(parts: tuple[str, ...], value: object, path: Place, depth: int) -> Node:
    if not isinstance(value, bool):
        raise BadFilter("$exists takes true or false", path)
    node = Field(parts, Exists())
    return node if value else Not(node)


def _type(parts: tuple[str, ...], value: object, path: Place, depth: int) -> Node:
    names = checked_array(value, "$type", path) if isinstance(value, list) else [value]
    if not names:
        raise BadFilter("$type takes a type name or a non-empty array of them", path)
    for name in names:
        if not isinstance(name, str) or name not in _TYPES:
            raise BadFilter(f"$type takes the names {', '.join(_TYPES)}", path)
    return Field(parts, TypeIs(frozenset(str(name) for name in names)))


def _regex(pattern: object, options: object, path: Place) -> Matches:
    if not isinstance(pattern, str):
        raise BadFilter("$regex takes a string", Place(path, "$regex"))
    if not isinstance(options, str) or not set(options) <= set("imsx"):
        raise BadFilter("$options takes a string of the letters i, m, s, x", Place(path, "$options"))
    checked_text(pattern, Place(path, "$regex"))
    return Matches(to_postgres(pattern, frozenset(options), Place(path, "$regex")), Place(path, "$regex"))


def _mod(parts: tuple[str, ...], value: object, path: Place, depth: int) -> Node:
    if not isinstance(value, list) or len(value) != 2:
        raise BadFilter("$mod takes [divisor, remainder]", path)
    divisor = checked_integer(value[0], "the divisor of $mod", path)
    if divisor == 0:
        raise BadFilter("the divisor of $mod must not be 0", path)
    return Field(parts, Remainder(divisor, checked_integer(value[1], "the remainder of $mod", path)))


def _size(parts: tuple[str, ...], value: object, path: Place, depth: int) -> Node:
    length = checked_integer(value, "$size", path)
    if length < 0:
        raise BadFilter("$size must be 0 or more", path)
    return Field(parts, Size(length))


def _all(parts: tuple[str, ...], value: object, path: Place, depth: int) -> Node:
    """Every element must be there, so it is a conjunction; of nothing, it matches nothing (as in MongoDB)."""
    values = checked_array(value, "$all", path)
    if not values:
        return Any(())
    asked = [isinstance(item, dict) and set(item) == {"$elemMatch"} for item in values]
    if any(asked):
        if not all(asked):
            raise BadFilter("$all takes either values or $elemMatch objects, not both", path)
        return All(
            tuple(
                _operators(parts, dict(item), Place(path, i), depth) for i, item in enumerate(values) if isinstance(item, dict)
            )
        )
    return All(tuple(Field(parts, Equals(checked_literal(item, Place(path, i)))) for i, item in enumerate(values)))


def _elem_match(parts: tuple[str, ...], value: object, path: Place, depth: int) -> Node:
    """`{"$gt": 1}` looks at each element itself, `{"x": 1}` and `{"$or": […]}` into each element that is an object."""
    if not isinstance(value, dict):
        raise BadFilter("$elemMatch takes an object", path)
    _check_depth(depth + 1, path)
    if any(key in FIELD_OPERATORS and key != "$comment" for key in value):
        _is_operators(value, path)
        return Field(parts, ElementIs(_operators((), value, path, depth + 1)))
    return Field(parts, ElementMatches(_filter(value, path, depth + 1)))


_PARSERS: Mapping[str, Callable[[tuple[str, ...], object, Place, int], Node]] = {
    "$eq": _eq,
    "$ne": _ne,
    "$gt": _compare,
    "$gte": _compare,
    "$lt": _compare,
    "$lte": _compare,
    "$in": _in,
    "$nin": _nin,
    "$not": _not,
    "$exists": _exists,
    "$type": _type,
    "$mod": _mod,
    "$size": _size,
    "$all": _all,
    "$elemMatch": _elem_match,
}
