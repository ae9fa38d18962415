"""`skydriver log replay`: past events reach whoever asks, as they were."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import orjson
import pytest

from skydriver_common.bus import topology
from skydriver_common.model import events as ev
from tests.support.histories import Store, a_report, skydriver
from tests.support.waiting import until


@asynccontextmanager
async def _a_queue(url: str) -> AsyncIterator[aio_pika.abc.AbstractQueue]:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("replay-tests.audit", auto_delete=False)
        await queue.purge()
        yield queue
        await queue.delete(if_unused=False, if_empty=False)


async def _all_of(queue: aio_pika.abc.AbstractQueue) -> list[aio_pika.abc.AbstractIncomingMessage]:
    messages = []
    while (message := await queue.get(fail=False, no_ack=True)) is not None:
        messages.append(message)
    return messages


async def test_events_come_as_they_were_and_in_order(store: Store, clean_bus: str) -> None:
    await store.a_finished_scan()
    await store.a_system_fact()
    wanted = await store.a_finished_scan()
    where = ("--database-url", store.url, "--amqp-url", clean_bus, "--json")
    async with _a_queue(clean_bus) as queue:
        ran = await skydriver("log", "replay", "--to", queue.name, *where)
        assert (ran.code, ran.json["events"]) == (0, 19)
        messages = await _all_of(queue)
        rows = await store.pool.fetch("SELECT * FROM event_log ORDER BY xid, position")
        assert [message.message_id for message in messages] == [str(row["event_id"]) for row in rows]
        for message, row in zip(messages, rows, strict=True):
            body = orjson.loads(message.body)
            assert body["data"] == orjson.loads(row["data"])
            assert body["recorded_at"] == row["recorded_at"].isoformat()
            assert message.type == row["type"]
            assert "x-replayed" in message.headers
            assert message.headers["version"] == row["version"]

        await skydriver("log", "replay", "--to", queue.name, "--scan", wanted, "--type", "scan.progress-reported", *where)
        assert [orjson.loads(message.body)["version"] for message in await _all_of(queue)] == [6, 7, 8]
        await skydriver("log", "replay", "--to", queue.name, "--from-position", "18", *where)
        assert [orjson.loads(message.body)["position"] for message in await _all_of(queue)] == [18, 19]
        said = await skydriver("log", "replay", "--to", queue.name, "--from-position", "18", "--dry-run", *where)
        assert [line.get("position") for line in said.lines] == [18, 19, None]
        assert await _all_of(queue) == []
        nobody = await skydriver("log", "replay", "--to", "nowhere", *where)
        assert (nobody.code, "there is no exchange or queue called nowhere" in nobody.err) == (1, True)


@pytest.mark.parametrize(("sent_signal", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
async def test_an_interrupted_replay_says_how_to_go_on(
    store: Store, clean_bus: str, sent_signal: signal.Signals, code: int
) -> None:
    scan_id = await store.a_scan()
    await store.append("progress", scan_id, *(a_report(number) for number in range(1, 200)))
    where = ("--database-url", store.url, "--amqp-url", clean_bus)
    async with _a_queue(clean_bus) as queue:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "skydriver_cli.app", "log", "replay", "--to", queue.name, "--rate", "40/s", *where,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

        async def has_confirmed() -> bool:
            """More than one batch of four is there, so the first is confirmed and the command knows where to resume."""
            found = await queue.channel.get_underlay_channel()
            return ((await found.queue_declare(queue.name, passive=True)).message_count or 0) > 4

        await until(has_confirmed)
        process.send_signal(sent_signal)
        _, err = await process.communicate()
        assert process.returncode == code
        position = err.decode().partition("--from-position ")[2].split()[0]
        seen = [_position(message) for message in await _all_of(queue)]
        assert len(seen) < 150, "the rate was kept"
        await skydriver("log", "replay", "--to", queue.name, "--from-position", position, *where)
        seen += [_position(message) for message in await _all_of(queue)]
    assert set(range(1, 201)) <= set(seen)


async def test_an_exchange_gets_each_event_by_its_type(store: Store, clean_bus: str) -> None:
    scan_id = await store.a_finished_scan()
    await store.append("dispatcher", scan_id, ev.ScanDeleted())
    connection = await aio_pika.connect(clean_bus)
    async with connection:
        channel = await connection.channel()
        await topology.declare(channel)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(topology.EVENT_EXCHANGE.name, "scan.deleted")
        ran = await skydriver(
            "log",
            "replay",
            "--to",
            topology.EVENT_EXCHANGE.name,
            "--json",
            "--database-url",
            store.url,
            "--amqp-url",
            clean_bus,
        )
        assert ran.json["events"] == 10
        assert [message.routing_key for message in await _all_of(queue)] == ["scan.deleted"]


def _position(message: aio_pika.abc.AbstractIncomingMessage) -> Any:
    return message.headers["position"]
