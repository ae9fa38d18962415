"""What `watch` and `wait` make of a scan's events and states, without any connection."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from skydriver_client.errors import ScanFailed, WaitTimedOut
from skydriver_client.values import Event, Json, Status

FINISHED, ANY_RESULT = "finished", "any-result"
_RESULT = "scan.result-received"


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A scan that is being watched. events: since the update before. progress: the newest one. has_new_result: among the events."""

    status: Status
    events: tuple[Event, ...]
    progress: Json | None
    has_new_result: bool


class Watching:
    """Makes updates of events. has_result: whether the scan has had one."""

    def __init__(self) -> None:
        self.has_result = False
        self._progress: Json | None = None

    def update(self, status: Status, events: Sequence[Event]) -> Update:
        """The next update."""
        for event in events:
            progress = event.data.get("progress") if event.type == "scan.progress-reported" and event.data is not None else None
            self._progress = progress if isinstance(progress, dict) else self._progress
        is_new = any(event.type == _RESULT for event in events)
        self.has_result |= is_new
        return Update(status=status, events=tuple(events), progress=self._progress, has_new_result=is_new)

    def is_reached(self, update: Update, until: str) -> bool:
        """Whether what is waited for came true."""
        return update.status.is_complete or (until == ANY_RESULT and self.has_result)


class Deadline:
    """The end of somebody's patience. timeout_s: None: there is none."""

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self._ends_at = None if timeout_s is None else time.monotonic() + timeout_s

    @property
    def remaining_s(self) -> float | None:
        """Seconds that are left, 0.0 after the end."""
        return None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())

    def check(self, scan_id: str) -> None:
        """Raises WaitTimedOut after the end."""
        if self.remaining_s == 0.0:
            raise WaitTimedOut(f"scan {scan_id} is not there yet after {self.timeout_s:g} s; it goes on")

    def cut(self, pause_s: float) -> float:
        """A pause that does not go beyond the end."""
        return pause_s if self.remaining_s is None else min(pause_s, self.remaining_s)


def outcome(scan_id: str, status: Status) -> Status:
    """The status of a scan that is over. Raises ScanFailed when it has no final result."""
    if not status.is_complete:
        raise ScanFailed(scan_id, status.scan_state, tuple(problem.text for problem in status.problems))
    return status


def checked_condition(until: str) -> str:
    """Raises ValueError for what nobody can wait for."""
    if until not in (FINISHED, ANY_RESULT):
        raise ValueError(f"until: must be {FINISHED!r} or {ANY_RESULT!r}, not {until!r}")
    return until
