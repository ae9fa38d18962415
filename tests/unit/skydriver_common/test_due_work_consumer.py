"""The consumer of due work: what becomes of a piece of work, however its handler ends."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_common.backoff import Backoff
from skydriver_common.db.schedule import DueWork, Schedule
from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from skydriver_common.runtime.due_work import SETTLED, DueAgain, DueWorkConsumer, Outcome


class FakeSchedule(Schedule):
    """Holds claimable work; calls: what was done with it."""

    def __init__(self, *scans: str) -> None:
        self.waiting = [_work(scan) for scan in scans]
        self.calls: list[tuple[Any, ...]] = []

    async def claim(self, kind: str, *, min_priority: int = 0) -> DueWork | None:
        self.calls.append(("claim",))
        return self.waiting.pop(0) if self.waiting else None

    async def finish(self, work: DueWork) -> None:
        self.calls.append(("finish", work.scan_id))

    async def postpone(self, work: DueWork, after: timedelta, *, note: dict[str, Any] | None = None) -> None:
        self.calls.append(("postpone", work.scan_id, after.total_seconds(), note))

    async def seconds_to_next(self, kinds: object) -> float | None:
        return 0.01


def _work(scan: str, tries: int = 1) -> DueWork:
    return DueWork(kind="k", scan_id=ScanId(scan), claim="c", priority=0, age_s=0.0, tries=tries, note={})


def _answers(outcome: Outcome) -> Callable[[DueWork], Any]:
    async def handle(_: DueWork) -> Outcome:
        return outcome

    return handle


def _raises(error: Exception) -> Callable[[DueWork], Any]:
    async def handle(_: DueWork) -> Outcome:
        raise error

    return handle


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)


@pytest.mark.parametrize(
    ("outcome", "call"),
    [
        (None, [("finish", "a")]),
        (timedelta(seconds=3), [("postpone", "a", 3.0, None)]),
        (DueAgain(timedelta(seconds=3), {"n": 1}), [("postpone", "a", 3.0, {"n": 1})]),
        (SETTLED, []),
    ],
)
async def test_work_is_finished_or_due_again_as_its_handler_says(outcome: Outcome, call: list[tuple[Any, ...]]) -> None:
    schedule = FakeSchedule("a")
    consumer = DueWorkConsumer(schedule, "k", _answers(outcome))
    assert await consumer.step() is True
    assert schedule.calls[1:] == call
    assert await consumer.step() == 0.2, "work whose time has nearly come is not asked for in a busy loop"


async def test_work_that_fails_is_postponed_by_itself_and_counted() -> None:
    schedule, faults = FakeSchedule("a", "b"), list[Exception]()
    consumer = DueWorkConsumer(schedule, "k", _raises(TryLater("it is away", 7.0)), on_fault=faults.append)
    assert [await consumer.step(), await consumer.step()] == [True, True]
    assert [call for call in schedule.calls if call[0] == "postpone"] == [
        ("postpone", "a", 7.0, None),
        ("postpone", "b", 7.0, None),
    ]
    assert len(faults) == 2


async def test_when_several_scans_fail_in_a_row_the_loop_waits_too() -> None:
    schedule = FakeSchedule("a", "b", "c", "d")
    consumer = DueWorkConsumer(schedule, "k", _raises(ZeroDivisionError()))
    assert [await consumer.step(), await consumer.step()] == [True, True]
    with pytest.raises(ZeroDivisionError):
        await consumer.step()
    assert [call[1] for call in schedule.calls if call[0] == "postpone"] == ["a", "b", "c"]


async def test_a_failure_of_one_scans_own_does_not_make_the_loop_wait() -> None:
    schedule = FakeSchedule("a", "b", "c", "d")
    consumer = DueWorkConsumer(schedule, "k", _raises(ZeroDivisionError()), uses_up_patience=lambda _: False)
    assert [await consumer.step() for _ in range(4)] == [True] * 4


async def test_a_kept_claim_is_handled_again_without_another_claim() -> None:
    schedule, tries = FakeSchedule("a"), []

    async def handle(work: DueWork) -> Outcome:
        tries.append(work.scan_id)
        if len(tries) < 3:
            raise TryLater("the database is away")
        return None

    consumer = DueWorkConsumer(schedule, "k", handle, keeps_claim_s=60.0)
    for _ in range(2):
        with pytest.raises(TryLater):
            await consumer.step()
    assert await consumer.step() is True
    assert tries == ["a"] * 3
    assert schedule.calls == [("claim",), ("finish", "a")]


@pytest.mark.parametrize("error", [TryLater("it is away"), ZeroDivisionError()], ids=["unavailable", "bug"])
async def test_a_failure_that_is_not_postponed_leaves_the_work_to_its_lease(error: Exception) -> None:
    schedule = FakeSchedule("a", "b")
    consumer = DueWorkConsumer(schedule, "k", _raises(error), postpones_failures=False)
    for _ in range(2):
        with pytest.raises(type(error)):
            await consumer.step()
    assert schedule.calls == [("claim",), ("claim",)]


async def test_a_worker_that_does_not_postpone_keeps_its_claim_whatever_fails() -> None:
    schedule, tries = FakeSchedule("a"), []

    async def handle(work: DueWork) -> Outcome:
        tries.append(work.scan_id)
        if len(tries) < 3:
            raise [ZeroDivisionError(), TryLater("it is away")][len(tries) - 1]
        return SETTLED

    consumer = DueWorkConsumer(schedule, "k", handle, keeps_claim_s=60.0, postpones_failures=False)
    with pytest.raises(ZeroDivisionError):
        await consumer.step()
    with pytest.raises(TryLater):
        await consumer.step()
    assert await consumer.step() is True
    assert tries == ["a"] * 3
    assert schedule.calls == [("claim",)]


async def test_nothing_is_claimed_while_the_consumer_is_paused() -> None:
    async def paused_s() -> float:
        return 12.5

    schedule = FakeSchedule("a")
    assert await DueWorkConsumer(schedule, "k", _answers(None), paused_s=paused_s).step() == 12.5
    assert schedule.calls == []


@pytest.mark.parametrize(("failures", "pause_s"), [(1, 4.0), (2, 16.0), (3, 64.0), (4, 256.0), (5, 300.0), (10**6, 300.0)])
def test_pauses_grow_by_their_factor_up_to_the_cap(failures: int, pause_s: float) -> None:
    assert Backoff(first_s=4.0, cap_s=300.0, factor=4.0).pause_s(failures) == pause_s


def test_pauses_are_spread_over_the_upper_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    assert Backoff(first_s=4.0, cap_s=300.0).pause_s(2) == 4.0


@given(st.integers(0, 10_000))
def test_pauses_grow_up_to_the_cap_and_are_never_zero(failures: int) -> None:
    backoff = Backoff(first_s=2.0, cap_s=60.0)
    pause_s = backoff.pause_s(failures)
    assert 1.0 <= pause_s <= 60.0
    assert backoff.pause_s(failures + 1) >= pause_s
