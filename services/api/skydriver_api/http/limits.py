"""So much at once, and no more: what holds memory or connections while a client takes its time, and commands under overload."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from skydriver_common.faults import TryLater


class Share:
    """What one has of a budget. It is given back once, whole or in parts. taken: how much it was at first."""

    def __init__(self, budget: "WeightedSemaphore", amount: int) -> None:
        self._budget = budget
        self.taken = self.amount = amount

    def shrink_to(self, amount: int) -> None:
        """Give back what is more than this."""
        given = max(0, self.amount - amount)
        self.amount -= given
        self._budget._give_back(given)

    def give_back(self) -> None:
        """Give back all that is left."""
        self.shrink_to(0)


class WeightedSemaphore:
    """An amount that is lent out, first come, first served; who would have to wait too long is told to come again.

    what: is in use, for people. patience_s: how long one waits. free: what is not lent out.
    """

    def __init__(self, total: int, *, what: str, patience_s: float = 5.0) -> None:
        self.total = total
        self.free = total
        self._what = what
        self._patience_s = patience_s
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()

    async def take(self, amount: int = 1) -> Share:
        """Have this much of it (at most: all), until it is given back. Raises TryLater."""
        amount = min(amount, self.total)
        if self.free >= amount and not self._turn.locked():
            return self.take_at_once(amount)
        try:
            async with asyncio.timeout(self._patience_s), self._turn:
                while self.free < amount:
                    self._returned.clear()
                    await self._returned.wait()
                return self.take_at_once(amount)
        except TimeoutError as error:
            raise TryLater(f"too many {self._what} at once", self._patience_s) from error

    def take_at_once(self, amount: int) -> Share:
        """Have this much without waiting, also when less is free: for what can't be refused any more. Others wait for it."""
        self.free -= amount
        return Share(self, amount)

    @asynccontextmanager
    async def taking(self, amount: int = 1) -> AsyncIterator[Share]:
        """Have this much of it for the time of the block. Raises TryLater."""
        share = await self.take(amount)
        try:
            yield share
        finally:
            share.give_back()

    def _give_back(self, amount: int) -> None:
        self.free += amount
        self._returned.set()


class AdmissionLimit:
    """How many commands of one kind may wait for their replies at once; beyond that the next one is refused at once.

    A service works its queue off in order: if more were let in than it gets done within the deadline, each would be late, and all
    work in vain. What a service gets done changes with its replicas and the database, so the limit follows the replies: it rises
    slowly while they come within ``target_s``, and falls by a quarter, once per ``target_s``, when they do not (additive increase,
    multiplicative decrease). Several gateways share a service fairly that way, without knowing of each other.

    n_waiting: commands in flight. limit: how many may be.
    """

    def __init__(
        self,
        *,
        target_s: float,
        start: int = 256,
        least: int = 32,
        most: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = float(start)
        self.n_waiting = 0
        self._target_s = target_s
        self._least = least
        self._most = most
        self._clock = clock
        self._lowered_at = float("-inf")

    def check(self) -> None:
        """Raises TryLater when one more would be too many."""
        if self.n_waiting >= self.limit:
            raise TryLater("too many requests are waiting to be processed", self._target_s)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Be one of those that wait, for the time of the block; an error in it counts as no reply. Raises TryLater."""
        self.check()
        self.n_waiting += 1
        began, was_full = self._clock(), self.n_waiting > self.limit / 2
        try:
            yield
        finally:
            self.n_waiting -= 1
            took_s = self._clock() - began
            if took_s > self._target_s:
                self._lower()
            elif was_full:  # a limit that nobody comes near says nothing
                self.limit = min(self._most, self.limit + _RISE / self.limit)

    def _lower(self) -> None:
        if self._clock() - self._lowered_at >= self._target_s:
            self._lowered_at = self._clock()
            self.limit = max(self._least, self.limit * 0.75)


_RISE = 8.0
"""By so much the limit rises while as many commands as it allows are replied to."""
