"""Look-ups that share a query."""

import asyncio

import pytest

from skydriver_api.reads.batched import BatchedLookup
from tests.support.waiting import let_others_run


class Database:
    """Answers when it is told to; notes what it was asked."""

    def __init__(self) -> None:
        self.queries: list[list[str]] = []
        self.open = asyncio.Event()
        self.values = {"a": 1, "b": 2}

    async def query(self, keys: list[str]) -> dict[str, int]:
        self.queries.append(keys)
        await self.open.wait()
        return {key: self.values[key] for key in keys if key in self.values}


async def _ask(lookup: BatchedLookup[str, int], *keys: str) -> list[asyncio.Task[int | None]]:
    tasks = [asyncio.create_task(lookup(key)) for key in keys]
    await let_others_run(3)
    return tasks


async def test_what_is_asked_meanwhile_goes_into_one_query() -> None:
    database = Database()
    lookup = BatchedLookup(database.query, max_concurrent=1)
    tasks = await _ask(lookup, "a")
    tasks += await _ask(lookup, "b", "a", "unknown", "b")
    database.open.set()
    assert await asyncio.gather(*tasks) == [1, 2, 1, None, 2]
    assert database.queries == [["a"], ["b", "a", "unknown"]]


async def test_an_answer_comes_from_a_query_that_began_after_the_question() -> None:
    database = Database()
    lookup = BatchedLookup(database.query, max_concurrent=1)
    before = await _ask(lookup, "a")
    after = await _ask(lookup, "a")
    database.open.set()
    await asyncio.gather(*before, *after)
    assert database.queries == [["a"], ["a"]]


async def test_a_query_takes_so_many_keys_at_most() -> None:
    database = Database()
    database.open.set()
    lookup = BatchedLookup(database.query, max_batch=2, max_concurrent=1)
    await asyncio.gather(*(lookup(key) for key in "abcde"))
    assert [len(keys) for keys in database.queries] == [2, 2, 1]


async def test_an_error_reaches_those_who_asked_and_nobody_else() -> None:
    failures = [OSError("away")]

    async def query(keys: list[str]) -> dict[str, int]:
        if failures:
            raise failures.pop()
        return dict.fromkeys(keys, 1)

    lookup = BatchedLookup(query)
    with pytest.raises(OSError, match="away"):
        await lookup("a")
    assert await lookup("a") == 1


async def test_who_gives_up_takes_nobody_along() -> None:
    database = Database()
    lookup = BatchedLookup(database.query, max_concurrent=1)
    (gone, stays) = await _ask(lookup, "a", "a")
    gone.cancel()
    database.open.set()
    assert await stays == 1
