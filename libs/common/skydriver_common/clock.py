"""The time that all processes agree on: the database's clock, as this machine's clock was compared with it last.

Only what is exchanged between processes as an instant needs it, such as the deadline of a command. Leases and due times are reckoned
within the database (``db/schedule.py``), lengths of time by the monotonic clock.
"""

import time
from datetime import UTC, datetime

NEGLIGIBLE_S = 0.5
"""Clocks that differ by less are the same: a comparison is hardly more exact."""


class SharedClock:
    """This machine's clock, corrected by what it was found to be off."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    @property
    def ahead_s(self) -> float:
        """Seconds by which the database's clock is ahead of this machine's; 0.0 while that is negligible or not known."""
        return self._ahead_s

    def compared(self, ahead_s: float) -> None:
        """Note how many seconds the database's clock is ahead."""
        self._ahead_s = ahead_s if abs(ahead_s) >= NEGLIGIBLE_S else 0.0

    def time_s(self) -> float:
        """Unix seconds by the database's clock."""
        return time.time() + self._ahead_s

    def now(self) -> datetime:
        """The same as a moment, in UTC."""
        return datetime.fromtimestamp(self.time_s(), UTC)


CLOCK = SharedClock()
"""Of this process, which has one database."""
