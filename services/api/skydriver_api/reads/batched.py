"""Look-ups that share a query: what is asked while queries are under way goes into the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from skydriver_common.db.on_demand_workers import OnDemandWorkers

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
        self._asked: dict[Key, list[asyncio.Future[Value | None]]] = {}
        self._drain = OnDemandWorkers(self._take, at_once=at_once)

    async def __call__(self, key: Key) -> Value | None:
        """The value, None when there is none. Raises what the query raises."""
        answer: asyncio.Future[Value | None] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(key, []).append(answer)
        self._drain.wake()
        return await answer

    async def _take(self) -> bool:
        if not self._asked:
            return False
        batch = {key: self._asked.pop(key) for key in list(self._asked)[: self._most]}
        try:
            found = await self._query(list(batch))
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            for answer in _awaited(batch):
                answer.set_exception(error)
            return True
        for key, answers in batch.items():
            value = found.get(key)
            for answer in answers:
                if not answer.done():
                    answer.set_result(value)
        return True


def _awaited(batch: Mapping[Key, list[asyncio.Future[Value | None]]]) -> list[asyncio.Future[Value | None]]:
    """The answers that someone still waits for."""
    return [answer for answers in batch.values() for answer in answers if not answer.done()]
