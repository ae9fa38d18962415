"""EWMS away: asked ever less often by all replicas together, and everything goes on by itself when it is back."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import ClientSession, TCPConnector
from pydantic import SecretStr

from skydriver_api.reads.view_queries import ViewQueries
from skydriver_common.clock import CLOCK
from skydriver_common.db.notifier import DUE_CHANNEL, Notifier
from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge import store
from skydriver_ewms_bridge.adapters.ewms_rest import EwmsRest
from skydriver_ewms_bridge.adapters.oauth2 import ClientCredentials
from skydriver_ewms_bridge.breaker import PROBE, THRESHOLD, Breaker
from skydriver_ewms_bridge.due_kinds import DueKind
from skydriver_ewms_bridge.ewms_types import WorkflowSpec
from skydriver_ewms_bridge.ports import EwmsNotFound, OutcomeUnknown
from tests.support.bridge import Bridge
from tests.support.fake_ewms import FakeEwms
from tests.support.malformed_ewms import Unruly, unruly_ewms

SPEC = WorkflowSpec({"public_queue_aliases": [], "tasks": []})
FINE: Any = (200, {"mqprofiles": []})
GARBAGE: Any = (200, b"<html>")
BROKEN: Any = (500, {})


@pytest.fixture
async def server() -> AsyncIterator[Unruly]:
    async with unruly_ewms() as script:
        yield script


@pytest.fixture
async def replicas(server: Unruly, bridge: Bridge, limit_s: float) -> AsyncIterator[list[tuple[EwmsRest, Breaker, list[str]]]]:
    """Two replicas' ways to EWMS, each with its own breaker on the same database, and what their bells rang."""
    async with ClientSession() as reads, ClientSession(connector=TCPConnector(force_close=True)) as writes:
        ways = []
        for _ in range(2):
            credentials = ClientCredentials(reads, issuer=server.url, client_id="bridge", client_secret=SecretStr("s"))
            notifier, notified = Notifier(bridge.pool), list[str]()
            notifier.on_notify(DUE_CHANNEL, notified.append)
            breaker = Breaker(bridge.pool, notifier)
            ewms = EwmsRest(
                reads, writes, base_url=server.url, credentials=credentials, instance="prod", guard=breaker,
                read_timeout_s=limit_s, write_timeout_s=limit_s,
            )  # fmt: skip
            ways.append((ewms, breaker, notified))
        yield ways


async def _fail(ewms: EwmsRest, times: int = THRESHOLD) -> None:
    for _ in range(times):
        with pytest.raises(TryLater):
            await ewms.queue_profiles("WF-1")


async def _pass_time(bridge: Bridge, seconds: float) -> None:
    by = timedelta(seconds=seconds)
    await bridge.pool.execute("UPDATE ewms_outages SET open_until = open_until - $1::interval", by)


@pytest.mark.parametrize("trouble", ["drop", "hang", (500, {}), (503, {}, {"Retry-After": "1"}), GARBAGE], ids=str)
async def test_after_some_failures_nobody_asks_any_more(server: Unruly, replicas: Any, trouble: Any) -> None:
    (first, _, notified), (second, breaker, _) = replicas
    server.say(*[trouble] * THRESHOLD)
    await _fail(first)
    asked = len(server.asked)

    assert notified == [PROBE]
    assert await breaker.open_for_s() > 0
    for ewms in (first, second):
        with pytest.raises(TryLater, match="EWMS is unavailable"):
            await ewms.queue_profiles("WF-1")
        with pytest.raises(TryLater, match="EWMS is unavailable"):
            await ewms.create_workflow(SPEC)
    assert len(server.asked) == asked


async def test_failures_of_several_replicas_count_together_and_an_answer_ends_them(server: Unruly, replicas: Any) -> None:
    (first, _, _), (second, breaker, _) = replicas
    server.say(BROKEN, BROKEN, FINE, BROKEN, BROKEN)
    await _fail(first, 1)
    await _fail(second, 1)
    await first.queue_profiles("WF-1")
    await _fail(second, 2)
    assert await breaker.open_for_s() == 0
    await _fail(first, 1)  # no answer is prepared: 500
    assert await breaker.open_for_s() > 0


async def test_calls_side_by_side_of_which_some_are_answered_do_not_close_the_way(server: Unruly, replicas: Any) -> None:
    (_, breaker, _), _ = replicas
    both_are_under_way, failed = asyncio.Barrier(2), asyncio.Event()

    async def fails(times: int) -> None:
        for _ in range(times):
            with pytest.raises(TryLater):
                async with breaker.call():
                    raise TryLater("EWMS did not respond")

    async def is_answered() -> None:
        async with breaker.call():
            await both_are_under_way.wait()
            await failed.wait()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(is_answered())
        await both_are_under_way.wait()
        await fails(THRESHOLD - 1)
        failed.set()
    await fails(THRESHOLD - 1)
    assert await breaker.open_for_s() == 0


async def test_who_waits_for_the_time_of_the_question_does_not_ask_the_database_without_a_pause(
    server: Unruly, replicas: Any, bridge: Bridge
) -> None:
    (first, breaker, _), _ = replicas
    server.say(*[BROKEN] * THRESHOLD)
    await _fail(first)
    await bridge.pool.execute("UPDATE ewms_outages SET open_until = clock_timestamp() + '0.15 s'::interval")
    wait_s = await breaker.probe(first.ping)
    assert not isinstance(wait_s, bool)
    assert wait_s > 0.1


async def test_a_lost_answer_to_a_request_counts_and_stays_unclear(server: Unruly, replicas: Any) -> None:
    (first, breaker, _), _ = replicas
    server.say(*[BROKEN] * THRESHOLD)
    for _ in range(THRESHOLD):
        with pytest.raises(OutcomeUnknown):
            await first.create_workflow(SPEC)
    assert await breaker.open_for_s() > 0


async def test_a_no_is_an_answer(server: Unruly, replicas: Any) -> None:
    (first, breaker, _), _ = replicas
    server.say(BROKEN, BROKEN, (404, {"code": 404, "error": "no such workflow"}), BROKEN, BROKEN)
    await _fail(first, 2)
    with pytest.raises(EwmsNotFound):
        await first.abort("WF-1")
    await _fail(first, 2)
    assert await breaker.open_for_s() == 0


async def test_one_replica_asks_whether_ewms_is_back_and_all_are_woken(server: Unruly, replicas: Any, bridge: Bridge) -> None:
    (first, one, notified), (second, other, notified_there) = replicas
    server.say(*[BROKEN] * THRESHOLD)
    await _fail(first)
    assert await one.probe(first.ping) > 0, "not before the pause is over"
    asked = len(server.asked)
    assert asked == THRESHOLD
    await _pass_time(bridge, 60)
    server.say((200, {}))
    await asyncio.gather(one.probe(first.ping), other.probe(second.ping))

    assert [a.path for a in server.asked[asked:]] == ["/v1/"]
    assert "" in notified + notified_there, "every kind of work is notified"
    server.say(FINE)
    await second.queue_profiles("WF-1")
    outage = await one.outage()
    assert outage is not None
    assert (outage.failures, outage.openings) == (0, 0)


async def test_pauses_grow_as_long_as_ewms_stays_away_up_to_the_longest(server: Unruly, replicas: Any, bridge: Bridge) -> None:
    (first, one, _), _ = replicas
    server.say(*[BROKEN] * THRESHOLD)
    await _fail(first)
    pauses = [await one.open_for_s()]
    for _ in range(7):
        await _pass_time(bridge, 60)
        await one.probe(first.ping)  # no answer is prepared: 500
        pauses.append(await one.open_for_s())

    assert pauses[0] <= 2.0
    assert 30.0 * 0.9 <= pauses[-1] <= 60.0
    assert pauses[4] > pauses[0]


async def test_back_but_broken_is_away_again_at_once_and_for_longer(server: Unruly, replicas: Any, bridge: Bridge) -> None:
    (first, one, _), _ = replicas
    server.say(*[BROKEN] * THRESHOLD)
    await _fail(first)
    for _ in range(5):
        await _pass_time(bridge, 60)
        server.say((200, {}), BROKEN)
        await one.probe(first.ping)
        await _fail(first, 1)
    assert await one.open_for_s() > 15


async def test_a_retry_after_is_honoured(server: Unruly, replicas: Any) -> None:
    (first, one, _), _ = replicas
    server.say(*[(503, {}, {"Retry-After": "300"})] * THRESHOLD)
    await _fail(first)
    assert await one.open_for_s() > 290


async def test_due_work_waits_untouched_while_ewms_is_away_and_goes_on_when_it_is_back(
    server: Unruly, replicas: Any, bridge: Bridge, ewms: FakeEwms
) -> None:
    (first, one, _), _ = replicas
    scan_id = await bridge.launched_scan()
    server.say(*[BROKEN] * THRESHOLD)
    await _fail(first)
    assert await bridge.work(DueKind.ASSIGN) == []
    assert (ewms.calls, await bridge.pool.fetchval("SELECT tries FROM due_work WHERE scan_id = $1", scan_id)) == ([], 0)
    assert await bridge.workforces.refresh() > 0

    await _pass_time(bridge, 60)
    server.say((200, {}))
    await one.probe(first.ping)
    await bridge.work(DueKind.ASSIGN)
    assert (await bridge.scan(scan_id)).has_workflow


async def test_the_status_says_that_ewms_is_away(server: Unruly, replicas: Any, bridge: Bridge) -> None:
    (first, _, _), _ = replicas
    scan_id = await bridge.running()
    reads = ViewQueries(bridge.pool)
    view = await reads.status(scan_id)
    assert view is not None
    assert view.ewms_away_since is None
    server.say(*[BROKEN] * THRESHOLD)
    await _fail(first)
    view = await reads.status(scan_id)
    assert view is not None
    assert view.ewms_away_since is not None


@pytest.mark.parametrize("ahead_s", [-600.0, 600.0])
async def test_a_replica_whose_clock_is_wrong_keeps_to_the_pauses_and_claims_of_the_others(
    server: Unruly, replicas: Any, bridge: Bridge, ahead_s: float
) -> None:
    (first, one, _), (_, other, _) = replicas
    server.say(*[BROKEN] * THRESHOLD)
    await _fail(first)
    assert await store.begin_attempt(bridge.pool, ScanId("scan"), unclear_wait=timedelta(seconds=500))
    CLOCK.compared(ahead_s)
    try:
        assert 0 < await other.open_for_s() <= 2.0
        assert not await store.begin_attempt(bridge.pool, ScanId("scan"), unclear_wait=timedelta(seconds=500))
    finally:
        CLOCK.compared(0.0)
    assert 0 < await one.open_for_s() <= 2.0
