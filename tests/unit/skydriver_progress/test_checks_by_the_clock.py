"""When a scan is looked at again, for silence and for compaction, and what the check has to remember."""

import time
from datetime import timedelta
from typing import Any

import pytest

from skydriver_common.model import events as ev
from skydriver_common.model.ids import new_scan_id
from skydriver_common.model.scan import Scan, evolve
from skydriver_common.model.stages import ScannerStage
from skydriver_progress.decide.retention import next_compaction_after
from skydriver_progress.decide.silence import check_silence
from tests.support.histories import a_request

SCAN_ID = new_scan_id()
NOW = time.time()
LIMIT_S = 10.0


def _scan(*events: ev.Event) -> Scan:
    scan = evolve(None, a_request(SCAN_ID), scan_id=SCAN_ID, recorded_at=NOW)
    for event in events:
        scan = evolve(scan, event, scan_id=SCAN_ID, recorded_at=NOW)
    return scan


_LAUNCHED = ev.ScanLaunched(launcher="local", job="j")


def test_a_scanner_that_was_heard_lately_is_checked_when_its_limit_is_over() -> None:
    check = check_silence(_scan(_LAUNCHED), NOW + 4, LIMIT_S, {})
    assert check.events == []
    assert check.check_again_after_s == pytest.approx(6.0)
    assert check.note == {"is_natural": False, "since": 0.0}


def test_silence_is_recorded_once_and_checked_in_the_whole_limit_from_then_on() -> None:
    scan = _scan(_LAUNCHED)
    check = check_silence(scan, NOW + LIMIT_S, LIMIT_S, {})
    assert (check.events, check.check_again_after_s) == ([ev.ScannerSilent(since=NOW)], LIMIT_S)
    silent = evolve(scan, check.events[0], scan_id=SCAN_ID, recorded_at=NOW + LIMIT_S)
    again = check_silence(silent, NOW + 2 * LIMIT_S, LIMIT_S, check.note)
    assert (again.events, again.check_again_after_s) == ([], LIMIT_S)


def test_the_limit_begins_again_when_silence_was_natural_at_the_check_before() -> None:
    without_node = _scan(ev.ScanLaunched(launcher="kubernetes", job="j"), ev.ScannerStageChanged(stage=ScannerStage.PENDING))
    first = check_silence(without_node, NOW + 99, LIMIT_S, {})
    assert (first.events, first.check_again_after_s) == ([], LIMIT_S)
    assert first.note == {"is_natural": True, "since": NOW + 99}
    started = evolve(without_node, ev.ScannerStageChanged(stage=ScannerStage.SCHEDULED), scan_id=SCAN_ID, recorded_at=NOW + 100)
    second = check_silence(started, NOW + 109, LIMIT_S, first.note)
    assert (second.events, second.note) == ([], {"is_natural": False, "since": NOW + 109})
    third = check_silence(started, NOW + 120, LIMIT_S, second.note)
    assert len(third.events) == 1


@pytest.mark.parametrize("end", [ev.ScanDeleted(), ev.ScannerFailed(reason="r")], ids=["deleted", "failed"])
def test_a_scan_that_has_ended_is_not_checked_again(end: ev.Event) -> None:
    check = check_silence(_scan(_LAUNCHED, end), NOW + 999, LIMIT_S, {})
    assert (check.events, check.check_again_after_s) == ([], None)


@pytest.mark.parametrize("note", [{}, {"since": NOW - 5}, {"is_natural": False, "since": 0.0}])
def test_a_check_is_never_due_at_once(note: dict[str, Any]) -> None:
    check = check_silence(_scan(_LAUNCHED), NOW + LIMIT_S - 0.001, LIMIT_S, note)
    assert check.check_again_after_s == 1.0


def test_a_scan_is_compacted_until_it_has_ended_and_nothing_was_heard_since() -> None:
    week = timedelta(days=7)
    running, ended = _scan(_LAUNCHED), _scan(_LAUNCHED, ev.ScanDeleted())

    def after(
        scan: Scan | None, *, has_more: bool = False, before: float = NOW + 1, retention: timedelta = week
    ) -> timedelta | None:
        return next_compaction_after(scan, has_more=has_more, before=before, retention=retention)

    assert after(running) == timedelta(days=1)
    assert after(running, retention=timedelta(hours=1)) == timedelta(hours=1)
    assert after(ended) is None
    assert after(ended, before=NOW - 1) == timedelta(days=1)
    assert after(ended, has_more=True) == timedelta(0)
    assert after(None) is None
