"""The filter evaluator agrees with an independent one."""

from typing import Any

import mongomock
import pytest

from skydriver_sandbox.ewms.mongo import BadFilterError, matches

DOCUMENTS: list[dict[str, Any]] = [
    {"n": 0, "task_env": {"ID": "a"}, "timestamp": 1.5, "phase": "condor-submit", "on": True},
    {"n": 1, "task_env": {"ID": "b"}, "timestamp": 2, "phase": "pre-launch", "on": False, "tags": ["x", "y"]},
    {"n": 2, "task_env": {}, "timestamp": None, "phase": 3, "log": [{"ok": True, "t": 1}, {"ok": False, "t": 5}]},
    {"n": 3, "timestamp": "2", "tags": [], "deep": {"a": [{"b": [1, 2]}]}},
]


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"task_env.ID": "a"},
        {"task_env.ID": None},
        {"timestamp": {"$gte": 1.5}},
        {"timestamp": {"$gt": 1.5, "$lt": 3}},
        {"timestamp": {"$lte": 2}},
        {"timestamp": "2"},
        {"phase": {"$in": ["condor-submit", 3]}},
        {"phase": {"$nin": ["condor-submit", 3]}},
        {"phase": {"$ne": "pre-launch"}},
        {"phase": {"$eq": 3}},
        {"tags": {"$exists": True}},
        {"tags": {"$exists": False}},
        {"task_env.ID": {"$exists": False}},
        {"tags": "x"},
        {"tags": ["x", "y"]},
        {"tags": {"$in": ["y"]}},
        {"log.ok": False},
        {"log.t": {"$gt": 4}},
        {"log.0.t": 1},
        {"deep.a.b": 2},
        {"n": {"$not": {"$gt": 1}}},
        {"$and": [{"n": {"$gt": 0}}, {"n": {"$lt": 3}}]},
        {"$or": [{"n": 0}, {"tags": "x"}]},
        {"$nor": [{"n": 0}, {"tags": "x"}]},
        {"n": 1, "$or": [{"n": 0}, {"n": 1}]},
        {"task_env": {"ID": "a"}},
    ],
    ids=str,
)
def test_filters_select_what_mongodb_selects(query: dict[str, Any]) -> None:
    collection = mongomock.MongoClient().db.collection
    collection.insert_many([dict(document) for document in DOCUMENTS])
    expected = [document["n"] for document in collection.find(query)]
    assert [document["n"] for document in DOCUMENTS if matches(document, query)] == expected


def test_true_is_not_the_number_one() -> None:
    assert not matches({"a": 1}, {"a": True})
    assert not matches({"a": True}, {"a": {"$gte": 1}})


@pytest.mark.parametrize(
    "query",
    [{"$where": "1"}, {"a": {"$regex": "x"}}, {"a": {"$in": 1}}, {"$and": {}}, {"$or": []}, {"$or": [1]}, {"a": {"$not": 1}}],
    ids=str,
)
def test_filters_mongodb_refuses_are_refused(query: dict[str, Any]) -> None:
    with pytest.raises(BadFilterError):
        matches({"a": 1}, query)
