"""Who looks at which scan, as the gateway says by NOTIFY: a hint that may be lost, so nothing of it is kept."""

from collections.abc import Awaitable, Callable, Collection

from skydriver_common.model.ids import ScanId
from skydriver_common.runtime.loops import LoopSignals

EYES = "ewms-eyes"
"""The name of the loop."""
_MOST = 5000

LookMore = Callable[[Collection[ScanId]], Awaitable[bool]]
"""Given scan ids; true when somebody's look is news."""


class ViewerHints:
    """Gathers hints, as the callback of a listener, and passes them on together, as a loop step."""

    def __init__(self, look_more: LookMore, wake_workforce: Callable[[], None], pulse: LoopSignals) -> None:
        self._look_more = look_more
        self._wake_workforce = wake_workforce
        self._pulse = pulse
        self._seen: set[ScanId] = set()

    def seen(self, scan_id: str) -> None:
        """Somebody looks at this scan; empty: at nothing, the listener has just connected."""
        if scan_id and len(self._seen) < _MOST:
            self._seen.add(ScanId(scan_id))
            self._pulse.wake()

    async def step(self) -> bool:
        """Pass the hints on. Raises TryLater; they are forgotten then, the next look says so again."""
        seen, self._seen = self._seen, set()
        if seen and await self._look_more(seen):
            self._wake_workforce()
        return False
