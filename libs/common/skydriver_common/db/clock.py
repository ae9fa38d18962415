"""Loop step: compare this machine's clock with the database's, and say so when they differ."""

import time
from collections.abc import Callable

import structlog

from skydriver_common.clock import CLOCK, SharedClock
from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Pool

logger = structlog.get_logger(__name__)

WARN_S = 2.0
"""From this difference on the machine's clock needs to be looked after."""
_QUESTION_TIMEOUT_S = 1.0
"""A comparison that takes longer is too inexact to be used."""


class ClockComparison:
    """Notes the difference in a `SharedClock`. on_compared: called with the seconds that the database's clock is ahead, for a gauge."""

    def __init__(
        self, pool: Pool, clock: SharedClock = CLOCK, *, on_compared: Callable[[float], None] = lambda _: None,
        wall: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._pool = pool
        self._clock = clock
        self._on_compared = on_compared
        self._wall = wall

    async def step(self) -> bool:
        """Compare once. Raises TryLater."""
        began, here = time.monotonic(), self._wall()
        with database_faults():
            there = float(await self._pool.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8"))
        took_s = time.monotonic() - began
        if took_s > _QUESTION_TIMEOUT_S:
            return False
        ahead_s = there - (here + took_s / 2)
        self._clock.compared(ahead_s)
        self._on_compared(ahead_s)
        if abs(ahead_s) - took_s / 2 > WARN_S:
            logger.warning(
                "clock.differs", database_is_ahead_s=round(ahead_s, 1),
                note="The clock of this machine and the database's differ. Times in events are wrong by that much. Check NTP.",
            )  # fmt: skip
        return False
