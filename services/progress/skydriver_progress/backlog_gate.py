"""Whether a scanner that is not heard is silent: not while what scanners say waits for us, nor soon after."""

import time
from collections.abc import Awaitable, Callable

SETTLES_S = 120.0
"""What was kept elsewhere during an outage (scanners' spools, other replicas) has come by then."""
_OUTAGE_S = 120.0


class BacklogGate:
    """To be asked again and again, once a minute at least: from a longer pause it takes that there was an outage."""

    def __init__(
        self,
        is_clear: Callable[[], Awaitable[bool]],
        *,
        settles_s: float = SETTLES_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """is_clear: whether nothing waits for long that scanners have sent."""
        self._is_clear = is_clear
        self._settles_s = settles_s
        self._clock = clock
        self._asked_at = self._clear_since = clock()

    async def is_sure(self) -> bool:
        """Whether all that scanners said has been heard."""
        is_clear = await self._is_clear()
        now = self._clock()
        if not is_clear or now - self._asked_at > _OUTAGE_S:
            self._clear_since = now
        self._asked_at = now
        return is_clear and now - self._clear_since >= self._settles_s
