"""Who may ask EWMS, and in which order."""

import asyncio

from skydriver_ewms_bridge.decide.urgency import urgency_of
from skydriver_ewms_bridge.priority_limiter import PriorityLimiter, urgent
from tests.support.waiting import let_others_run


async def test_the_most_urgent_call_goes_first_and_never_more_than_allowed_at_a_time() -> None:
    turnstile = PriorityLimiter(2)
    inside, most, order = 0, 0, []
    release = asyncio.Event()

    async def ask(name: str, urgency: tuple[int, int]) -> None:
        nonlocal inside, most
        with urgent(urgency):
            async with turnstile.passing():
                inside += 1
                most = max(most, inside)
                order.append(name)
                await release.wait()
                inside -= 1

    async with asyncio.TaskGroup() as group:
        for name, urgency in [("a", (4, 0)), ("b", (4, 0)), ("c", (3, 0)), ("d", (0, -5)), ("e", (0, -100)), ("f", (1, 0))]:
            group.create_task(ask(name, urgency))
            await let_others_run()
        release.set()
    assert order == ["a", "b", "e", "d", "f", "c"], "the first two did not have to wait"
    assert most == 2


async def test_one_that_gives_up_waiting_takes_no_place() -> None:
    turnstile = PriorityLimiter(1)
    async with turnstile.passing():
        impatient = asyncio.create_task(_pass(turnstile))
        patient = asyncio.create_task(_pass(turnstile))
        await let_others_run()
        impatient.cancel()
        await let_others_run()
    await asyncio.wait_for(patient, 120)
    async with asyncio.timeout(120), turnstile.passing() as has_waited:
        assert not has_waited


def test_after_an_outage_the_way_widens_second_by_second() -> None:
    turnstile = PriorityLimiter(8)
    widths = []
    for ago in (0.0, 1.1, 5.1, 100.0, None):
        turnstile.narrow(ago)
        widths.append(turnstile.width)
    assert widths == [1, 2, 6, 8, 8]


def test_alerts_come_before_stops_and_those_before_other_scans_and_counts() -> None:
    nothing = {"starts_a_scan": False, "stops_workers": False, "counts_workers": False}
    alert = urgency_of(**{**nothing, "starts_a_scan": True}, priority=100)
    stop = urgency_of(**{**nothing, "stops_workers": True}, priority=0)
    ordinary = urgency_of(**{**nothing, "starts_a_scan": True}, priority=99)
    slow = urgency_of(**{**nothing, "starts_a_scan": True}, priority=-1)
    counts = urgency_of(**{**nothing, "counts_workers": True}, priority=500)
    rest = urgency_of(**nothing, priority=500)
    assert [alert, stop, ordinary, slow, counts, rest] == sorted([alert, stop, ordinary, slow, counts, rest])


async def _pass(turnstile: PriorityLimiter) -> None:
    async with turnstile.passing():
        return
