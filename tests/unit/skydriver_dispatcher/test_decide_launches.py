"""What becomes of the attempts to launch a scan."""

from dataclasses import replace

import pytest

from skydriver_common.model import events as ev
from skydriver_common.model.scan import Ewms, Launch
from skydriver_common.model.stages import LaunchState
from skydriver_dispatcher.decide.launches import (
    decide_attempt,
    decide_deferred_launch,
    decide_failed_launch,
    decide_launched,
    decide_without_queues,
    must_not_run,
)
from tests.support.launchers import a_launched_scan, a_queued_scan


def types(events: list[ev.Event]) -> list[str]:
    return [event.type for event in events]


def test_a_reason_to_wait_is_told_once_whatever_its_figures() -> None:
    waiting = replace(a_queued_scan(), launch=Launch(attempts=1))
    assert types(decide_deferred_launch(waiting, "quota: used 5, limited 5")) == ["scan.launch-deferred"]
    deferred = replace(waiting, launch=Launch(is_deferred=True, reason="quota: used 5, limited 5"))
    assert decide_deferred_launch(deferred, "quota: used 17, limited 20") == []
    assert types(decide_deferred_launch(deferred, "no answer")) == ["scan.launch-deferred"]
    assert decide_attempt(deferred) == []


def test_only_failures_of_its_own_use_attempts_up() -> None:
    scan = replace(a_queued_scan(), launch=Launch(attempts=9, failures=1))
    assert types(decide_failed_launch(scan, "no", is_final=False, max_attempts=3)) == ["scan.launch-failed"]
    scan = replace(a_queued_scan(), launch=Launch(attempts=9, failures=2))
    assert types(decide_failed_launch(scan, "no", is_final=False, max_attempts=3)) == [
        "scan.launch-failed", "scan.launch-abandoned",
    ]  # fmt: skip


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
    assert types([*decide_without_queues(replace(a_launched_scan(), ewms=ewms))]) == told
    assert decide_without_queues(replace(a_launched_scan(), ewms=ewms, is_deleted=True)) == []
    waiting = decide_without_queues(replace(a_queued_scan(), ewms=ewms))
    assert types([*waiting]) == ["scan.launch-abandoned" for _ in told]


def test_a_launch_is_recorded_once_and_not_for_a_deleted_scan() -> None:
    waiting = a_queued_scan()
    assert types(decide_launched(waiting, launcher="local", job="1")) == ["scan.launched"]
    assert decide_launched(a_launched_scan(), launcher="local", job="1") == []
    assert decide_launched(replace(waiting, is_deleted=True), launcher="local", job="1") == []


def test_nothing_may_be_left_of_a_scan_that_is_over_or_unknown() -> None:
    assert must_not_run(None)
    assert must_not_run(replace(a_queued_scan(), is_deleted=True))
    assert must_not_run(replace(a_queued_scan(), launch=Launch(state=LaunchState.ABANDONED)))
    assert not must_not_run(a_queued_scan())
    assert not must_not_run(a_launched_scan())
