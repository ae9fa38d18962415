"""What a filter means: exact cases from REST contract 10, and random ones against two independent evaluators."""

from collections.abc import Iterator
from typing import Any

import mongomock.filtering
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import find_cases, find_reference
from tests.support.find_evaluation import Connection, connect, matched

MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))

# (filter, documents that match, documents that don't), each document the value of the field `f` of an otherwise empty Manifest;
# `MISSING` leaves it out.
MISSING: Any = object()
CASES: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "null matches null and missing": ({"f": None}, [None, MISSING, [None], [1, None]], [0, False, "", [], {}]),
    "null below an object that is null": (
        {"f.a": None},
        [None, {}, {"a": None}, MISSING, 5, [{"a": None}], [{}]],
        [{"a": 1}, [], [5]],
    ),
    "exists false is only missing": ({"f": {"$exists": False}}, [MISSING], [None, 0, [], {}]),
    "exists true is also null": ({"f": {"$exists": True}}, [None, 0, [], {}], [MISSING]),
    "exists through an array": ({"f.a": {"$exists": True}}, [{"a": None}, [{"b": 1}, {"a": 1}]], [{}, [], [1], [{"b": 1}]]),
    "a value, or an array with it": ({"f": 5}, [5, 5.0, [5], [1, 5.0], ["x", 5]], ["5", [[5]], {"a": 5}, True, MISSING]),
    "an array exactly, or inside an array": (
        {"f": [1, 2]},
        [[1, 2], [1.0, 2], [[1, 2], 3]],
        [[2, 1], [1, 2, 3], 1, [[[1, 2]]]],
    ),
    "the empty array": ({"f": []}, [[], [[]]], [None, {}, [1], MISSING]),
    "an equal object in any order of keys": (
        {"f": {"x": 1, "y": {"a": 2, "b": None}}},
        [{"y": {"b": None, "a": 2.0}, "x": 1}, [{"x": 1, "y": {"a": 2, "b": None}}]],
        [{"x": 1, "y": {"a": 2}}, {"x": 1, "y": {"a": 2, "b": None}, "z": 3}, {"x": 1}, {"x": True, "y": {"a": 2, "b": None}}],
    ),
    "the empty object": ({"f": {}}, [{}, [{}]], [None, [], {"a": 1}, MISSING]),
    "true isn't 1": ({"f": True}, [True, [True]], [1, "true", None]),
    "1 isn't true": ({"f": 1}, [1, 1.0], [True, "1"]),
    "eq with an array": ({"f": {"$eq": [1]}}, [[1], [[1]]], [1, [1, 2]]),
    "ne matches missing": ({"f": {"$ne": 5}}, [MISSING, None, 4, [4], []], [5, [5], [4, 5.0]]),
    "ne null": ({"f": {"$ne": None}}, [0, [], {}], [None, MISSING, [None]]),
    "nin matches missing": ({"f": {"$nin": [5, "a"]}}, [MISSING, None, 4, []], [5, "a", [1, "a"]]),
    "nin of nothing": ({"f": {"$nin": []}}, [MISSING, 1, None], []),
    "in of nothing": ({"f": {"$in": []}}, [], [MISSING, 1, None, []]),
    "in with null, arrays and objects": (
        {"f": {"$in": [None, [1, 2], {"a": 1}, "x"]}},
        [None, MISSING, [1, 2], [[1, 2]], {"a": 1.0}, [{"a": 1}], "x", ["x"], [None]],
        [1, [1], {"a": 1, "b": 2}, "xx", []],
    ),
    "not matches missing": ({"f": {"$not": {"$gt": 5}}}, [MISSING, None, 5, "9", []], [6, [1, 6]]),
    "numbers compare only with numbers": ({"f": {"$gt": 5}}, [5.5, 6, [1, 6]], [5, "6", True, None, {"a": 6}, MISSING, [[6]]]),
    "strings compare by code point": ({"f": {"$gt": "Z"}}, ["a", "é", "😀", ["a"]], ["Z", "A", 5, None, MISSING]),
    "code points, not UTF-16 units": ({"f": {"$gt": "\uffee"}}, ["😀"], ["\uff00"]),
    "booleans compare with booleans": ({"f": {"$gte": True}}, [True], [False, 1, 2, "true"]),
    "a range over an array need not meet in one element": ({"f": {"$gt": 5, "$lt": 3}}, [[1, 9]], [4, [4], 9]),
    "at least null is null": ({"f": {"$gte": None}}, [None, MISSING], [0]),
    "more than null is nothing": ({"f": {"$gt": None}}, [], [None, MISSING, 0]),
    "a path through an array of objects": (
        {"f.a": 5},
        [{"a": 5}, [{"a": 5}], [{"a": 1}, {"a": [5]}]],
        [[5], [[{"a": 5}]], {"b": 5}],
    ),
    "a number indexes an array": ({"f.1": 5}, [[4, 5], [4, [5]], {"1": 5}, [{"1": 5}]], [[5, 4], [5], 5]),
    "on through an index": ({"f.0.a": 5}, [[{"a": 5}], {"0": {"a": 5}}, [[{"a": 5}]]], [[{"b": 1}, {"a": 5}], []]),
    "no counting from the end": ({"f.-1": 5}, [{"-1": 5}], [[4, 5]]),
    "nothing beyond the end": ({"f.7": {"$exists": False}}, [[1], MISSING, 5], [[0] * 8, {"7": None}]),
    "type string": ({"f": {"$type": "string"}}, ["a", ["a"]], [1, None, MISSING, [["a"]]]),
    "type null isn't missing": ({"f": {"$type": "null"}}, [None, [None]], [MISSING, 0]),
    "type array": ({"f": {"$type": "array"}}, [[], [1]], [1, {}, MISSING]),
    "type object": ({"f": {"$type": "object"}}, [{}, [{}]], [[], None]),
    "type bool": ({"f": {"$type": "bool"}}, [True, [False]], [1, "true"]),
    "type int": ({"f": {"$type": "int"}}, [1, -3, 2**31 - 1], [1.0, 1.5, True, "1", 2**31]),
    "type long": ({"f": {"$type": "long"}}, [2**31, -(2**40)], [1, 1.5, 1e300, "1"]),
    "type double": ({"f": {"$type": "double"}}, [1.0, 1.5, 1e300, -1e-9], [1, 2**31]),
    "type number": ({"f": {"$type": "number"}}, [1, 1.5, 1e300, [2]], ["1", True, None]),
    "one of several types": ({"f": {"$type": ["string", "null"]}}, ["a", None], [1, MISSING, {}]),
    "regex": (
        {"f": {"$regex": "^mil.*e$"}},
        ["millipede", ["x", "mile"]],
        ["Millipede", "a mile", 5, None, MISSING, {"mile": 1}],
    ),
    "regex without case": ({"f": {"$regex": "MILLI|é", "$options": "i"}}, ["millipede", "É"], ["mill"]),
    "regex by lines": ({"f": {"$regex": "^b$", "$options": "m"}}, ["a\nb\nc", "b"], ["ab", "a\nbc"]),
    "regex, dot and newline": ({"f": {"$regex": "a.b"}}, ["a-b"], ["a\nb"]),
    "regex, dot is any": ({"f": {"$regex": "a.b", "$options": "s"}}, ["a-b", "a\nb"], ["ab"]),
    "regex with room": ({"f": {"$regex": "a b # note", "$options": "x"}}, ["ab"], ["a b"]),
    "regex with quotes and dollars": (
        {"f": {"$regex": r"'; DROP TABLE manifests; --|\$1"}},
        ["'; DROP TABLE manifests; --", "$1"],
        ["1"],
    ),
    "mod": ({"f": {"$mod": [4, 1]}}, [5, 1, 5.9, [2, 9]], [4, -5, "5", True, None]),
    "mod of negatives": ({"f": {"$mod": [4, -1]}}, [-5, -1.5], [5, 3]),
    "all": ({"f": {"$all": [1, 2]}}, [[2, 1], [1, 2, 3]], [1, [1], [[1, 2]], MISSING]),
    "all of one also without array": ({"f": {"$all": [1]}}, [1, [1]], [2, MISSING]),
    "all of nothing": ({"f": {"$all": []}}, [], [[], [1], MISSING]),
    "all with arrays": ({"f": {"$all": [[1, 2]]}}, [[1, 2], [[1, 2]]], [[1], [2, 1]]),
    "all with elemMatch": (
        {"f": {"$all": [{"$elemMatch": {"a": 1}}, {"$elemMatch": {"a": 2}}]}},
        [[{"a": 2}, {"a": 1}]],
        [[{"a": 1}], {"a": 1}],
    ),
    "size": ({"f": {"$size": 2}}, [[1, 2], [[], {}]], [[1], "ab", {"a": 1, "b": 2}, 2, MISSING]),
    "elemMatch by value": ({"f": {"$elemMatch": {"$gt": 3, "$lt": 6}}}, [[1, 5]], [[1, 9], 5, [[5]], MISSING]),
    "elemMatch by parts": (
        {"f": {"$elemMatch": {"a": 1, "b": {"$gt": 1}}}},
        [[{"a": 1, "b": 2}]],
        [[{"a": 1}, {"b": 2}], {"a": 1, "b": 2}, [1]],
    ),
    "elemMatch with or": ({"f": {"$elemMatch": {"$or": [{"a": 1}, {"b": 1}]}}}, [[{"b": 1}]], [[{"c": 1}], [1]]),
    "elemMatch within elemMatch": ({"f": {"$elemMatch": {"$elemMatch": {"$eq": 1}}}}, [[[1]]], [[1], [[[1]]]]),
    "negation within elemMatch": ({"f": {"$elemMatch": {"a": {"$ne": 1}}}}, [[{}], [{"a": 2}]], [[{"a": 1}], [1], [], {}]),
    "nor": ({"$nor": [{"f": 1}, {"f": None}]}, [2, []], [1, None, MISSING]),
    "and with or": ({"$and": [{"$or": [{"f": 1}, {"f": 2}]}, {"f": {"$ne": 2}}]}, [1], [2, 3]),
    "a comment": ({"$comment": "x", "f": {"$gt": 1, "$comment": "y"}}, [2], [1]),
    "large and small numbers": ({"f": {"$gt": 10**30}}, [10**31, 1e300], [10**30, 5]),
    "unfinished": (
        {"$or": [{"progress": None}, {"progress.processing_stats.finished": False}], "f": 1},
        [1],
        [2],
    ),
}


@pytest.fixture
def postgres(database: str) -> Iterator[Connection]:
    with connect(database) as connection:
        yield connection


@pytest.mark.parametrize("name", CASES)
def test_a_filter_means_what_the_contract_says(postgres: Connection, name: str) -> None:
    query, yes, no = CASES[name]
    documents = [{"progress": None} if value is MISSING else {"progress": None, "f": value} for value in [*yes, *no]]
    assert matched(postgres, query, documents) == list(range(len(yes)))
    assert [find_reference.matches(query, document) for document in documents] == [True] * len(yes) + [False] * len(no)


def test_filters_mean_what_a_plain_reading_of_the_contract_means(postgres: Connection) -> None:
    @MANY
    @given(find_cases.any_filter(), st.lists(find_cases.manifests(), min_size=1, max_size=6))
    def agree(query: dict[str, Any], documents: list[dict[str, Any]]) -> None:
        assert matched(postgres, query, documents) == [
            place for place, document in enumerate(documents) if find_reference.matches(query, document)
        ]

    agree()


def test_filters_mean_what_mongomock_means(postgres: Connection) -> None:
    @MANY
    @given(find_cases.mongomock_filter(), st.lists(find_cases.manifests(), min_size=1, max_size=6))
    def agree(query: dict[str, Any], documents: list[dict[str, Any]]) -> None:
        verdicts = [mongomock.filtering.filter_applies(query, document) for document in documents]  # type: ignore[no-untyped-call]
        assert matched(postgres, query, documents) == [place for place, verdict in enumerate(verdicts) if verdict]

    agree()


def test_the_random_cases_match_often_enough_to_prove_something(postgres: Connection) -> None:
    outcomes: list[bool] = []

    @MANY
    @given(find_cases.any_filter(), find_cases.manifests())
    def count(query: dict[str, Any], document: dict[str, Any]) -> None:
        outcomes.append(find_reference.matches(query, document))

    count()
    assert 0.1 < sum(outcomes) / len(outcomes) < 0.9
