"""What launchers report about scanner servers. Values only."""

from dataclasses import dataclass

from skydriver_common.model.ids import ScanId
from skydriver_common.model.problem_codes import ProblemCode
from skydriver_common.model.stages import ScannerStage


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
    """How far a scanner server is on its way to running. stage: ``pending``, ``scheduled``, ``running``.

    code, text: what holds it up, both empty while all is well.
    """

    scan_id: ScanId
    stage: ScannerStage
    code: ProblemCode | str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class CapacityFreed:
    """Something that took up capacity is gone for good."""


LauncherEvent = ScannerExit | ScannerStatus | CapacityFreed
