"""When a difference between database and cluster is acted on."""

from datetime import timedelta

import pytest

from skydriver_common.model.ids import ScanId
from skydriver_dispatcher.decide.divergence import Divergence, DivergenceHistory, classify_divergence, judge_divergence
from skydriver_dispatcher.divergence_guard import DivergenceGuard


def ids(number: int, first: int = 0) -> set[ScanId]:
    return {ScanId(f"s{n}") for n in range(first, first + number)}


@pytest.mark.parametrize(
    ("number", "of", "expected"),
    [
        (0, 0, Divergence.SMALL), (1, 1, Divergence.SMALL), (2, 2, Divergence.SMALL), (3, 3, Divergence.IMPLAUSIBLE),
        (3, 6, Divergence.SMALL), (3, 5, Divergence.IMPLAUSIBLE), (4, 100, Divergence.LARGE), (15, 15, Divergence.IMPLAUSIBLE),
        (50, 100, Divergence.LARGE), (51, 100, Divergence.IMPLAUSIBLE), (2000, 2000, Divergence.IMPLAUSIBLE),
    ],
)  # fmt: skip
def test_all_and_at_least_three_is_doubtful_any_mass_needs_a_second_look(number: int, of: int, expected: Divergence) -> None:
    assert classify_divergence(number, of) is expected


class Looked:
    """A guard and its clock."""

    def __init__(self, limit: timedelta | None = timedelta(minutes=10)) -> None:
        self.now = 0.0
        self.guard = DivergenceGuard("scans", limit=limit, clock=lambda: self.now)

    def at(self, now: float, scan_ids: set[ScanId], of: int) -> set[ScanId]:
        self.now = now
        return set(self.guard.actionable(scan_ids, of))


def test_of_a_mass_those_are_believed_that_both_looks_have_shown() -> None:
    looked = Looked()
    assert looked.at(0, ids(10), 100) == set()
    assert looked.guard.seconds_to_next() == 60.0
    assert looked.at(30, ids(9), 100) == set()
    assert looked.at(60, ids(10, first=2), 100) == ids(7, first=2)
    assert looked.guard.n_suspended == 0


def test_what_has_passed_in_between_begins_again() -> None:
    looked = Looked()
    looked.at(0, ids(10), 100)
    looked.at(30, set(), 100)
    assert looked.guard.seconds_to_next() is None
    assert looked.at(60, ids(10), 100) == set()


def test_what_is_doubtful_is_believed_after_its_limit_or_never() -> None:
    looked, never = Looked(), Looked(None)
    for now in (0, 300, 599):
        assert looked.at(now, ids(3), 3) == never.at(now, ids(3), 3) == set()
        assert looked.guard.n_suspended == 3
    assert looked.at(600, ids(3), 3) == ids(3)
    assert never.at(86_400, ids(3), 3) == set()


def test_a_mass_that_grows_doubtful_counts_from_then_on() -> None:
    looked = Looked()
    looked.at(0, ids(40), 100)
    assert looked.at(59, ids(60), 100) == set()
    assert looked.at(600, ids(60), 100) == set()
    assert looked.at(659, ids(60), 100) == ids(40)


def test_without_a_limit_everything_is_believed_at_once() -> None:
    assert Looked(timedelta(0)).at(0, ids(50), 50) == ids(50)


def test_one_look_leaves_the_history_for_the_next() -> None:
    def look(history: DivergenceHistory, found: set[ScanId], now: float) -> DivergenceHistory:
        verdict = judge_divergence(history, found, total=100, now=now, confirm_s=60.0, limit_s=600.0)
        assert not verdict.is_confirmed
        assert verdict.actionable == frozenset()
        return verdict.history

    history = look(DivergenceHistory(), ids(10), 5.0)
    assert history == DivergenceHistory(5.0, None, frozenset(ids(10)))
    history = look(history, ids(60), 6.0)
    assert history == DivergenceHistory(5.0, 6.0, frozenset(ids(10)))
    small = judge_divergence(history, ids(2), total=100, now=7.0, confirm_s=60.0, limit_s=600.0)
    assert (small.actionable, small.history) == (frozenset(ids(2)), DivergenceHistory())
