"""How far a scanner server is on its way to running, and what is stuck."""

from dataclasses import replace

from skydriver_common.model.events import ScannerFailed
from skydriver_common.model.problem_codes import ProblemCode
from skydriver_common.model.stages import ScannerStage
from skydriver_dispatcher.decide.stages import decide_stage, decide_stuck
from tests.support.launchers import a_launched_scan


def test_a_stage_is_told_when_it_or_the_trouble_changes_not_for_other_words() -> None:
    scan = a_launched_scan(stage=ScannerStage.PENDING, trouble={"code": "a", "text": "3 nodes"})
    assert decide_stage(scan, stage=ScannerStage.PENDING, code="a", text="4 nodes") == []
    assert len(decide_stage(scan, stage=ScannerStage.PENDING, code="", text="")) == 1
    assert len(decide_stage(scan, stage=ScannerStage.RUNNING, code="a", text="3 nodes")) == 1
    assert decide_stage(replace(scan, is_deleted=True), stage=ScannerStage.RUNNING, code="", text="") == []


def test_only_a_problem_that_does_not_pass_by_itself_fails_a_scan() -> None:
    stuck = a_launched_scan(
        stage=ScannerStage.SCHEDULED, trouble={"code": ProblemCode.SCANNER_IMAGE_PULL_FAILED, "text": "no such image"}
    )
    [failed] = decide_stuck(stuck, limit_s=900.0)
    assert isinstance(failed, ScannerFailed)
    assert failed.reason.endswith("no such image")
    assert (
        decide_stuck(a_launched_scan(trouble={"code": ProblemCode.SCANNER_UNSCHEDULABLE, "text": "no node"}), limit_s=900.0)
        == []
    )
    assert decide_stuck(a_launched_scan(), limit_s=900.0) == []
    assert decide_stuck(replace(stuck, is_deleted=True), limit_s=900.0) == []
    assert decide_stuck(None, limit_s=900.0) == []
