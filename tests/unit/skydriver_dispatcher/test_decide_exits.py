"""What the end of a scanner server means for its scan."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_common.model import events as ev
from skydriver_common.model.ids import new_scan_id
from skydriver_common.model.scan import Launch, ResultRef, Scan
from skydriver_common.model.stages import LaunchState
from skydriver_dispatcher.decide.exits import (
    BEHIND_S,
    LAUNCH_GRACE_S,
    MAX_LAUNCH_GRACES,
    can_end,
    decide_exit,
    decide_last_exit,
    decide_replacement,
    further_grace_s,
    grace_before_judging_s,
    too_many_replacements,
)
from tests.support.launchers import a_launched_scan, a_queued_scan

NOW = 1_900_000_000.0
HOUR = 3600.0
GRACE_S = 20.0


def types(events: list[ev.Event]) -> list[str]:
    return [event.type for event in events]


@pytest.mark.parametrize(
    "scan",
    [
        replace(a_launched_scan(), is_deleted=True), replace(a_launched_scan(), launch=Launch(state=LaunchState.FAILED)), a_queued_scan(),
        replace(a_launched_scan(), launch=Launch(state=LaunchState.ABANDONED)),
    ],
    ids=["deleted", "failed", "waiting", "given up"],
)  # fmt: skip
def test_an_end_means_nothing_for_a_scan_that_does_not_run(scan: Scan) -> None:
    assert not can_end(scan)
    assert decide_last_exit(scan, exit_code=1, log_tail="", cause="") == []


@given(hours=st.lists(st.floats(0, 30), max_size=8))
def test_three_rescans_in_any_ten_hours_and_none_more(hours: list[float]) -> None:
    rescans = tuple(new_scan_id(NOW - each * HOUR) for each in sorted(hours, reverse=True))
    why_not = too_many_replacements(replace(a_queued_scan(), rescan_ids=rescans), now=NOW)
    recent = sum(int(scan_id[:11], 16) / 1000 > NOW - 10 * HOUR for scan_id in rescans)
    assert bool(why_not) == (recent >= 3)


@pytest.mark.parametrize(
    ("scan", "exit_code", "has_arrived", "grace_s"),
    [
        pytest.param(a_queued_scan(), 1, True, LAUNCH_GRACE_S, id="its launch is not recorded yet"),
        pytest.param(a_launched_scan(), 0, True, GRACE_S, id="ended well: the result may be on its way"),
        pytest.param(a_launched_scan(), 1, False, GRACE_S, id="results wait on the bus"),
        pytest.param(a_launched_scan(), 1, True, None, id="nothing is on its way"),
        pytest.param(a_launched_scan(), None, True, None, id="nobody knows how it ended"),
    ],
)
def test_an_exit_waits_for_what_may_change_its_meaning(
    scan: Scan, exit_code: int | None, has_arrived: bool, grace_s: float | None
) -> None:
    assert grace_before_judging_s(scan, exit_code=exit_code, has_arrived=has_arrived, result_grace_s=GRACE_S) == grace_s


@pytest.mark.parametrize(
    ("scan", "tries", "has_arrived", "was_behind", "grace_s"),
    [
        pytest.param(None, 1, True, False, None, id="unknown"),
        pytest.param(a_queued_scan(), 1, True, False, LAUNCH_GRACE_S, id="its launch is not recorded yet"),
        pytest.param(a_queued_scan(), MAX_LAUNCH_GRACES, True, False, None, id="nor will it be"),
        pytest.param(a_launched_scan(), 9, False, False, BEHIND_S, id="results wait on the bus"),
        pytest.param(a_launched_scan(), 9, True, True, GRACE_S, id="the last result has just left the bus"),
        pytest.param(a_launched_scan(), 9, True, False, None, id="everything has arrived"),
        pytest.param(replace(a_launched_scan(), is_deleted=True), 9, False, True, None, id="deleted meanwhile"),
    ],
)
def test_an_exit_that_was_put_off_is_judged_when_everything_has_arrived(
    scan: Scan | None, tries: int, has_arrived: bool, was_behind: bool, grace_s: float | None
) -> None:
    further_s = further_grace_s(scan, tries=tries, has_arrived=has_arrived, was_behind=was_behind, result_grace_s=GRACE_S)
    assert further_s == grace_s


@pytest.mark.parametrize(
    ("restarts", "has_progressed", "n_recent", "exit_code", "expected"),
    [
        pytest.param(0, False, 0, 1, ["scan.scanner-restarted"], id="the first time"),
        pytest.param(3, False, 3, 1, ["scan.scanner-failed"], id="three times without progress"),
        pytest.param(3, True, 3, 1, ["scan.scanner-restarted"], id="with progress in between"),
        pytest.param(3, True, 20, 1, ["scan.scanner-failed"], id="too often all the same"),
        pytest.param(0, False, 0, 2, ["scan.scanner-failed"], id="it rejects its input"),
    ],
)
def test_a_scanner_server_is_restarted_in_place_while_that_can_help(
    restarts: int, has_progressed: bool, n_recent: int, exit_code: int, expected: list[str]
) -> None:
    scan = a_launched_scan(restarts=restarts)
    events = decide_exit(scan, exit_code=exit_code, log_tail="", has_progressed=has_progressed, n_recent=n_recent)
    assert types(events) == expected


def test_an_exit_while_no_dispatcher_ran_does_not_count() -> None:
    [restarted] = decide_exit(a_launched_scan(restarts=3), exit_code=None, log_tail="", was_planned=True)
    assert isinstance(restarted, ev.ScannerRestarted)
    assert restarted.restarts == 3


def replacement(scan: Scan | None, original: Scan | None) -> tuple[list[str], bool] | None:
    found = decide_replacement(
        scan, original, new_scan_id=new_scan_id(NOW), reason="lost", exit_code=None, log_tail="", now=NOW
    )
    return None if found is None else (types([event for _, event in found.events]), found.new_scan_id is not None)


def test_a_lost_scanner_server_is_replaced_by_a_new_scan_until_it_happened_too_often() -> None:
    scan = a_launched_scan()
    assert replacement(scan, scan) == (
        ["scan.scanner-lost", "scan.deleted", "scan.rescan-recorded", "scan.requested", "scan.replaced"], True,
    )  # fmt: skip
    often = replace(scan, rescan_ids=tuple(new_scan_id(NOW - HOUR) for _ in range(3)))
    assert replacement(scan, often) == (["scan.scanner-failed"], False)
    assert replacement(replace(scan, is_deleted=True), scan) is None
    complete = replace(scan, result=ResultRef(digest="d", size_bytes=1, is_final=True))
    assert replacement(complete, complete) is None
    assert replacement(None, None) is None
