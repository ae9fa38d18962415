"""Limits on what holds memory or connections while a client takes its time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from skydriver_common.faults import TryLater


class Permit:
    """What a holder has of a semaphore. It is released once, whole or in parts. acquired: how much it was at first."""

    def __init__(self, semaphore: "WeightedSemaphore", amount: int) -> None:
        self._semaphore = semaphore
        self.acquired = self.amount = amount

    def shrink_to(self, amount: int) -> None:
        """Release what is more than this."""
        released = max(0, self.amount - amount)
        self.amount -= released
        self._semaphore._release(released)

    def release(self) -> None:
        """Release all that is left."""
        self.shrink_to(0)


class WeightedSemaphore:
    """An amount that holders share, first come, first served. Who would wait longer than ``max_wait_s`` gets TryLater.

    what: is limited, for people. available: what nobody holds.
    """

    def __init__(self, total: int, *, what: str, max_wait_s: float = 5.0) -> None:
        self.total = total
        self.available = total
        self._what = what
        self._max_wait_s = max_wait_s
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()

    async def acquire(self, amount: int = 1) -> Permit:
        """Hold this much (at most: all) until the permit is released. Raises TryLater."""
        amount = min(amount, self.total)
        if self.available >= amount and not self._turn.locked():
            return self.acquire_now(amount)
        try:
            async with asyncio.timeout(self._max_wait_s), self._turn:
                while self.available < amount:
                    self._returned.clear()
                    await self._returned.wait()
                return self.acquire_now(amount)
        except TimeoutError as error:
            raise TryLater(f"too many concurrent {self._what}", self._max_wait_s) from error

    def acquire_now(self, amount: int) -> Permit:
        """Hold this much without waiting, also when less is available: for what cannot be refused any more. Others wait for it."""
        self.available -= amount
        return Permit(self, amount)

    @asynccontextmanager
    async def hold(self, amount: int = 1) -> AsyncIterator[Permit]:
        """Hold this much for the time of the block. Raises TryLater."""
        permit = await self.acquire(amount)
        try:
            yield permit
        finally:
            permit.release()

    def _release(self, amount: int) -> None:
        self.available += amount
        self._returned.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimits:
    """Bytes in memory at once: of large request bodies, of responses above 1 MiB, of smaller ones."""

    request_bodies: WeightedSemaphore
    large_responses: WeightedSemaphore
    small_responses: WeightedSemaphore


MEMORY = web.AppKey("memory", MemoryLimits)
