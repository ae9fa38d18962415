"""An amount lent out: never more than there is, first come, first served."""

import asyncio
from collections import deque
from contextlib import ExitStack, suppress

import pytest

from skydriver_api.commands.admission import AdmissionLimit
from skydriver_api.http.limits import WeightedSemaphore
from skydriver_common.faults import TryLater
from tests.support.waiting import let_others_run


async def test_no_more_is_lent_than_there_is_and_all_of_it_comes_back() -> None:
    budget, most, now = WeightedSemaphore(10, what="things"), 0, 0

    async def take(amount: int) -> None:
        nonlocal most, now
        async with budget.hold(amount):
            now += min(amount, 10)
            most = max(most, now)
            await let_others_run()
            now -= min(amount, 10)

    await asyncio.gather(*(take(amount) for amount in (3, 4, 5, 10, 1, 100, 2, 7)))
    assert (most, now, budget.available) == (10, 0, 10)


async def test_a_large_one_is_not_passed_by_and_who_waits_too_long_is_told() -> None:
    budget = WeightedSemaphore(10, what="things", max_wait_s=0.05)
    async with budget.hold(6):
        large, small = (asyncio.create_task(_held(budget, amount)) for amount in (9, 1))  # both wait as long, from now on
        with pytest.raises(TryLater, match="too many concurrent things"):
            await small
        with pytest.raises(TryLater):
            await large
    await _held(budget, 10)


async def test_whoever_is_cancelled_holds_nothing() -> None:
    budget = WeightedSemaphore(1, what="things")
    async with budget.hold():
        waiting = asyncio.create_task(_held(budget, 1))
        await let_others_run()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await _held(budget, 1)


async def _held(budget: WeightedSemaphore, amount: int) -> None:
    async with budget.hold(amount):
        await let_others_run()


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_command_too_many_is_refused_at_once_and_says_when_to_come_again() -> None:
    limit = AdmissionLimit(target_s=2.0, start=2, clock=_Clock())
    with limit.waiting(), limit.waiting():
        with pytest.raises(TryLater) as refused, limit.waiting():
            raise AssertionError("it was let in")
        assert refused.value.after_s == 2.0
        assert limit.n_waiting == 2
    limit.check()
    assert limit.n_waiting == 0


def test_late_replies_lower_the_limit_once_in_a_while_and_not_below_the_least() -> None:
    clock = _Clock()
    limit = AdmissionLimit(target_s=2.0, start=100, least=32, clock=clock)
    with ExitStack() as waiting:
        for _ in range(50):
            waiting.enter_context(limit.waiting())
        clock.now = 5.0
    assert limit.limit == 75.0  # fifty late replies at the same time are one reason, not fifty
    for _ in range(20):
        with limit.waiting():
            clock.now += 5.0
    assert limit.limit == 32


def test_quick_replies_raise_the_limit_only_while_it_is_used() -> None:
    clock = _Clock()
    limit = AdmissionLimit(target_s=2.0, start=40, most=60, clock=clock)
    for _ in range(1000):
        with limit.waiting():
            clock.now += 0.01
    assert limit.limit == 40
    for _ in range(100):
        with ExitStack() as waiting:
            for _ in range(int(limit.limit)):
                waiting.enter_context(limit.waiting())
            clock.now += 0.1
    assert limit.limit == 60


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0, 20.0])
def test_under_sustained_overload_nearly_all_of_the_service_s_work_is_in_time(factor: float) -> None:
    """A service that does 100 commands/s in order of arrival, for five minutes; whatever is older than 10 s is in vain."""
    clock = _Clock()
    limit = AdmissionLimit(target_s=2.0, clock=clock)
    queue: deque[tuple[float, ExitStack]] = deque()
    arrivals = served = in_time = 0
    for step in range(30_000):
        clock.now = step / 100
        while arrivals < (step + 1) * factor:
            arrivals += 1
            with suppress(TryLater):
                one = ExitStack()
                one.enter_context(limit.waiting())
                queue.append((clock.now, one))
        if queue:
            began, one = queue.popleft()
            one.close()
            served += 1
            in_time += clock.now - began < 10
    assert in_time >= 0.98 * 30_000
    assert in_time == served


async def test_a_share_is_given_back_in_parts_and_no_part_twice() -> None:
    budget = WeightedSemaphore(10, what="things", max_wait_s=0.05)
    permit = await budget.acquire(8)
    permit.shrink_to(3)
    permit.shrink_to(5)
    assert (permit.acquired, permit.amount, budget.available) == (8, 3, 7)
    await _held(budget, 7)
    permit.release()
    permit.release()
    assert budget.available == 10


async def test_what_can_t_be_refused_is_taken_at_once_and_others_wait_for_it() -> None:
    budget = WeightedSemaphore(10, what="things", max_wait_s=0.05)
    first, second = budget.acquire_now(8), budget.acquire_now(8)
    first.release()
    with pytest.raises(TryLater):
        await budget.acquire(3)
    second.release()
    assert budget.available == 10
