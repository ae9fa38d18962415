"""A few tasks that empty a queue together: what comes while they are at it goes into the next round."""

import asyncio
from collections.abc import Awaitable, Callable


class OnDemandWorkers:
    """At most ``at_once`` tasks, each of which takes from the queue until there is nothing left.

    take: takes and handles some, False when the queue is empty; it must find that out without waiting, and raise nothing.
    """

    def __init__(self, take: Callable[[], Awaitable[bool]], *, at_once: int) -> None:
        self._take = take
        self._at_once = at_once
        self._working = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """Something was put in."""
        if self._working < self._at_once:
            # counted here, not by the tasks: one that found the queue empty is no help, though it is not done yet
            self._working += 1
            task = asyncio.create_task(self._empty())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _empty(self) -> None:
        try:
            while await self._take():
                pass
        finally:
            self._working -= 1
