"""Whether silence of a scanner may be judged: not while scanners' messages wait for this service, nor soon after."""

import time
from collections.abc import Awaitable, Callable

SETTLE_TIME_S = 120.0
"""Messages that were held elsewhere during an outage (in scanners' spools, by other replicas) have arrived by then."""
_OUTAGE_AFTER_S = 120.0


class BacklogGate:
    """Open once there was no backlog for a while. To be asked once a minute at least: a longer pause counts as an outage."""

    def __init__(
        self,
        has_no_backlog: Callable[[], Awaitable[bool]],
        *,
        settle_time_s: float = SETTLE_TIME_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """has_no_backlog: whether none of the scanners' messages wait for long."""
        self._has_no_backlog = has_no_backlog
        self._settle_time_s = settle_time_s
        self._clock = clock
        self._checked_at = self._clear_since = clock()

    async def is_open(self) -> bool:
        """Whether everything that scanners sent has been handled."""
        is_clear = await self._has_no_backlog()
        now = self._clock()
        if not is_clear or now - self._checked_at > _OUTAGE_AFTER_S:
            self._clear_since = now
        self._checked_at = now
        return is_clear and now - self._clear_since >= self._settle_time_s
