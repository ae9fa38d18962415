"""Batched look-ups: keys that are requested while queries are running go into the next query."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from skydriver_common.db.on_demand_workers import OnDemandWorkers

Key = TypeVar("Key")
Value = TypeVar("Value")


class BatchedLookup(Generic[Key, Value]):
    """Values by key, as fresh as from a query of one's own: the query starts after its keys were requested.

    query: from distinct keys to the values found. max_batch: keys per query. max_concurrent: running queries.
    """

    def __init__(
        self, query: Callable[[list[Key]], Awaitable[Mapping[Key, Value]]], *, max_batch: int = 200, max_concurrent: int = 2
    ) -> None:
        self._query = query
        self._max_batch = max_batch
        self._waiting: dict[Key, list[asyncio.Future[Value | None]]] = {}
        self._workers = OnDemandWorkers(self._take, at_once=max_concurrent)

    async def __call__(self, key: Key) -> Value | None:
        """The value, None when there is none. Raises what the query raises."""
        value: asyncio.Future[Value | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(value)
        self._workers.wake()
        return await value

    async def _take(self) -> bool:
        if not self._waiting:
            return False
        batch = {key: self._waiting.pop(key) for key in list(self._waiting)[: self._max_batch]}
        try:
            found = await self._query(list(batch))
        except Exception as error:  # noqa: BLE001 - the callers get it
            for waiter in _awaited(batch):
                waiter.set_exception(error)
            return True
        for key, waiters in batch.items():
            value = found.get(key)
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(value)
        return True


def _awaited(batch: Mapping[Key, list[asyncio.Future[Value | None]]]) -> list[asyncio.Future[Value | None]]:
    """The futures that a caller still awaits."""
    return [waiter for waiters in batch.values() for waiter in waiters if not waiter.done()]
