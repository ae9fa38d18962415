"""Look-ups that share a query: what is asked while queries are under way goes into the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class BatchedLookup(Generic[Key, Value]):
    """Answers by key, as fresh as a query of one's own: the query that answers begins after the question was asked.

    query: from distinct keys to the values found. most: keys per query. at_once: queries under way.
    """

    def __init__(
        self, query: Callable[[list[Key]], Awaitable[Mapping[Key, Value]]], *, most: int = 200, at_once: int = 2
    ) -> None:
        self._query = query
        self._most = most
        self._at_once = at_once
        self._asked: dict[Key, list[asyncio.Future[Value | None]]] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    async def __call__(self, key: Key) -> Value | None:
        """The value, None when there is none. Raises what the query raises."""
        answer: asyncio.Future[Value | None] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(key, []).append(answer)
        if len(self._under_way) < self._at_once:
            task = asyncio.create_task(self._work())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return await answer

    async def _work(self) -> None:
        while self._asked:
            batch = {key: self._asked.pop(key) for key in list(self._asked)[: self._most]}
            try:
                found = await self._query(list(batch))
            except Exception as error:  # noqa: BLE001 - whoever asked gets it
                for answer in _awaited(batch):
                    answer.set_exception(error)
            else:
                for key, answers in batch.items():
                    value = found.get(key)
                    for answer in answers:
                        if not answer.done():
                            answer.set_result(value)


def _awaited(batch: Mapping[Key, list[asyncio.Future[Value | None]]]) -> list[asyncio.Future[Value | None]]:
    """The answers that someone still waits for."""
    return [answer for answers in batch.values() for answer in answers if not answer.done()]
