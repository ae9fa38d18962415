"""The buffer between what a launcher observes and whoever handles it."""

import pytest

from skydriver_common.model.ids import ScanId
from skydriver_common.model.stages import ScannerStage
from skydriver_dispatcher.launcher_events import CapacityFreed, LauncherEvent, ScannerExit, ScannerStatus
from skydriver_dispatcher.pending_events import MAX_TRIES, PendingEvents


class Clocked:
    """A buffer and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pending = PendingEvents(clock=lambda: self.now)


def stage(scan_id: str = "a", name: ScannerStage = ScannerStage.RUNNING) -> ScannerStatus:
    return ScannerStatus(scan_id=ScanId(scan_id), stage=name)


def end(scan_id: str = "a", code: int = 1) -> ScannerExit:
    return ScannerExit(scan_id=ScanId(scan_id), exit_code=code, log_tail="")


def taken(pending: PendingEvents) -> LauncherEvent:
    event = pending.take()
    assert event is not None
    return event


def test_what_was_unavailable_is_no_fault_of_the_news_and_they_come_again_at_once() -> None:
    pending = Clocked().pending
    pending.put(end())
    for _ in range(10 * MAX_TRIES):
        assert pending.put_back(taken(pending), has_failed=False)
    assert pending.take() == end()
    assert pending.take() is None


def test_news_that_break_us_come_again_later_and_later_and_then_never() -> None:
    clocked = Clocked()
    pending = clocked.pending
    pending.put(end())
    waits = []
    while pending.put_back(taken(pending), has_failed=True):
        pending.put(stage("b"))
        assert pending.take() == stage("b"), "others are not held up"
        assert pending.take() is None
        waits.append(pending.seconds_to_next())
        assert waits[-1] is not None
        clocked.now += waits[-1]
    assert waits == [1.0, 4.0, 15.0, 60.0]
    assert pending.seconds_to_next() is None
    assert pending.exited_scans() == set()


def test_an_end_is_replaced_by_nothing_wherever_it_is() -> None:
    pending = Clocked().pending
    pending.put(stage())
    pending.put(end())
    pending.put(stage())
    event = taken(pending)
    assert event == end()
    assert pending.exited_scans() == {"a"}, "the one in hand counts"
    pending.put(stage())
    pending.put_back(event, has_failed=False)
    pending.put(stage())
    assert pending.take() == end()
    assert pending.take() is None


def test_a_newer_stage_replaces_one_that_was_put_back() -> None:
    pending = Clocked().pending
    pending.put(stage(name=ScannerStage.PENDING))
    event = taken(pending)
    pending.put(stage(name=ScannerStage.SCHEDULED))
    pending.put_back(event, has_failed=False)
    assert pending.take() == stage(name=ScannerStage.SCHEDULED)
    pending.put_back(stage(name=ScannerStage.SCHEDULED), has_failed=False)
    pending.put(stage(name=ScannerStage.RUNNING))
    assert pending.take() == stage(name=ScannerStage.RUNNING)
    assert pending.take() is None


@pytest.mark.parametrize("has_failed", [True, False])
def test_what_is_in_hand_when_the_board_is_cleared_does_not_come_back(has_failed: bool) -> None:
    pending = Clocked().pending
    pending.put(stage(name=ScannerStage.SCHEDULED))
    event = taken(pending)
    pending.clear()
    pending.put_back(event, has_failed=has_failed)
    assert pending.take() is None
    assert pending.seconds_to_next() is None


def test_room_is_told_again_if_something_was_unavailable_and_holds_nobody_up_if_it_breaks_us() -> None:
    pending = Clocked().pending
    pending.put(CapacityFreed())
    assert pending.put_back(taken(pending), has_failed=False)
    assert not pending.put_back(taken(pending), has_failed=True)
    assert pending.take() is None
