"""Random documents in the shape of Manifests and random find filters over them, for hypothesis."""

from typing import Any

from hypothesis import strategies as st

# Few values and few keys, so that filters match often. No 0 and 1: to Python, and so to mongomock, they equal booleans.
NUMBERS = st.sampled_from([2, 2.0, 2.5, 3, -4, 7, -7.5, 5_000_000_000])
TEXTS = st.sampled_from(["", "a", "b", "ab", "B", "é", "a\nb", "2", "😀", "\uffee"])
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
KEYS = st.sampled_from(["a", "b", "2"])


def values(depth: int = 3) -> st.SearchStrategy[Any]:
    """Free-form JSON: scalars, arrays (also of arrays and objects), objects."""
    if depth == 0:
        return SCALARS
    inner = values(depth - 1)
    return st.one_of(
        SCALARS,
        st.lists(inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=3),
        st.lists(st.dictionaries(KEYS, inner), max_size=2),
    )


@st.composite
def manifests(draw: st.DrawFn) -> dict[str, Any]:
    """A document whose looked-up parts have the shapes of REST contract 5.1; `free` and two parts below others are free-form."""
    metadata = st.fixed_dictionaries({"run_id": NUMBERS.filter(lambda n: isinstance(n, int)), "is_real_event": st.booleans()})
    stats = st.fixed_dictionaries({"finished": st.booleans(), "rate": values(2)})
    return {
        "scan_id": draw(st.sampled_from(["s2", "s3", "s4"])),
        "timestamp": draw(NUMBERS.map(float)),
        "is_deleted": draw(st.booleans()),
        "ewms_workflow_id": draw(st.one_of(st.none(), TEXTS)),
        "classifiers": draw(st.dictionaries(KEYS, st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=3)),
        "labels": draw(st.dictionaries(KEYS, st.lists(SCALARS, max_size=3), max_size=3)),
        "i3_event_id": draw(TEXTS),
        "event_metadata": draw(st.one_of(st.none(), metadata)),
        "scan_metadata": draw(values(3)),
        "progress": draw(st.one_of(st.none(), st.fixed_dictionaries({"processing_stats": stats, "tallies": values(2)}))),
        "free": draw(values(3)),
    }


SIMPLE_PATHS = [
    "scan_id",
    "timestamp",
    "is_deleted",
    "ewms_workflow_id",
    "i3_event_id",
    "free",
    "scan_metadata",
    "progress",
    "none",
]
DOTTED_PATHS = [
    *("classifiers.a", "classifiers.b", "event_metadata.run_id", "event_metadata.is_real_event", "none.a", "timestamp.a"),
    *("progress.processing_stats.finished", "progress.processing_stats.rate.a", "progress.tallies.b"),
    *("free.a", "free.b", "free.a.b", "free.a.a.b", "scan_metadata.a", "scan_metadata.b.a"),
]
PLACED_PATHS = ["free.0", "free.2", "free.a.0", "free.0.a", "free.0.0", "free.1.2.a", "scan_metadata.2", "free.-1", "free.02"]
FLAT_PATHS = ["classifiers.a", "classifiers.b", "classifiers.none", "labels.a"]
"""Through objects alone, to plain values or flat arrays of them."""
FLAT_PLACES = ["classifiers.a.0", "classifiers.a.2", "labels.a.0", "labels.a.1", "labels.b.7"]
ARRAY_PATHS = ["labels.a", "labels.b"]
"""To arrays, or nothing."""
ORDERS = ["$gt", "$gte", "$lt", "$lte"]
REGEXES = st.sampled_from(["a", "^a", "b$", "^$", "A|B", "a.b", r"\w", "[^a]", "(a|b)+"])
TYPES = ["double", "string", "object", "array", "bool", "int", "long", "number"]


def regex_operators(patterns: st.SearchStrategy[str] = REGEXES) -> st.SearchStrategy[dict[str, Any]]:
    options = st.sampled_from(["", "i", "m", "s", "im", "x"])
    return st.builds(lambda pattern, letters: {"$regex": pattern, "$options": letters}, patterns, options)


def merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}


def any_filter(depth: int = 2) -> st.SearchStrategy[dict[str, Any]]:
    """Every operator in every position the contract allows."""
    paths = st.sampled_from(SIMPLE_PATHS + DOTTED_PATHS + PLACED_PATHS)
    field = st.builds(lambda path, test: {path: test}, paths, st.one_of(values(2), operators(depth)))
    return _logical(field, depth)


def operators(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    choices = [
        st.builds(lambda name, value: {name: value}, st.sampled_from(["$eq", "$ne"]), values(2)),
        st.builds(lambda name, value: {name: value}, st.sampled_from(ORDERS), SCALARS),
        st.builds(lambda name, value: {name: value}, st.sampled_from(["$in", "$nin"]), st.lists(values(2), max_size=4)),
        st.builds(lambda value: {"$exists": value}, st.booleans()),
        st.builds(lambda value: {"$type": value}, st.sampled_from([*TYPES, "null"])),
        st.builds(lambda value: {"$type": value}, st.lists(st.sampled_from([*TYPES, "null"]), min_size=1, max_size=2)),
        regex_operators(),
        st.builds(lambda d, r: {"$mod": [d, r]}, st.sampled_from([2, 3, -3]), st.sampled_from([0, 1, -1, 2])),
        st.builds(lambda value: {"$all": value}, st.lists(values(1), max_size=2)),
        st.builds(lambda value: {"$size": value}, st.integers(0, 3)),
    ]
    if depth > 0:
        elements = st.one_of(operators(depth - 1), _elements_filter(depth - 1))
        choices.append(st.builds(lambda value: {"$elemMatch": value}, elements))
        choices.append(st.builds(lambda value: {"$all": [{"$elemMatch": value}]}, elements))
        choices.append(st.builds(lambda value: {"$not": value}, operators(depth - 1)))
    return st.lists(st.one_of(choices), min_size=1, max_size=2).map(merged)


def _elements_filter(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    paths = st.sampled_from(["a", "b", "a.b", "0", "2"])
    return _logical(st.builds(lambda path, test: {path: test}, paths, st.one_of(values(1), operators(depth))), depth)


def _logical(field: st.SearchStrategy[dict[str, Any]], depth: int) -> st.SearchStrategy[dict[str, Any]]:
    level = st.lists(field, min_size=0, max_size=2).map(merged)
    for _ in range(depth):
        lists = st.lists(level, min_size=1, max_size=3)
        joined = st.builds(lambda name, parts: {name: parts}, st.sampled_from(["$and", "$or", "$nor"]), lists)
        level = st.one_of(level, joined, st.builds(lambda a, b: {**a, **b}, field, joined))
    return level


def mongomock_filter() -> st.SearchStrategy[dict[str, Any]]:
    """The filters on which mongomock 4.3 follows MongoDB and the contract.

    Left out, with what mongomock does:

    * `$mod` (unknown); `$type` with an array (crashes) or `null` (unknown); comparison with null (never matches); `{}` (matches
      missing);
    * `$size` but where there is an array or nothing (it counts objects, and scalars as 1); `$all` but of plain values in flat
      arrays (it flattens nested ones);
    * `$eq` and `$in` with arrays: don't look for the array inside an array (implicit equality does);
    * places in arrays but those in flat ones: `a.0` doesn't reach objects, `a.-1` counts from the end;
    * null, `$exists: false` and negations on dotted paths but those through objects alone: a path through a scalar gives no
      candidate, and through an array one candidate of several decides;
    * several operators on one dotted path: must be fulfilled by the same element; `$ne` and `$nin` beside other operators;
    * `$options` within `$not` (refused);
    * `$elemMatch` with operators (looks into nested arrays) or negations (match scalars);
    * the numbers 0 and 1 beside booleans: equal in Python.
    """
    texts = st.one_of(st.booleans(), NUMBERS, TEXTS)
    positive = [
        st.builds(lambda value: {"$eq": value}, texts),
        st.builds(lambda name, value: {name: value}, st.sampled_from(ORDERS), texts),
        st.builds(lambda value: {"$in": value}, st.lists(texts, max_size=4)),
        st.builds(lambda value: {"$type": value}, st.sampled_from(TYPES)),
        st.just({"$exists": True}),
        regex_operators(REGEXES.filter(lambda pattern: pattern != r"\w")),  # ASCII for PCRE and here, not in Python
    ]
    one = st.one_of(positive)
    several = st.lists(one, min_size=1, max_size=3).map(merged)
    alone = st.one_of(
        st.builds(lambda value: {"$ne": value}, SCALARS),
        st.builds(lambda value: {"$nin": value}, st.lists(SCALARS, max_size=4)),
        st.builds(lambda value: {"$in": value}, st.lists(SCALARS, max_size=4)),
        st.builds(lambda value: {"$not": value}, one.filter(lambda operator: "$options" not in operator)),
        st.just({"$exists": False}),
        st.none(),
    )
    all_of = st.builds(lambda items: {"$all": items}, st.lists(texts, max_size=3))
    inner = st.dictionaries(st.sampled_from(["a", "b"]), st.one_of(texts, one), min_size=1, max_size=2)
    elements = st.builds(lambda query: {"$elemMatch": query}, inner)
    containers = st.one_of(st.lists(values(1), max_size=3), st.dictionaries(KEYS, values(1), min_size=1, max_size=2))
    simple = st.builds(
        lambda path, test: {path: test}, st.sampled_from(SIMPLE_PATHS), st.one_of(texts, several, alone, elements, containers)
    )
    dotted = st.builds(
        lambda path, test: {path: test}, st.sampled_from(DOTTED_PATHS), st.one_of(texts, one, elements, containers)
    )
    flat = st.builds(lambda path, test: {path: test}, st.sampled_from(FLAT_PATHS), st.one_of(texts, one, alone, all_of))
    placed = st.builds(
        lambda path, test: {path: test}, st.sampled_from(FLAT_PLACES), st.one_of(texts, positive[0], positive[1])
    )
    sized = st.builds(lambda path, size: {path: {"$size": size}}, st.sampled_from(ARRAY_PATHS), st.integers(0, 3))
    return _logical(st.one_of(simple, dotted, flat, placed, sized), 2)
