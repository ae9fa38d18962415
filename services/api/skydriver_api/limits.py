"""So much at once, and no more: what holds memory or connections while a client takes its time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from skydriver_common.faults import TryLater


class Budget:
    """An amount that is lent out, first come, first served; who would have to wait too long is told to come again.

    what: is in use, for people. patience_s: how long one waits. free: what is not lent out.
    """

    def __init__(self, total: int, *, what: str, patience_s: float = 5.0) -> None:
        self._total = total
        self.free = total
        self._what = what
        self._patience_s = patience_s
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()

    @asynccontextmanager
    async def taking(self, amount: int = 1) -> AsyncIterator[None]:
        """Have this much of it (at most: all) for the time of the block. Raises TryLater."""
        amount = min(amount, self._total)
        try:
            async with asyncio.timeout(self._patience_s), self._turn:
                while self.free < amount:
                    self._returned.clear()
                    await self._returned.wait()
                self.free -= amount
        except TimeoutError as error:
            raise TryLater(f"too many {self._what} at once", self._patience_s) from error
        try:
            yield
        finally:
            self.free += amount
            self._returned.set()
