"""Which scans somebody views, as the gateway reports by NOTIFY: a hint that may be lost, so it is not stored."""

from collections.abc import Awaitable, Callable, Collection

from skydriver_common.model.ids import ScanId
from skydriver_common.runtime.loops import LoopSignals

VIEWER_HINTS = "ewms-eyes"
"""The name of the loop."""
_MAX_HINTS = 5000

CountMoreOften = Callable[[Collection[ScanId]], Awaitable[bool]]
"""Called with scan ids; true when one of them was not viewed before."""


class ViewerHints:
    """Gathers hints, as the callback of a listener, and passes them on together, as a loop step."""

    def __init__(self, count_more_often: CountMoreOften, wake_workforce: Callable[[], None], pulse: LoopSignals) -> None:
        self._count_more_often = count_more_often
        self._wake_workforce = wake_workforce
        self._pulse = pulse
        self._seen: set[ScanId] = set()

    def seen(self, scan_id: str) -> None:
        """Note that somebody views this scan; empty: none, the listener has just connected."""
        if scan_id and len(self._seen) < _MAX_HINTS:
            self._seen.add(ScanId(scan_id))
            self._pulse.wake()

    async def step(self) -> bool:
        """Pass the hints on. Raises TryLater; they are dropped then, and the next view brings new ones."""
        seen, self._seen = self._seen, set()
        if seen and await self._count_more_often(seen):
            self._wake_workforce()
        return False
