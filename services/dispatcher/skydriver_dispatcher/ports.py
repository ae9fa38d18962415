"""What the dispatcher needs from where scanner servers run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_common.model.stages import ScannerStage

if TYPE_CHECKING:
    from skydriver_dispatcher.launcher_events import PendingEvents


class LaunchRefused(Exception):
    """Starting this scanner server will not work as asked; the text says why, for the user.

    is_final: False, if it may be allowed a little later; each such refusal uses up an attempt.
    """

    def __init__(self, reason: str, *, is_final: bool = True) -> None:
        super().__init__(reason)
        self.is_final = is_final


class CapacityExceeded(TryLater):
    """There is no room for one more scanner server now; there may be when another one has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannerExit:
    """A scanner server has ended.

    exit_code: None when nobody knows. log_tail: the last lines it wrote. cause: in words, where the launcher knows more than
    the exit code. was_taken: something from outside ended it, so that another try can do better.
    """

    scan_id: ScanId
    exit_code: int | None
    log_tail: str
    cause: str = ""
    was_taken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannerStatus:
    """How far a scanner server is on its way to running.

    code: a ``ProblemCode``; text: what holds it up. Both are empty while nothing does.
    """

    scan_id: ScanId
    stage: ScannerStage
    code: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class CapacityFreed:
    """Something that took up room is gone for good."""


LauncherEvent = ScannerExit | ScannerStatus | CapacityFreed


class Launcher(Protocol):
    """Starts and stops scanner servers, one per scan; starting one that runs is a success."""

    name: str
    can_restart_in_place: bool
    """Whether ``launch`` may start a scan's scanner server again after it has ended; else it takes a new scan."""
    news: "PendingEvents"
    """What it has seen. An end that ``stop`` asked for may be left out."""

    async def launch(self, scan: Scan) -> str:
        """Start the scan's scanner server and return the job's name. Raises TryLater (NoRoom), LaunchRefused."""

    async def stop(self, scan_id: ScanId) -> None:
        """End the scan's scanner server, if there is one. Raises TryLater."""

    async def running_scans(self) -> dict[ScanId, bool]:
        """Scans that have a scanner server, and whether it runs; one whose end is still to be told counts. Raises TryLater."""

    async def missing_prerequisite(self, scan_id: ScanId) -> str:
        """What a scanner server that has not started waits for in vain, in words; empty: nothing. Raises TryLater."""

    async def survey(self) -> list[ScannerExit | ScannerStatus]:
        """How each scanner server is now, read anew, as far as ``news`` could have missed it. Raises TryLater."""
