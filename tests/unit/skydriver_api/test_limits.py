"""An amount lent out: never more than there is, first come, first served."""

import asyncio

import pytest

from skydriver_api.limits import Budget
from skydriver_common.faults import TryLater


async def test_no_more_is_lent_than_there_is_and_all_of_it_comes_back() -> None:
    budget, most, now = Budget(10, what="things"), 0, 0

    async def take(amount: int) -> None:
        nonlocal most, now
        async with budget.taking(amount):
            now += min(amount, 10)
            most = max(most, now)
            await asyncio.sleep(0)
            now -= min(amount, 10)

    await asyncio.gather(*(take(amount) for amount in (3, 4, 5, 10, 1, 100, 2, 7)))
    assert (most, now, budget.free) == (10, 0, 10)


async def test_a_large_one_is_not_passed_by_and_who_waits_too_long_is_told() -> None:
    budget = Budget(10, what="things", patience_s=0.05)
    async with budget.taking(6):
        large = asyncio.create_task(_held(budget, 9))
        await asyncio.sleep(0)
        with pytest.raises(TryLater, match="too many things"):
            await _held(budget, 1)
        with pytest.raises(TryLater):
            await large
    await _held(budget, 10)


async def test_whoever_is_cancelled_holds_nothing() -> None:
    budget = Budget(1, what="things")
    async with budget.taking():
        waiting = asyncio.create_task(_held(budget, 1))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await _held(budget, 1)


async def _held(budget: Budget, amount: int) -> None:
    async with budget.taking(amount):
        await asyncio.sleep(0)
