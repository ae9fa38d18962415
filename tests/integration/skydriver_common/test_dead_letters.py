"""`skydriver dead …` over the real queue: looking changes nothing, sending back works, throwing away is kept in the log."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import jwt
import orjson
import pytest
from faststream.rabbit import ExchangeType, RabbitExchange, RabbitQueue
from faststream.rabbit.annotations import RabbitMessage

from skydriver_common.bus import topology
from skydriver_common.bus.broker import make_broker
from skydriver_common.bus.dead_letter import dead_letter_headers
from skydriver_common.faults import BadMessage
from skydriver_ops.bus import dead_letters
from skydriver_ops.db.roles import apply_roles
from tests.support.histories import Store, skydriver
from tests.support.waiting import until

_EXCHANGE = RabbitExchange("dead-letter-tests", type=ExchangeType.DIRECT, auto_delete=True)
_QUEUE = "dead-letter-tests.work"


async def _bury(url: str, count: int, *, began: float = 1000.0, queue: str = "q", body: bytes = b'{"n": 1}') -> None:
    """So many letters, one second after the other."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        await topology.declare(channel)
        exchange = await channel.get_exchange(topology.DEAD_LETTER_EXCHANGE.name)
        for number in range(count):
            headers = dead_letter_headers(
                {}, code="malformed", reason=f"reason {number}", queue=queue, exchange="e", key="k", now=began + number
            )
            await exchange.publish(aio_pika.Message(body, headers=headers, message_id=f"m{number}", delivery_mode=2), "k")


async def _listed(url: str, *options: str) -> list[dict[str, Any]]:
    ran = await skydriver("dead", "list", "--json", "--amqp-url", url, *options)
    assert ran.code == 0, ran.err
    return ran.lines


async def _depth(url: str) -> int:
    connection = await aio_pika.connect(url)
    async with connection:
        queue = await (await connection.channel()).declare_queue(topology.DEAD_LETTER_QUEUE, passive=True)
        return queue.declaration_result.message_count or 0


@asynccontextmanager
async def _a_consumer(url: str, handle: Any) -> AsyncIterator[aio_pika.abc.AbstractExchange]:
    """A consumer as every service has them; yields the exchange that leads to it."""
    stopping = asyncio.Event()
    broker = make_broker(url, stopping=stopping, handled=lambda *_: None)

    @broker.subscriber(RabbitQueue(_QUEUE, durable=True, auto_delete=False), _EXCHANGE, no_reply=True)
    async def consume(message: RabbitMessage) -> None:
        await handle(message)

    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        await topology.declare(channel)
        await broker.start()
        try:
            yield await channel.get_exchange(_EXCHANGE.name)
        finally:
            stopping.set()
            await broker.stop()
            await channel.queue_delete(_QUEUE)


async def test_looking_neither_loses_nor_reorders(clean_bus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "IN_MEMORY", 3)
    await _bury(clean_bus, 10)
    for _ in range(2):
        async with dead_letters.open_dead_letters(clean_bus) as letters:
            held_in_memory = [held.letter.reason async for held in letters.letters()]
        assert held_in_memory == [f"malformed: reason {number}" for number in range(10)]
    await _bury(clean_bus, 2, began=2000.0)
    first = await _listed(clean_bus)
    assert [letter["message_id"] for letter in first] == [f"m{number}" for number in (*range(10), 0, 1)]
    assert await _listed(clean_bus) == first
    assert await _listed(clean_bus, "--reason", "REASON 3") == [first[3]]
    assert await _depth(clean_bus) == 12


async def test_a_look_that_is_killed_loses_nothing_and_the_next_one_restores_the_order(clean_bus: str) -> None:
    await _bury(clean_bus, 50)
    before = await _listed(clean_bus)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c",
        "import asyncio, sys\n"
        "from skydriver_ops.bus.dead_letters import open_dead_letters\n"
        "async def main():\n"
        "    async with open_dead_letters(sys.argv[1]) as letters:\n"
        "        seen = 0\n"
        "        async for held in letters.letters():\n"
        "            seen += 1\n"
        "            if seen == 30:\n"
        "                print('half way', flush=True)\n"
        "                await asyncio.Event().wait()\n"
        "asyncio.run(main())\n",
        clean_bus, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"half way\n"
        assert "another `skydriver dead` command is running" in (await skydriver("dead", "list", "--amqp-url", clean_bus)).err
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def all_are_back() -> bool:
        return await _depth(clean_bus) == 50

    await until(all_are_back)
    assert {letter["id"] for letter in await _listed(clean_bus)} == {letter["id"] for letter in before}
    assert await _listed(clean_bus) == before


async def test_a_letter_goes_back_to_its_consumer_and_keeps_its_first_failure(store: Store, clean_bus: str) -> None:
    handled: list[bytes] = []
    is_mended = False

    async def handle(message: RabbitMessage) -> None:
        if not is_mended:
            raise BadMessage(f"failure {len(await _listed(clean_bus))} of its kind")
        assert "deadline" not in message.headers
        handled.append(message.body)

    both = ("--amqp-url", clean_bus, "--database-url", store.url, "--json")
    async with _a_consumer(clean_bus, handle) as exchange:
        message = aio_pika.Message(b"work", message_id="m", headers={"deadline": "99999999999"}, delivery_mode=2)
        await exchange.publish(message, _QUEUE)
        first = await _first_letter(clean_bus)
        assert (first["queue"], first["reason"], first["failures"]) == (_QUEUE, "malformed: failure 0 of its kind", 1)
        shown = await skydriver("dead", "show", first["id"], "--amqp-url", clean_bus, "--json")
        assert shown.json["body"] == "work"

        assert (await skydriver("dead", "redrive", first["id"], *both)).json == {"chosen": 1, "settled": 1}
        second = await _first_letter(clean_bus)
        assert second["id"] != first["id"]
        assert (second["failures"], second["queue"], second["exchange"]) == (2, _QUEUE, _EXCHANGE.name)
        assert (second["first_failed_at"], second["first_reason"]) == (first["last_failed_at"], first["reason"])
        assert second["last_failed_at"] > first["last_failed_at"]

        is_mended = True
        assert (await skydriver("dead", "redrive", "--queue", _QUEUE, *both)).json["settled"] == 1

        async def is_handled() -> bool:
            return bool(handled)

        await until(is_handled)
    assert handled == [b"work"]
    assert await _listed(clean_bus) == []
    recorded = (await skydriver("log", "tail", "--json", "--database-url", store.url)).lines
    assert [fact["data"]["letter_id"] for fact in recorded] == [first["id"], second["id"]]
    assert {fact["type"] for fact in recorded} == {"system.dead-letter-redriven"}


async def _first_letter(url: str) -> dict[str, Any]:
    async def is_there() -> bool:
        return await _depth(url) == 1

    await until(is_there)
    listed = await _listed(url)
    assert len(listed) == 1
    return listed[0]


async def test_what_has_no_way_back_stays(store: Store, clean_bus: str) -> None:
    await _bury(clean_bus, 2, queue="a queue that is gone")
    ran = await skydriver("dead", "redrive", "--all", "--amqp-url", clean_bus, "--database-url", store.url, "--json")
    assert (ran.code, ran.json) == (1, {"chosen": 2, "settled": 0})
    assert "was kept: queue a queue that is gone does not exist" in ran.err
    assert len(await _listed(clean_bus)) == 2
    assert await store.pool.fetchval("SELECT count(*) FROM event_log") == 0


_DIES = """
import os, signal, sys
from skydriver_ops.bus.dead_letters import OpenDeadLetter
from skydriver_common.log import system_chain

def dies_after(owner, name):
    works = getattr(owner, name)
    async def works_and_dies(*given, **named):
        await works(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, works_and_dies)

steps = {"record": (system_chain, "record"), "send": (OpenDeadLetter, "redrive"), "settle": (OpenDeadLetter, "settle")}
dies_after(*steps[sys.argv.pop(1)])
from skydriver_cli.app import app
app()
"""


@pytest.mark.parametrize(("after", "sent", "left"), [("record", 1, 1), ("send", 2, 1), ("settle", 1, 0)])
async def test_a_redrive_that_is_killed_sends_nothing_unrecorded_and_loses_nothing(
    store: Store, clean_bus: str, after: str, sent: int, left: int
) -> None:
    connection = await aio_pika.connect(clean_bus)
    async with connection:
        queue = await (await connection.channel()).declare_queue("dead-letter-tests.killed", auto_delete=True)
        await _bury(clean_bus, 1, queue=queue.name)
        command = ("dead", "redrive", "--all", "--amqp-url", clean_bus, "--database-url", store.url)
        killed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _DIES, after, *command, stderr=asyncio.subprocess.DEVNULL
        )
        assert await asyncio.wait_for(killed.wait(), 60) == -signal.SIGKILL
        assert await store.pool.fetchval("SELECT count(*) FROM event_log") == 1

        async def is_redriven() -> bool:
            return await _depth(clean_bus) == left

        await until(is_redriven)
        await skydriver(*command)
        assert await _depth(clean_bus) == 0
        assert await store.pool.fetchval("SELECT count(*) FROM event_log") == 1
        assert [(await queue.get(no_ack=True)).message_id for _ in range(sent)] == ["m0"] * sent
        assert await queue.get(fail=False) is None
        await queue.delete()


async def test_who_may_not_write_into_the_log_sends_nothing(store: Store, clean_bus: str) -> None:
    apply_roles(store.url)
    connection = await aio_pika.connect(clean_bus)
    async with connection:
        queue = await (await connection.channel()).declare_queue("dead-letter-tests.barred", auto_delete=True)
        await _bury(clean_bus, 1, queue=queue.name)
        barred = f"{store.url}?role=skydriver_api"
        ran = await skydriver("dead", "redrive", "--all", "--amqp-url", clean_bus, "--database-url", barred)
        assert (ran.code, "can't write to the event log" in ran.err) == (1, True), ran.err
        assert await queue.get(fail=False) is None
        assert await _depth(clean_bus) == 1


async def test_throwing_away_takes_a_reason_and_is_an_event(store: Store, clean_bus: str) -> None:
    await _bury(clean_bus, 4)
    letters = await _listed(clean_bus)
    both = ("--amqp-url", clean_bus, "--database-url", store.url)
    assert (await skydriver("dead", "discard", letters[1]["id"], *both)).code == 2
    assert (await skydriver("dead", "discard", "--why", "w", *both)).code == 2
    assert (await skydriver("dead", "discard", "--all", letters[1]["id"], "--why", "w", *both)).code == 2
    ran = await skydriver("dead", "discard", letters[1]["id"], letters[2]["id"], "--why", "asked for again", "--json", *both)
    assert ran.json == {"chosen": 2, "settled": 2}
    assert await _listed(clean_bus) == [letters[0], letters[3]]
    recorded = (await skydriver("log", "tail", "--json", "--type", "system.dead-letter-discarded", *both[2:])).lines
    assert [(fact["data"]["letter_id"], fact["data"]["why"]) for fact in recorded] == [
        (letters[1]["id"], "asked for again"),
        (letters[2]["id"], "asked for again"),
    ]
    assert all(fact["actor"].startswith("operator") for fact in recorded)
    assert (await skydriver("dead", "discard", letters[1]["id"], "--why", "again", *both)).code == 1


async def test_letters_that_the_broker_itself_buried_are_readable(store: Store, clean_bus: str) -> None:
    connection = await aio_pika.connect(clean_bus)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        await topology.declare(channel)
        queue = await channel.declare_queue(
            "dead-letter-tests.short",
            exclusive=True,
            arguments={"x-dead-letter-exchange": topology.DEAD_LETTER_EXCHANGE.name, "x-message-ttl": 1},
        )
        await channel.default_exchange.publish(aio_pika.Message(b"\xff\x00", message_id="late"), queue.name)
        letter = await _first_letter(clean_bus)
        assert (letter["queue"], letter["reason"]) == (queue.name, "expired in its queue")
        assert letter["first_failed_at"] == letter["last_failed_at"] is not None
        assert (await skydriver("dead", "show", letter["id"], "--amqp-url", clean_bus, "--json")).json["body_base64"] == "/wA="


async def test_a_dead_letter_is_shown_without_its_credentials(clean_bus: str, tmp_path: Path) -> None:
    token = jwt.encode({"scan_id": "s"}, "k" * 32, algorithm="HS256")
    body = orjson.dumps({"token": "canary-1", "progress": {"summary": f"logged in with {token}"}})
    connection = await aio_pika.connect(clean_bus)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        await topology.declare(channel)
        exchange = await channel.get_exchange(topology.DEAD_LETTER_EXCHANGE.name)
        headers = dead_letter_headers(
            {"token": token, "authorization": "canary-2"}, code="malformed", reason=f"token {token} rejected", queue="q",
            exchange="e", key="k", trace=f"ValueError: {token}",
        )  # fmt: skip
        await exchange.publish(aio_pika.Message(body, headers=headers, message_id="m", delivery_mode=2), "k")
    [listed] = await _listed(clean_bus)
    shown = await skydriver("dead", "list", "--amqp-url", clean_bus)
    kept = tmp_path / "body"
    for more in ([], ["--json"], ["-o", str(kept)]):
        one = await skydriver("dead", "show", listed["id"], "--amqp-url", clean_bus, *more)
        assert one.code == 0, one.err
        for printed in (one.out, shown.out, str(listed)):
            assert token not in printed
            assert token.rpartition(".")[2] not in printed
            assert "canary" not in printed
    assert kept.read_bytes() == body
    assert kept.stat().st_mode & 0o077 == 0
