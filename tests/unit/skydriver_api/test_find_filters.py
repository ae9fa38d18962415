"""Reading filters: what is refused, with which words and where; what is within the limits."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_api.find import filters
from skydriver_api.find.compile import MAX_CONDITIONS, MAX_EXPRESSION_CHARS, MAX_EXPRESSIONS, compile_filter
from skydriver_api.find.errors import BadFilter, Place
from skydriver_api.find.filters import parse_filter
from skydriver_api.find.limits import LIMITS
from skydriver_api.find.nodes import ALL, Equals, Field, IsIn
from skydriver_api.find.nodes import Any as AnyOf
from skydriver_api.find.search import find_query, projected_fields, statement_for
from tests.support.find_cases import any_filter

KEYS = st.one_of(
    st.text(), st.sampled_from(["$and", "$not", "$in", "$regex", "$mod", "$all", "$elemMatch", "$size", "$type", "a.b"])
)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(KEYS, inner)),
)
REFUSED: dict[str, tuple[Any, str, str]] = {  # filter, place, a part of the message
    "no object": ([], "filter", "must be an object"),
    "$where": ({"$where": "sleep(1)"}, "filter.$where", "$where"),
    "$expr": ({"$expr": {"$eq": [1, 1]}}, "filter.$expr", "$expr"),
    "mixed keys": ({"a": {"$gt": 1, "b": 2}}, "filter.a", "cannot be mixed"),
    "unknown operator": ({"a": {"$foo": 1}}, "filter.a.$foo", "$foo"),
    "geo operator": ({"a": {"$near": [1, 2]}}, "filter.a.$near", "$near"),
    "bit operator": ({"a": {"$bitsAllSet": 1}}, "filter.a.$bitsAllSet", "$bitsAllSet"),
    "refused deep down": (
        {"$or": [{"a": 1}, {"$nor": [{"b": {"$jsonSchema": {}}}]}]},
        "filter.$or[1].$nor[0].b.$jsonSchema",
        "$json",
    ),
    "refused in elemMatch": ({"a": {"$elemMatch": {"$where": "1"}}}, "filter.a.$elemMatch.$where", "$where"),
    "refused in not": ({"a": {"$not": {"$text": 1}}}, "filter.a.$not.$text", "$text"),
    "$not at the top": ({"$not": {"a": 1}}, "filter.$not", "$nor"),
    "$gt at the top": ({"$gt": 1}, "filter.$gt", "applied to a field"),
    "$or applied to a field": ({"a": {"$or": [{"$gt": 1}]}}, "filter.a.$or", "combines filters"),
    "operator inside a value": ({"a": {"b": {"$gt": 1}}}, "filter.a.b.$gt", "dotted path"),
    "operator inside $in": ({"a": {"$in": [{"$regex": "x"}]}}, "filter.a.$in[0].$regex", "$regex"),
    "empty $and": ({"$and": []}, "filter.$and", "non-empty"),
    "$or of an object": ({"$or": {"a": 1}}, "filter.$or", "array"),
    "$nor of values": ({"$nor": [1]}, "filter.$nor[0]", "object"),
    "$in of a value": ({"a": {"$in": 1}}, "filter.a.$in", "array"),
    "$not of a value": ({"a": {"$not": 1}}, "filter.a.$not", "$not"),
    "$not of nothing": ({"a": {"$not": {}}}, "filter.a.$not", "$not"),
    "$gt of an array": ({"a": {"$gt": [1]}}, "filter.a.$gt", "compares"),
    "$exists of a number": ({"a": {"$exists": 1}}, "filter.a.$exists", "true or false"),
    "$type of a number": ({"a": {"$type": 2}}, "filter.a.$type", "names"),
    "unknown $type": ({"a": {"$type": ["int", "date"]}}, "filter.a.$type", "names"),
    "$options alone": ({"a": {"$options": "i"}}, "filter.a.$options", "$regex"),
    "unknown option": ({"a": {"$regex": "a", "$options": "g"}}, "filter.a.$options", "i, m, s, x"),
    "$regex of a number": ({"a": {"$regex": 1}}, "filter.a.$regex", "string"),
    "bad regex": ({"a": {"$regex": "(a"}}, "filter.a.$regex", "missing ')'"),
    "back-reference": ({"a": {"$regex": r"(a)\1"}}, "filter.a.$regex", "back-references"),
    "long regex": ({"a": {"$regex": "a" * 1001}}, "filter.a.$regex", "1000"),
    "$mod by zero": ({"a": {"$mod": [0, 1]}}, "filter.a.$mod", "0"),
    "$mod of three": ({"a": {"$mod": [1, 2, 3]}}, "filter.a.$mod", "[divisor, remainder]"),
    "$mod of a fraction": ({"a": {"$mod": [1.5, 0]}}, "filter.a.$mod", "integer"),
    "negative $size": ({"a": {"$size": -1}}, "filter.a.$size", "0 or more"),
    "$size of a boolean": ({"a": {"$size": True}}, "filter.a.$size", "integer"),
    "$all of a value": ({"a": {"$all": 1}}, "filter.a.$all", "array"),
    "$all of both": ({"a": {"$all": [{"$elemMatch": {"b": 1}}, 1]}}, "filter.a.$all", "not both"),
    "$elemMatch of a value": ({"a": {"$elemMatch": 1}}, "filter.a.$elemMatch", "object"),
    "$elemMatch of both": ({"a": {"$elemMatch": {"$gt": 1, "b": 2}}}, "filter.a.$elemMatch", "cannot be mixed"),
    "NUL in a value": ({"a": "x\0"}, "filter.a", "U+0000"),
    "NUL in a key": ({"a\0": 1}, "filter", "U+0000"),
    "NUL in a regex": ({"a": {"$regex": "\0"}}, "filter.a.$regex", "U+0000"),
    "half a pair": ({"a": "\ud800"}, "filter.a", "surrogate"),
    "NaN": ({"a": math.nan}, "filter.a", "NaN"),
    "Infinity": ({"a": {"$in": [math.inf]}}, "filter.a.$in[0]", "Infinity"),
    "huge number": ({"a": 10**5000}, "filter.a", "too large"),
    "too many elements": ({"a": {"$in": [0] * 10_001}}, "filter.a.$in", "10001"),
    "too many branches": ({"$or": [{}] * 10_001}, "filter.$or", "10001"),
    "long path": ({".".join("a" * 21): 1}, "filter." + ".".join("a" * 21), "20 parts"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named_with_its_place(name: str) -> None:
    raw, path, words = REFUSED[name]
    with pytest.raises(BadFilter) as refused:
        parse_filter(raw)
    assert refused.value.path == path
    assert words in refused.value.message
    refused.value.reason.encode()


def _nested(levels: int) -> dict[str, Any]:
    query: dict[str, Any] = {"a": {"$gt": 1}}
    for level in range(levels):
        query = {("$and", "$or", "$nor")[level % 3]: [query]}
    return query


def test_operators_may_nest_twenty_deep_and_no_deeper() -> None:
    compile_filter(parse_filter(_nested(20)))
    with pytest.raises(BadFilter, match="20 levels deep"):
        parse_filter(_nested(21))


def test_element_matches_and_negations_count_as_levels() -> None:
    operators: dict[str, Any] = {"$gt": 1}
    for level in range(20):
        operators = {"$elemMatch": operators} if level % 2 else {"$not": operators}
    compile_filter(parse_filter({"a.b.c": operators}))
    with pytest.raises(BadFilter, match="20 levels deep"):
        parse_filter({"a.b.c": {"$not": operators}})


def test_values_may_nest_twenty_deep_and_no_deeper() -> None:
    value: Any = 1
    for _ in range(20):
        value = [value]
    parse_filter({"a": value})
    with pytest.raises(BadFilter, match="20 levels deep"):
        parse_filter({"a": [value]})


def test_statements_stay_small_under_the_deepest_nesting() -> None:
    query: dict[str, Any] = {"a.b.c.d": {"$gt": 1}}
    for _ in range(20):
        query = {"a.b.c.d": {"$elemMatch": query}}
    assert len(compile_filter(parse_filter(query)).sql) < 100_000


def test_places_are_written_out_only_when_something_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of filter has a quarter of a million places, each below a name that may be long."""
    written = 0
    text_of = Place.__str__

    def counting(place: Place) -> str:
        nonlocal written
        written += 1
        return text_of(place)

    monkeypatch.setattr(Place, "__str__", counting)
    raw: dict[str, Any] = {"a": {"k" * 1000: [[1] * 10_000] * 25}}
    statement_for(find_query(raw))
    statement_for(find_query({"$or": [{f"{'p' * 990}.{n}": {"$regex": f"x{n}"}} for n in range(100)]}))
    assert written == 0
    with pytest.raises(BadFilter) as refused:
        parse_filter(raw | {"b": {"c": [{"$d": 1}]}})
    assert (written, refused.value.path) == (1, "filter.b.c[0].$d")


def test_a_key_inside_a_value_is_as_long_as_a_path_may_be() -> None:
    parse_filter({"a": {"k" * 1000: 1}})
    with pytest.raises(BadFilter, match="key has 1001 characters") as refused:
        parse_filter({"a": {"b": {"k" * 1001: 1}}})
    assert refused.value.path == "filter.a.b"


def test_a_regular_expression_is_checked_once_however_often_it_is_asked_for() -> None:
    statement = statement_for(find_query({"$and": [{f"a{n}": {"$regex": "x|y"}} for n in range(1000)]}))
    assert [(expression, str(place)) for expression, place in statement.expressions] == [
        ("***:(?:x|y)", "filter.$and[0].a0.$regex")
    ]


def test_ten_thousand_elements_are_allowed() -> None:
    assert len(compile_filter(parse_filter({"a": {"$in": list(range(10_000))}})).args) == 2


def test_a_filter_that_is_too_large_as_a_whole_is_refused() -> None:
    with pytest.raises(BadFilter, match="too large"):
        compile_filter(parse_filter({"$or": [{"a": n, f"b{n}": n, f"c{n}.d{n}": {"$gt": n}} for n in range(10_000)]}))


@pytest.mark.parametrize(
    ("branches", "limit"),
    [
        ([{"a": {"$gt": n}, "b": {"$lt": n}} for n in range(10_000)], "more than 20000 conditions"),
        ([{"a": {"$regex": f"{n}"}} for n in range(101)], "more than 100 different regular expressions"),
        ([{"a": {"$regex": "x" * 990 + str(n)}} for n in range(30)], "more than 20000 characters"),
    ],
    ids=["conditions", "expressions", "characters"],
)
def test_a_filter_has_a_budget_which_the_refusal_names(branches: list[dict[str, Any]], limit: str) -> None:
    raw = {"$and": [{"c": {"$gt": 1}}, {"$or": branches}]}
    with pytest.raises(BadFilter, match=limit):
        statement_for(find_query(raw))
    statement_for(find_query({"$or": branches[: len(branches) // 2]}))


@pytest.mark.parametrize(
    "raw",
    [
        {"$and": [{"$or": [{}] * 9999} for _ in range(34)]},
        {"$or": [{f"a{n}": n, f"b{n}": n, f"c{n}": n, f"d{n}": n, f"e{n}": n} for n in range(9999)]},
        {"a": {"$all": [{"$elemMatch": {"$elemMatch": {"$gt": 1, "$lt": n}}} for n in range(9999)]}},
        {"a": {"$not": {"$elemMatch": {"$or": [{"b": {"$gt": n, "$lt": n, "$ne": 1}} for n in range(9999)]}}}},
    ],
    ids=["filters", "fields", "elements", "operators"],
)
def test_the_parts_of_a_filter_are_counted_before_anything_is_made_of_it(
    raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "MAX_PARTS", 30_000)
    monkeypatch.setattr(filters, "_filter", lambda *_: pytest.fail("it was read"))
    with pytest.raises(BadFilter, match="more than 30000 fields, operators and filters") as refused:
        parse_filter(raw)
    assert refused.value.path == "filter"


def test_two_full_arrays_are_within_the_budget() -> None:
    parse_filter({"$and": [{"$or": [{"a": n} for n in range(10_000)]}, {"$nor": [{"b": n} for n in range(10_000)]}]})


def test_the_limits_are_told_in_words() -> None:
    assert all(f" {limit} " in LIMITS for limit in (MAX_CONDITIONS, MAX_EXPRESSIONS, MAX_EXPRESSION_CHARS, 20, 10_000, 1000))


def test_an_empty_filter_and_comments_match_all() -> None:
    assert parse_filter({}) == ALL
    assert parse_filter({"$comment": {"$where": 1}}) == ALL
    assert parse_filter({"a": {"$comment": 1}}) == ALL


@given(any_filter(), st.text(st.sampled_from("'\"\\;$-%:?{}x "), min_size=3))
def test_nothing_of_the_input_becomes_part_of_the_statement(query: dict[str, Any], poison: str) -> None:
    """The same filter with every name and text poisoned gives a statement of the same words."""

    def renamed(key: str) -> str:
        return key if key.startswith("$") else f"~{poison}{key}".replace(".", f"{poison}.")

    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            return {renamed(key): poisoned(item) for key, item in value.items()}
        return [poisoned(item) for item in value] if isinstance(value, list) else value

    for raw in (query, poisoned(query)):
        statement = statement_for(find_query(raw, after=poison, limit=3))
        assert "~" not in statement.sql.replace('"pg_c_utf8" ~ ', "")
        words = set(statement.sql.split("'")[1::2])
        assert words <= {
            *("array", "object", "string", "number", "boolean", "null", "{}", ".", "timestamp"),
            *("-2147483648", "2147483647", "-9223372036854775808", "9223372036854775807"),
        }


def test_equal_values_share_a_parameter() -> None:
    assert compile_filter(parse_filter({"$and": [{"x": 1}, {"x": 1}, {"y": 1}]})).args == ("x", "1", "y")


def test_branches_on_one_path_are_one_in() -> None:
    merged = parse_filter({"$or": [{"x": 1}, {"y": 2}, {"x": 3}]})
    assert merged == AnyOf((Field(("x",), IsIn((1, 3))), Field(("y",), Equals(2))))


@pytest.mark.parametrize(
    ("projection", "fields"),
    [
        (None, None),
        ("*", None),
        ([], None),
        (["*"], None),
        (["scan_id", "*"], None),
        (["scan_id", "none.x"], frozenset({"scan_id", "none.x"})),
    ],
)
def test_projections_that_are_accepted(projection: Any, fields: frozenset[str] | None) -> None:
    assert projected_fields(projection) == fields


@pytest.mark.parametrize("projection", ["scan_id", ["ewms_task"], ["*", "event_i3live_json_dict"], ["a", "a"], [" "], [1]])
def test_projections_that_are_refused(projection: Any) -> None:
    with pytest.raises(BadFilter) as refused:
        projected_fields(projection)
    assert refused.value.path == "manifest_projection"


def test_a_limit_is_at_least_one() -> None:
    with pytest.raises(BadFilter, match="limit"):
        find_query({}, limit=0)


@given(ANYTHING)
def test_whatever_comes_is_compiled_or_refused(raw: Any) -> None:
    path = "filter"
    try:
        statement_for(find_query(raw))
    except BadFilter as refused:
        path = refused.path
    assert path.startswith("filter")
