"""What a launcher has observed and nobody has handled yet: at most one event per scan, the newest."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from skydriver_common.model.ids import ScanId
from skydriver_dispatcher.launcher_events import CapacityFreed, LauncherEvent, ScannerExit, ScannerStatus

MAX_TRIES = 5
_PAUSES_S = (1.0, 4.0, 15.0, 60.0)
"""Before the second and each later try of an event whose handling failed."""


@dataclass(frozen=True, slots=True)
class _Delayed:
    event: ScannerExit | ScannerStatus
    failures: int
    due_at: float


class PendingEvents:
    """Bounded by the number of scans that have a scanner server, whatever the rate of updates: a newer stage replaces an older one,
    an exit replaces every stage and is replaced by none.

    One consumer: it takes an event, and puts it back when it could not handle it; after ``clear`` that has no effect.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._events: dict[ScanId, ScannerExit | ScannerStatus] = {}
        self._delayed: dict[ScanId, _Delayed] = {}
        self._has_capacity = False
        self._taken: tuple[LauncherEvent, int] | None = None
        self._wake: list[Callable[[], None]] = []

    def put(self, event: LauncherEvent) -> None:
        """Keep the event, and wake whoever handles it."""
        if isinstance(event, CapacityFreed):
            self._has_capacity = True
        elif not self._has_exit(event.scan_id):
            self._delayed.pop(event.scan_id, None)
            self._events[event.scan_id] = event
        for wake in self._wake:
            wake()

    def take(self) -> LauncherEvent | None:
        """Return the oldest event, or None: there is none, or the consumer has to wait (``seconds_to_next``)."""
        event, failures = self._next()
        self._taken = None if event is None else (event, failures)
        return event

    def put_back(self, event: LauncherEvent, *, has_failed: bool) -> bool:
        """Keep what was just taken for another try; return False when it has failed too often and is dropped.

        has_failed: handling it raised an error; it waits longer each time, and others come first. Otherwise something was
        unavailable, which is not the event's fault.
        """
        taken, self._taken = self._taken, None
        if taken is None or taken[0] is not event:
            return True  # cleared meanwhile: whoever watches now observes it all again
        failures = taken[1] + has_failed
        if failures >= MAX_TRIES or (has_failed and isinstance(event, CapacityFreed)):  # a hint: nothing waits for it alone
            return False
        if isinstance(event, CapacityFreed):
            self._has_capacity = True
        elif not self._has_exit(event.scan_id) and (isinstance(event, ScannerExit) or event.scan_id not in self._events):
            self._events.pop(event.scan_id, None)
            pause_s = _PAUSES_S[failures - 1] if has_failed else 0.0
            self._delayed[event.scan_id] = _Delayed(event, failures, self._clock() + pause_s)
        return True

    def seconds_to_next(self) -> float | None:
        """Return the seconds until an event that was put back can be taken again; None: there is none."""
        due_at = min((delayed.due_at for delayed in self._delayed.values()), default=None)
        return None if due_at is None else max(0.0, due_at - self._clock())

    def exited_scans(self) -> set[ScanId]:
        """Return the scans whose exit is known and not yet handled, the one just taken included."""
        taken = [self._taken[0]] if self._taken else []
        every = (*self._events.values(), *(delayed.event for delayed in self._delayed.values()), *taken)
        return {event.scan_id for event in every if isinstance(event, ScannerExit)}

    def on_event(self, wake: Callable[[], None]) -> None:
        """Call this at each event."""
        self._wake.append(wake)

    def clear(self) -> None:
        """Forget everything: another replica watches now, and observes it all itself."""
        self._events.clear()
        self._delayed.clear()
        self._has_capacity, self._taken = False, None

    def _next(self) -> tuple[LauncherEvent | None, int]:
        if self._has_capacity:
            self._has_capacity = False
            return CapacityFreed(), 0
        now = self._clock()
        for scan_id, delayed in self._delayed.items():
            if delayed.due_at <= now:
                del self._delayed[scan_id]
                return delayed.event, delayed.failures
        if not self._events:
            return None, 0
        return self._events.pop(next(iter(self._events))), 0

    def _has_exit(self, scan_id: ScanId) -> bool:
        delayed = self._delayed.get(scan_id)
        return isinstance(self._events.get(scan_id), ScannerExit) or (
            delayed is not None and isinstance(delayed.event, ScannerExit)
        )
