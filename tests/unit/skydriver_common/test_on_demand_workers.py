"""Nothing stays in the queue, whenever it was put in."""

import asyncio
from collections import deque

from skydriver_common.db.on_demand_workers import OnDemandWorkers
from tests.support.waiting import let_others_run


async def test_what_is_put_in_while_the_last_tasks_are_ending_is_taken_too() -> None:
    """Who was waiting for the last answers asks again at once, before the event loop has cleared the tasks away."""
    queue: deque[asyncio.Future[None]] = deque()
    gate = asyncio.Event()

    async def take() -> bool:
        if not queue:
            return False
        asked = queue.popleft()
        await gate.wait()
        asked.set_result(None)
        return True

    drain = OnDemandWorkers(take, at_once=2)

    async def ask_in_turn(times: int) -> None:
        for _ in range(times):
            asked = asyncio.get_running_loop().create_future()
            queue.append(asked)
            drain.wake()
            await asked

    async with asyncio.timeout(120):
        asking = [asyncio.create_task(ask_in_turn(3)) for _ in range(2)]
        await let_others_run()
        gate.set()
        await asyncio.gather(*asking)
    assert not queue


async def test_no_more_than_so_many_are_at_it() -> None:
    queue, at_it, most = deque(range(20)), 0, 0
    is_empty = asyncio.Event()

    async def take() -> bool:
        nonlocal at_it, most
        if not queue:
            is_empty.set()
            return False
        queue.popleft()
        at_it += 1
        most = max(most, at_it)
        await let_others_run()
        at_it -= 1
        return True

    drain = OnDemandWorkers(take, at_once=3)
    for _ in range(20):
        drain.wake()
    async with asyncio.timeout(120):
        await is_empty.wait()
    assert most == 3
