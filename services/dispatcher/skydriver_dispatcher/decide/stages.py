"""How far a scanner server is on its way to running, and what is stuck for too long. Pure."""

from skydriver_common.model.events import Event, ScannerFailed, ScannerStageChanged
from skydriver_common.model.problem_codes import ProblemCode
from skydriver_common.model.scan import Scan
from skydriver_common.model.stages import ScannerStage
from skydriver_dispatcher.decide.exits import can_end


def decide_stage(scan: Scan, *, stage: ScannerStage, code: str, text: str) -> list[Event]:
    """Record a new stage, or what holds the scanner server up; not the same problem in other words."""
    if not scan.may_run or (scan.launch.stage, scan.launch.trouble.get("code", "")) == (stage, code):
        return []
    return [ScannerStageChanged(stage=stage, code=code, text=text)]


def decide_stuck(scan: Scan | None, *, limit_s: float) -> list[ScannerFailed]:
    """Fail a scan whose scanner server still has, after ``limit_s``, a problem that does not pass by itself."""
    if scan is None or not can_end(scan) or not scan.launch.trouble or not is_terminal_problem(scan.launch.trouble["code"]):
        return []
    return [ScannerFailed(reason=f"not started within {_duration(limit_s)}: {scan.launch.trouble['text']}")]


def is_terminal_problem(code: str) -> bool:
    """Return whether a scan does not wait without limit for this problem to pass: somebody has to change something.

    A full quota or full nodes empty by themselves; a webhook or an API server that does not respond says nothing about the scan.
    """
    return code in (
        ProblemCode.SCANNER_IMAGE_PULL_FAILED,
        ProblemCode.SCANNER_CONTAINER_REFUSED,
        ProblemCode.SCANNER_POD_REFUSED,
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 and seconds % 60 == 0 else f"{seconds:g} s"
