"""A checked filter as one SQL condition over the manifest view (alias `m`).

The text is put together from the fragments in this module only; every value, key and array index is a bound parameter. Each
fragment is true or false and never NULL, so that NOT may stand before it.

How a path is walked (REST contract 10; MongoDB where it is silent): keys go into objects; through an array, a key reaches the
objects in it, and a number also the element at that place. What a walk ends at is a value, or *missing* (SQL NULL): an object
without the key, or a scalar on the way. Array elements that are no objects are passed over and are not *missing*; nor is a
place beyond an array's end.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from skydriver_api.find.errors import BadFilter, Place
from skydriver_api.find.lookups import lookup_condition
from skydriver_api.find.nodes import (
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
    Remainder,
    Size,
    Test,
    TypeIs,
)

__all__ = ["Condition", "compile_filter"]

MAX_PARAMETERS = 30_000  # the driver stops at 32,767
MAX_SQL = 8_000_000
MAX_CONDITIONS = 20_000
MAX_EXPRESSIONS = 100  # Postgres compiles them again for each row when there are more than some dozens
MAX_EXPRESSION_CHARS = 20_000
_SMALLER = "use $in instead of many branches, or split the request"
_INDEX = re.compile(r"(0|[1-9][0-9]{0,8})\Z")
_JSON_TYPES = {"string": "string", "object": "object", "array": "array", "bool": "boolean", "null": "null", "number": "number"}
_KINDS = {  # of numbers, by the way they are written: MongoDB's clients store them so
    "int": "(strpos({y}::text, '.') = 0 AND {y} BETWEEN '-2147483648'::jsonb AND '2147483647'::jsonb)",
    "long": "(strpos({y}::text, '.') = 0 AND {y} BETWEEN '-9223372036854775808'::jsonb AND '9223372036854775807'::jsonb"
    " AND {y} NOT BETWEEN '-2147483648'::jsonb AND '2147483647'::jsonb)",
    "double": "(strpos({y}::text, '.') > 0 OR {y} NOT BETWEEN '-9223372036854775808'::jsonb AND '9223372036854775807'::jsonb)",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """sql: for a WHERE clause over `manifests m`. args: in the order of its placeholders. expressions: (regex, first place) used."""

    sql: str
    args: tuple[object, ...]
    expressions: tuple[tuple[str, Place | str], ...]


def compile_filter(node: Node) -> Condition:
    """The condition, led by what indexes can answer. Raises BadFilter if the filter as a whole is too large."""
    compiler = _Compiler()
    lookup = lookup_condition(node, compiler.bind)
    exact = compiler.node(node, "m.doc", is_object=True)
    sql = f"{lookup} AND {exact}" if lookup else exact
    return Condition(sql, tuple(compiler.args), tuple(compiler.expressions.items()))


class _Compiler:
    def __init__(self) -> None:
        self.args: list[object] = []
        self.expressions: dict[str, Place | str] = {}
        self._placeholders: dict[tuple[str, str], str] = {}
        self._aliases = 0
        self._size = 0
        self._conditions = 0
        self._expression_chars = 0

    def check_size(self, added: int) -> None:
        """Stop while the statement is being written: added is the length of one more condition on a field."""
        self._size += added
        if self._size > MAX_SQL or len(self.args) > MAX_PARAMETERS:
            raise BadFilter(f"the filter is too large or too deeply nested; {_SMALLER}")

    def count_condition(self) -> None:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise BadFilter(f"the filter has more than {MAX_CONDITIONS} conditions; {_SMALLER}")

    def use_expression(self, pattern: str, path: Place | str) -> None:
        """Note a regular expression that the database has to check. Each costs its compilation, whatever it looks like."""
        if pattern in self.expressions:
            return
        self.expressions[pattern] = path
        self._expression_chars += len(pattern)
        if len(self.expressions) > MAX_EXPRESSIONS:
            raise BadFilter(f"the filter has more than {MAX_EXPRESSIONS} different regular expressions; join some by '|'", path)
        if self._expression_chars > MAX_EXPRESSION_CHARS:
            raise BadFilter(f"the regular expressions of the filter have more than {MAX_EXPRESSION_CHARS} characters", path)

    def bind(self, value: object, kind: str) -> str:
        """A placeholder of an SQL type; equal values share one. JSON travels as text, whatever codecs the pool has."""
        known = (kind, value if isinstance(value, str) else repr(value))
        if known not in self._placeholders:
            self.args.append(value)
            wire = {"jsonb": "::text::jsonb", "jsonb[]": "::text[]::jsonb[]"}.get(kind, f"::{kind}")
            self._placeholders[known] = f"${len(self.args)}{wire}"
            self.check_size(0)
        return f"({self._placeholders[known]})"

    def json(self, value: Json) -> str:
        return self.bind(json.dumps(value, allow_nan=False), "jsonb")

    def alias(self) -> str:
        self._aliases += 1
        return f"e{self._aliases}"

    def node(self, node: Node, root: str, *, is_object: bool) -> str:
        match node:
            case All(nodes):
                parts = [self.node(inner, root, is_object=is_object) for inner in nodes]
                sql = f"({' AND '.join(parts)})" if parts else "TRUE"
            case Any(nodes):
                parts = [self.node(inner, root, is_object=is_object) for inner in nodes]
                sql = f"({' OR '.join(parts)})" if parts else "FALSE"
            case Not(inner):
                sql = f"(NOT {self.node(inner, root, is_object=is_object)})"
            case Field((), test):
                self.count_condition()
                sql = self.itself(test, root)
            case Field(path, test):
                self.count_condition()
                sql = self.field(path, test, root, is_object)
                self.check_size(len(sql))
        return sql

    def field(self, path: tuple[str, ...], test: Test, root: str, is_object: bool) -> str:
        if not is_object:
            return self.walk(path, test, root)
        first = f"({root} -> {self.bind(path[0], 'text')})"
        if len(path) == 1:
            return self.reached(test, first)
        through = self.walk(path[1:], test, first)
        if isinstance(test, ElementIs | ElementMatches):
            return through
        # Nearly all paths cross no array: then plain steps do, without a subquery per row.
        steps = [first]
        for key in path[1:]:
            steps.append(f"({steps[-1]} -> {self.bind(key, 'text')})")
        arrays = " OR ".join(f"jsonb_typeof({step}) = 'array'" for step in steps[:-1])
        return f"(CASE WHEN {arrays} THEN {through} ELSE {self.reached(test, steps[-1])} END)"

    def walk(self, path: tuple[str, ...], test: Test, start: str) -> str:
        """Whether any value (or missing) that `path` reaches from `start`, which may be an array, passes."""
        sources: list[str] = []
        at = start
        for key in path:
            step = self.alias()
            child = f"c{step}"
            text = self.bind(key, "text")
            spread = f"CASE WHEN jsonb_typeof({at}) = 'array' THEN {at} ELSE jsonb_build_array({at}) END"
            found = (
                f"SELECT {child}.v -> {text} AS v FROM jsonb_array_elements({spread}) AS {child}(v)"  # noqa: S608 (fragments)
                f" WHERE jsonb_typeof({at}) IS DISTINCT FROM 'array' OR jsonb_typeof({child}.v) = 'object'"
            )
            if _INDEX.match(key):
                place = self.bind(int(key), "int")
                found += f" UNION ALL SELECT {at} -> {place} WHERE jsonb_typeof({at}) = 'array' AND {at} -> {place} IS NOT NULL"
            sources.append(f"LATERAL ({found}) AS {step}")
            at = f"{step}.v"
        return f"EXISTS (SELECT 1 FROM {', '.join(sources)} WHERE {self.reached(test, at)})"  # noqa: S608 (fragments)

    def elements(self, x: str, condition: Callable[[str], str], otherwise: str) -> str:
        """Whether an element of the array `x` passes; for anything but an array, what `otherwise` says."""
        element = self.alias()
        passes = condition(f"{element}.v")
        some = f"EXISTS (SELECT 1 FROM jsonb_array_elements({x}) AS {element}(v) WHERE {passes})"  # noqa: S608 (fragments)
        return f"(CASE WHEN jsonb_typeof({x}) = 'array' THEN {some} ELSE {otherwise} END)"

    def reached(self, test: Test, x: str) -> str:
        """The test on what a path ends at (NULL: missing). A value passes too if it is an array with an element that does."""
        match test:
            case Exists():
                return f"({x} IS NOT NULL)"
            case Equals(None):
                return f"(coalesce({x}, 'null'::jsonb) @> 'null'::jsonb)"
            case Equals(bool() | int() | float() | str() as value):
                # Containment of a scalar is equality with it, or with an element.
                return f"coalesce({x} @> {self.json(value)}, FALSE)"
            case Equals() | IsIn() | TypeIs():
                missing = f"{x} IS NULL" if isinstance(test, IsIn) and None in test.values else "FALSE"
                own = f"coalesce({self.itself(test, x)}, {missing})"
                return f"({own} OR {self.elements(x, lambda y: self.itself(test, y), 'FALSE')})"
            case Compare() | Matches() | Remainder():
                return self.elements(x, lambda y: self.itself(test, y), f"coalesce({self.itself(test, x)}, FALSE)")
            case Size() | ElementMatches() | ElementIs():
                return self.itself(test, x)

    def itself(self, test: Test, y: str) -> str:
        """The test on one value, not looking into arrays. Never NULL for a value that is there."""
        match test:
            case Exists():
                return "TRUE"
            case Equals(value):
                return f"({y} = {self.json(value)})"
            case IsIn(values):
                return f"({y} = ANY({self.bind([json.dumps(value, allow_nan=False) for value in values], 'jsonb[]')}))"
            case Compare(order, str() as text):
                return f"(jsonb_typeof({y}) = 'string' AND ({y} #>> '{{}}') COLLATE \"C\" {order} {self.bind(text, 'text')})"
            case Compare(order, value):
                kind = "boolean" if isinstance(value, bool) else "number"
                return f"(jsonb_typeof({y}) = '{kind}' AND {y} {order} {self.json(value)})"
            case TypeIs(names):
                plain = sorted(_JSON_TYPES[name] for name in names if name in _JSON_TYPES)
                kinds = " OR ".join(_KINDS[name].format(y=y) for name in sorted(names) if name in _KINDS)
                numbers = f" OR (jsonb_typeof({y}) = 'number' AND ({kinds}))" if kinds else ""
                return f"(jsonb_typeof({y}) = ANY({self.bind(plain, 'text[]')}){numbers})"
            case Matches(pattern, path):
                self.use_expression(pattern, path)
                return (
                    f"(jsonb_typeof({y}) = 'string' AND ({y} #>> '{{}}') COLLATE \"pg_c_utf8\" ~ {self.bind(pattern, 'text')})"
                )
            case Remainder(divisor, remainder):
                asked = f"mod(trunc({y}::numeric), {self.json(divisor)}::numeric) = {self.json(remainder)}::numeric"
                return f"(CASE WHEN jsonb_typeof({y}) = 'number' THEN {asked} ELSE FALSE END)"
            case Size(length):
                wanted = f"jsonb_array_length({y}) = {self.bind(min(length, 2**31 - 1), 'int')}"
                return f"(CASE WHEN jsonb_typeof({y}) = 'array' THEN {wanted} ELSE FALSE END)"
            case ElementMatches(node):
                return self.elements(
                    y, lambda e: f"jsonb_typeof({e}) IN ('object', 'array') AND {self.node(node, e, is_object=False)}", "FALSE"
                )
            case ElementIs(node):
                return self.elements(y, lambda e: self.node(node, e, is_object=True), "FALSE")
