"""What the dispatcher needs from where scanner servers run."""

from typing import Protocol

from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_dispatcher.launcher_events import ScannerExit, ScannerStatus
from skydriver_dispatcher.pending_events import PendingEvents


class LaunchRejected(Exception):
    """Starting this scanner server will not work as asked; the text says why, for the user.

    is_final: False, if it may be allowed a little later; each such rejection uses up an attempt.
    """

    def __init__(self, reason: str, *, is_final: bool = True) -> None:
        super().__init__(reason)
        self.is_final = is_final


class CapacityExceeded(TryLater):
    """There is no capacity for one more scanner server now; there may be when another one has ended."""


class Launcher(Protocol):
    """Starts and stops scanner servers, one per scan; starting one that runs is a success."""

    name: str
    can_restart_in_place: bool
    """Whether ``launch`` may start a scan's scanner server again after it has ended; else it takes a new scan."""
    events: PendingEvents
    """What it has observed. An exit that ``stop`` asked for may be left out."""

    async def launch(self, scan: Scan) -> str:
        """Start the scan's scanner server and return the job's name. Raises TryLater (CapacityExceeded), LaunchRejected."""

    async def stop(self, scan_id: ScanId) -> None:
        """End the scan's scanner server, if there is one. Raises TryLater."""

    async def running_scans(self) -> dict[ScanId, bool]:
        """Return the scans that have a scanner server, and whether it runs.

        One that has ended is among them as long as its exit is still to be handled. Raises TryLater.
        """

    async def missing_prerequisite(self, scan_id: ScanId) -> str:
        """Return, in words, what a scanner server lacks so that it can never start; empty: nothing. Raises TryLater."""

    async def survey(self) -> list[ScannerExit | ScannerStatus]:
        """Read again how each scanner server is, as far as ``events`` could have missed it. Raises TryLater."""
