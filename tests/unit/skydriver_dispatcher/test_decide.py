"""What the dispatcher decides about launches and ends, without a clock and without a database."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_common.model import events as ev
from skydriver_common.model.commands import RescanScan
from skydriver_common.model.ids import new_scan_id
from skydriver_common.model.scan import Ewms, Launch, Scan
from skydriver_common.model.stages import LaunchState, ScannerStage
from skydriver_dispatcher import decide
from tests.support.launchers import a_queued_scan

NOW = 1_900_000_000.0
HOUR = 3600.0


def launched(**launch: object) -> Scan:
    return replace(a_queued_scan(), launch=Launch(state=LaunchState.LAUNCHED, launcher="kubernetes", job="j", **launch))  # type: ignore[arg-type]


def types(events: list[ev.Event]) -> list[str]:
    return [event.type for event in events]


def test_a_rescan_keeps_what_a_new_request_must_not_have_any_more() -> None:
    older: dict[str, Any] = {
        "predictive_scanning_threshold": 0.1, "reco_algo": "-x", "classifiers": {}, "scanner_server_env_from_user": {"HOME": "/x"},
    }  # fmt: skip
    scan = a_queued_scan(**older)
    again = decide.decide_rescan(scan, RescanScan(scan_id=scan.scan_id, new_scan_id=new_scan_id()), now=NOW)
    assert again.request == scan.request
    assert again.scanner_server_args.endswith("--predictive-scanning-threshold 0.1")


def test_a_reason_to_wait_is_told_once_whatever_its_figures() -> None:
    waiting = replace(a_queued_scan(), launch=Launch(attempts=1))
    assert types(decide.decide_deferred_launch(waiting, "quota: used 5, limited 5")) == ["scan.launch-deferred"]
    deferred = replace(waiting, launch=Launch(is_deferred=True, reason="quota: used 5, limited 5"))
    assert decide.decide_deferred_launch(deferred, "quota: used 17, limited 20") == []
    assert types(decide.decide_deferred_launch(deferred, "no answer")) == ["scan.launch-deferred"]
    assert decide.decide_attempt(deferred) == []


def test_only_failures_of_its_own_use_attempts_up() -> None:
    scan = replace(a_queued_scan(), launch=Launch(attempts=9, failures=1))
    assert types(decide.decide_failed_launch(scan, "no", is_final=False, max_attempts=3)) == ["scan.launch-failed"]
    scan = replace(a_queued_scan(), launch=Launch(attempts=9, failures=2))
    assert types(decide.decide_failed_launch(scan, "no", is_final=False, max_attempts=3)) == [
        "scan.launch-failed", "scan.launch-abandoned",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "scan",
    [
        replace(launched(), is_deleted=True), replace(launched(), launch=Launch(state=LaunchState.FAILED)), a_queued_scan(),
        replace(launched(), launch=Launch(state=LaunchState.ABANDONED)),
    ],
    ids=["deleted", "failed", "waiting", "given up"],
)  # fmt: skip
def test_an_end_means_nothing_for_a_scan_that_does_not_run(scan: Scan) -> None:
    assert not decide.can_end(scan)
    assert decide.decide_last_exit(scan, exit_code=1, log_tail="", cause="") == []


@pytest.mark.parametrize(
    ("ewms", "told"),
    [
        pytest.param(Ewms(), [], id="fine"),
        pytest.param(Ewms(refused="no such cluster"), ["scan.scanner-failed"], id="refused"),
        pytest.param(Ewms(deactivated="ABORTED"), ["scan.scanner-failed"], id="stopped before its queues"),
        pytest.param(Ewms(deactivated="ABORTED", queues={"a": "b"}), [], id="stopped when the scanner server has its queues"),
    ],
)
def test_a_scanner_server_that_will_never_have_queues_has_failed(ewms: Ewms, told: list[str]) -> None:
    assert types([*decide.decide_without_queues(replace(launched(), ewms=ewms))]) == told
    assert decide.decide_without_queues(replace(launched(), ewms=ewms, is_deleted=True)) == []
    waiting = decide.decide_without_queues(replace(a_queued_scan(), ewms=ewms))
    assert types([*waiting]) == ["scan.launch-abandoned" for _ in told]


def test_a_stage_is_told_when_it_or_the_trouble_changes_not_for_other_words() -> None:
    scan = launched(stage=ScannerStage.PENDING, trouble={"code": "a", "text": "3 nodes"})
    assert decide.decide_stage(scan, stage=ScannerStage.PENDING, code="a", text="4 nodes") == []
    assert len(decide.decide_stage(scan, stage=ScannerStage.PENDING, code="", text="")) == 1
    assert len(decide.decide_stage(scan, stage=ScannerStage.RUNNING, code="a", text="3 nodes")) == 1
    assert decide.decide_stage(replace(scan, is_deleted=True), stage=ScannerStage.RUNNING, code="", text="") == []


@given(hours=st.lists(st.floats(0, 30), max_size=8))
def test_three_rescans_in_any_ten_hours_and_none_more(hours: list[float]) -> None:
    rescans = tuple(new_scan_id(NOW - each * HOUR) for each in sorted(hours, reverse=True))
    why_not = decide.too_many_replacements(replace(a_queued_scan(), rescan_ids=rescans), now=NOW)
    recent = sum(int(scan_id[:11], 16) / 1000 > NOW - 10 * HOUR for scan_id in rescans)
    assert bool(why_not) == (recent >= 3)
