"""What a launcher has seen and nobody has handled yet: at most one piece of news per scan, the newest."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from skydriver_common.model.ids import ScanId
from skydriver_dispatcher.ports import CapacityFreed, LauncherEvent, ScannerExit, ScannerStatus

MAX_TRIES = 5
_PAUSES_S = (1.0, 4.0, 15.0, 60.0)
"""Before the second and each later try of news whose handling broke."""


@dataclass(frozen=True, slots=True)
class _Delayed:
    news: ScannerExit | ScannerStatus
    failures: int
    due_at: float


class PendingEvents:
    """Bounded by the number of scans that have a scanner server, whatever the rate of updates: a newer stage replaces an older one,
    an end replaces every stage and is replaced by none.

    One consumer: it takes a piece of news, and puts it back when it could not handle it. ``clear`` makes what it holds worthless.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._news: dict[ScanId, ScannerExit | ScannerStatus] = {}
        self._delayed: dict[ScanId, _Delayed] = {}
        self._has_room = False
        self._taken: tuple[LauncherEvent, int] | None = None
        self._wake: list[Callable[[], None]] = []

    def put(self, news: LauncherEvent) -> None:
        """Note it down, and wake who handles it."""
        if isinstance(news, CapacityFreed):
            self._has_room = True
        elif not self._has_end(news.scan_id):
            self._delayed.pop(news.scan_id, None)
            self._news[news.scan_id] = news
        for wake in self._wake:
            wake()

    def take(self) -> LauncherEvent | None:
        """The oldest scan's news, or None: there is none, or the consumer has to wait (``seconds_to_next``)."""
        news, failures = self._next()
        self._taken = None if news is None else (news, failures)
        return news

    def put_back(self, news: LauncherEvent, *, has_failed: bool) -> bool:
        """Keep what was just taken for another try. False: it has failed too often and is given up.

        has_failed: handling it broke; it waits for longer each time, and others come first. Else something was unavailable, which is
        nothing that the news could be blamed for.
        """
        taken, self._taken = self._taken, None
        if taken is None or taken[0] is not news:
            return True  # cleared meanwhile: whoever watches now sees it all again
        failures = taken[1] + has_failed
        if failures >= MAX_TRIES or (has_failed and isinstance(news, CapacityFreed)):  # a hint: nothing waits for it alone
            return False
        if isinstance(news, CapacityFreed):
            self._has_room = True
        elif not self._has_end(news.scan_id) and (isinstance(news, ScannerExit) or news.scan_id not in self._news):
            self._news.pop(news.scan_id, None)
            pause_s = _PAUSES_S[failures - 1] if has_failed else 0.0
            self._delayed[news.scan_id] = _Delayed(news, failures, self._clock() + pause_s)
        return True

    def seconds_to_next(self) -> float | None:
        """Until news that were put back can be taken again, None: there are none."""
        due_at = min((delayed.due_at for delayed in self._delayed.values()), default=None)
        return None if due_at is None else max(0.0, due_at - self._clock())

    def ends(self) -> set[ScanId]:
        """Scans whose end is known and not yet handled, the one in hand included."""
        taken = [self._taken[0]] if self._taken else []
        every = (*self._news.values(), *(delayed.news for delayed in self._delayed.values()), *taken)
        return {news.scan_id for news in every if isinstance(news, ScannerExit)}

    def on_event(self, wake: Callable[[], None]) -> None:
        """Call this at each piece of news."""
        self._wake.append(wake)

    def clear(self) -> None:
        """Forget everything: another replica watches now, and sees it all itself."""
        self._news.clear()
        self._delayed.clear()
        self._has_room, self._taken = False, None

    def _next(self) -> tuple[LauncherEvent | None, int]:
        if self._has_room:
            self._has_room = False
            return CapacityFreed(), 0
        now = self._clock()
        for scan_id, delayed in self._delayed.items():
            if delayed.due_at <= now:
                del self._delayed[scan_id]
                return delayed.news, delayed.failures
        if not self._news:
            return None, 0
        return self._news.pop(next(iter(self._news))), 0

    def _has_end(self, scan_id: ScanId) -> bool:
        delayed = self._delayed.get(scan_id)
        return isinstance(self._news.get(scan_id), ScannerExit) or (
            delayed is not None and isinstance(delayed.news, ScannerExit)
        )
