"""How many commands may be in flight: under overload the next one is refused before any work is done for it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from skydriver_common.faults import TryLater

_RISE = 8.0
"""By so much the limit rises while as many commands as it allows are replied to."""


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
