"""Limits how many calls to EWMS run at a time, the most urgent first: after an outage everything is due at once.

It knows nothing of EWMS. One per process; the number of calls at a time grows again second by second after an outage.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

Urgency = tuple[int, int]
"""(class, minus the scan's priority): the smaller goes first."""

USER_WAITS: Urgency = (0, 0)
_urgency: ContextVar[Urgency] = ContextVar("urgency", default=USER_WAITS)


@contextmanager
def urgent(urgency: Urgency) -> Iterator[None]:
    """Calls within are of this urgency; without it, a user waits for the response."""
    token = _urgency.set(urgency)
    try:
        yield
    finally:
        _urgency.reset(token)


class PriorityLimiter:
    """most: calls at a time while all is well."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside = 0
        self._waiting: list[tuple[Urgency, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._since: float | None = None

    def narrow(self, seconds_ago: float | None) -> None:
        """An outage ended so long ago: one call at a time from then, one more each second. None: no outage."""
        self._since = None if seconds_ago is None else time.monotonic() - seconds_ago

    @property
    def width(self) -> int:
        """How many may be inside now."""
        if self._since is None:
            return self._most
        return max(1, min(self._most, 1 + int(time.monotonic() - self._since)))

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[bool]:
        """Wait until there is room; true when there was a wait. The urgency is that of the caller's context."""
        has_waited = self._inside >= self.width or bool(self._waiting)
        if has_waited:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (_urgency.get(), next(self._numbers), turn))
            self._let_in()
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()  # room was just given to us: pass it on
                raise
        else:
            self._inside += 1
        try:
            yield has_waited
        finally:
            self._leave()

    def _leave(self) -> None:
        self._inside -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._inside < self.width:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():  # else its caller has given up
                self._inside += 1
                turn.set_result(None)
