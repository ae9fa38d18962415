"""The board between what is seen and who handles it."""

import pytest

from skydriver_common.model.ids import ScanId
from skydriver_common.model.stages import ScannerStage
from skydriver_dispatcher.launcher_events import MAX_TRIES, PendingEvents
from skydriver_dispatcher.ports import CapacityFreed, LauncherEvent, ScannerExit, ScannerStatus


class Clocked:
    """A board and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.board = PendingEvents(clock=lambda: self.now)


def stage(scan_id: ScanId = ScanId("a"), name: ScannerStage = ScannerStage.RUNNING) -> ScannerStatus:
    return ScannerStatus(scan_id=scan_id, stage=name)


def end(scan_id: ScanId = ScanId("a"), code: int = 1) -> ScannerExit:
    return ScannerExit(scan_id=scan_id, exit_code=code, log_tail="")


def taken(board: PendingEvents) -> LauncherEvent:
    news = board.take()
    assert news is not None
    return news


def test_what_was_unavailable_is_no_fault_of_the_news_and_they_come_again_at_once() -> None:
    board = Clocked().board
    board.put(end())
    for _ in range(10 * MAX_TRIES):
        assert board.put_back(taken(board), has_failed=False)
    assert board.take() == end()
    assert board.take() is None


def test_news_that_break_us_come_again_later_and_later_and_then_never() -> None:
    clocked = Clocked()
    board = clocked.board
    board.put(end())
    waits = []
    while board.put_back(taken(board), has_failed=True):
        board.put(stage(ScanId("b")))
        assert board.take() == stage(ScanId("b")), "others are not held up"
        assert board.take() is None
        waits.append(board.seconds_to_next())
        assert waits[-1] is not None
        clocked.now += waits[-1]
    assert waits == [1.0, 4.0, 15.0, 60.0]
    assert board.seconds_to_next() is None
    assert board.ends() == set()


def test_an_end_is_replaced_by_nothing_wherever_it_is() -> None:
    board = Clocked().board
    board.put(stage())
    board.put(end())
    board.put(stage())
    news = taken(board)
    assert news == end()
    assert board.ends() == {"a"}, "the one in hand counts"
    board.put(stage())
    board.put_back(news, has_failed=False)
    board.put(stage())
    assert board.take() == end()
    assert board.take() is None


def test_a_newer_stage_replaces_one_that_was_put_back() -> None:
    board = Clocked().board
    board.put(stage(name=ScannerStage.PENDING))
    news = taken(board)
    board.put(stage(name=ScannerStage.SCHEDULED))
    board.put_back(news, has_failed=False)
    assert board.take() == stage(name=ScannerStage.SCHEDULED)
    board.put_back(stage(name=ScannerStage.SCHEDULED), has_failed=False)
    board.put(stage(name=ScannerStage.RUNNING))
    assert board.take() == stage(name=ScannerStage.RUNNING)
    assert board.take() is None


@pytest.mark.parametrize("has_failed", [True, False])
def test_what_is_in_hand_when_the_board_is_cleared_does_not_come_back(has_failed: bool) -> None:
    board = Clocked().board
    board.put(stage(name=ScannerStage.SCHEDULED))
    news = taken(board)
    board.clear()
    board.put_back(news, has_failed=has_failed)
    assert board.take() is None
    assert board.seconds_to_next() is None


def test_room_is_told_again_if_something_was_unavailable_and_holds_nobody_up_if_it_breaks_us() -> None:
    board = Clocked().board
    board.put(CapacityFreed())
    assert board.put_back(taken(board), has_failed=False)
    assert not board.put_back(taken(board), has_failed=True)
    assert board.take() is None
