"""What the dispatcher needs from where scanner servers run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from skydriver_common.model.scan import Scan


class LaunchRefused(Exception):
    """Starting this scanner server will never work as asked; the text says why, for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannerExit:
    """A scanner server has ended. exit_code: None when nobody knows. log_tail: the last lines it wrote."""

    scan_id: str
    exit_code: int | None
    log_tail: str


class Launcher(Protocol):
    """Starts and stops scanner servers, one per scan; starting one that runs is a success."""

    name: str

    async def launch(self, scan: Scan) -> str:
        """Start the scan's scanner server and return the job's name. Raises TryLater, LaunchRefused."""

    async def stop(self, scan_id: str) -> None:
        """End the scan's scanner server, if there is one. Raises TryLater."""

    async def running(self) -> set[str]:
        """Ids of the scans whose scanner server runs now. Raises TryLater."""

    def next_exit(self) -> ScannerExit | None:
        """The next end of a scanner server that nobody asked for, or None. Each is given once."""

    def on_exit(self, wake: Callable[[], None]) -> None:
        """Call this whenever there may be an exit to take."""
