"""Facts that belong to no scan: kept and chained like all others, seen by every reader of the log, in no view."""

import asyncio
from pathlib import Path

import orjson
import pytest

from skydriver_common.bus import topology
from skydriver_common.bus.broker import connect
from skydriver_common.bus.relay import Relay
from skydriver_common.log import system_chain
from skydriver_common.log.unit_of_work import EventNotOwned
from skydriver_common.model import events as ev
from skydriver_ops.eventlog import rebuild
from skydriver_ops.eventlog.verify import verify
from tests.support.histories import Store, a_context, skydriver


async def test_they_are_appended_once_per_command_by_many_at_once(store: Store) -> None:
    new = await asyncio.gather(*(store.a_system_fact(f"command {number % 6}") for number in range(12)))
    assert sorted(new) == [False] * 6 + [True] * 6
    rows = await store.pool.fetch("SELECT scan_id, version, type, actor FROM event_log ORDER BY position")
    assert [tuple(row) for row in rows] == [
        ("system", version, "system.dead-letter-discarded", "tester") for version in range(1, 7)
    ]
    async with store.pool.acquire() as connection:
        assert (await verify(connection)).breaks == []


async def test_what_walks_the_log_copes_with_them(store: Store, tmp_path: Path) -> None:
    await store.a_system_fact()
    scan_id = await store.a_finished_scan()
    await store.a_system_fact()
    views = await store.views()
    url = ("--database-url", store.url)
    assert (await skydriver("log", "rebuild", "--check", "--json", *url)).json["differences"] == []
    assert (await skydriver("log", "rebuild", "--swap", *url)).code == 0
    assert await store.views() == views
    seal = ("--key", str(tmp_path / "seal.pem"))
    assert (await skydriver("log", "seal", "-o", str(tmp_path / "a.seal"), *seal, *url)).code == 0
    verified = ("log", "verify", "--json", "--seal", str(tmp_path / "a.seal"), "--key", str(tmp_path / "seal.pub.pem"), *url)
    found = (await skydriver(*verified)).json
    assert (found["scans"], found["breaks"]) == (1, [])
    recorded = await skydriver("log", "history", "system", *url)
    assert recorded.out.count("discarded: seen to") == 2
    assert (await skydriver("log", "state", "system", "--at", "1", *url)).code == 1
    assert [fact["scan_id"] for fact in (await skydriver("log", "tail", "--json", "--scan", "system", *url)).lines] == [
        "system"
    ] * 2
    async with store.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("DELETE FROM event_log WHERE scan_id = 'system' AND version = 2")
    assert [broken["scan_id"] for broken in (await skydriver(*verified)).json["breaks"]] == ["system"]
    assert scan_id in (await skydriver("log", "tail", *url)).out


async def test_scans_and_the_system_keep_apart(store: Store) -> None:
    scan_id = await store.a_scan()
    fact = ev.BreakGlassUsed(reason="r", database_role="d")
    with pytest.raises(EventNotOwned):
        await store.append("progress", scan_id, fact)
    with pytest.raises(EventNotOwned):
        await system_chain.record(store.pool, store.notifier, "progress", a_context(), fact)
    async with store.pool.acquire() as connection:
        assert (await rebuild.check(connection)).differences == []
        assert (await verify(connection)).events == 1


async def test_the_relay_publishes_them(store: Store, clean_bus: str) -> None:
    bus = await connect(clean_bus, name="test")
    async with bus, bus.channel() as channel:
        await topology.declare(channel)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(topology.EVENT_EXCHANGE.name, "system.#")
        await store.a_scan()
        await store.a_system_fact()
        relay = Relay(store.url, bus, name="test")
        while await relay.step() is not False:
            pass
        await relay.close()
        message = await queue.get(timeout=120)
        assert message is not None
        assert orjson.loads(message.body)["data"]["why"] == "seen to"
        assert message.headers["scan_id"] == ev.SYSTEM_CHAIN
