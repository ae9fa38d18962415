"""What becomes of a message: by how its handling ended, and by nothing else."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aio_pika
import pytest
from aio_pika.exceptions import ChannelInvalidStateError, DeliveryError
from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.message import RabbitMessage
from hypothesis import HealthCheck, given, settings
from pamqp.commands import Basic
from structlog.testing import capture_logs

from skydriver_common.bus import settlement as outcomes
from skydriver_common.bus import topology
from skydriver_common.bus.broker import make_broker
from skydriver_common.bus.dead_letter import DeadLetter
from skydriver_common.bus.envelope import current_context
from skydriver_common.bus.replies import Replies
from skydriver_common.faults import BadMessage
from skydriver_common.model.rejections import Reply
from skydriver_ops.bus.dead_letters import open_dead_letters
from tests.support.faulty_database import DEFECTS, OF_DATA, OUTAGES, OWN, PLACES, faulty_database
from tests.support.histories import Store, a_report
from tests.support.raw_amqp import OUTSIDES, SHORT_TEXTS, Outside, RawSender, entry, short
from tests.support.waiting import until

_EXCHANGE = RabbitExchange("outcome-tests", type=ExchangeType.DIRECT, auto_delete=True)
_QUEUE = "outcome-tests.work"


@dataclass
class Consumer:
    """A consumer as every service has them. outcomes: what became of its messages."""

    url: str
    broker: RabbitBroker
    exchange: aio_pika.abc.AbstractExchange
    outcomes: Counter[str] = field(default_factory=Counter)

    async def send(
        self, message_id: str, *, body: bytes = b"{}", deadline: float | None = None, reply_to: str | None = None
    ) -> None:
        """A message for it."""
        headers: Any = {"actor": "tester"} | ({} if deadline is None else {"deadline": str(deadline)})
        message = aio_pika.Message(
            body, message_id=message_id, headers=headers, content_type="application/json", delivery_mode=2, reply_to=reply_to
        )
        await self.exchange.publish(message, _QUEUE)

    async def until(self, outcome: str, count: int) -> None:
        """Wait until so many ended so."""

        async def there_are() -> bool:
            return self.outcomes[outcome] >= count

        await until(there_are)

    async def letters(self) -> list[DeadLetter]:
        """All dead letters."""
        async with open_dead_letters(self.url) as look:
            return [held.letter async for held in look.letters()]


@asynccontextmanager
async def a_consumer(url: str, handle: Callable[[dict[str, Any]], Awaitable[Reply | None]]) -> AsyncIterator[Consumer]:
    stopping = asyncio.Event()
    counted: Counter[str] = Counter()
    broker = make_broker(url, stopping=stopping, handled=lambda _, outcome, __: counted.update([outcome]))

    @broker.subscriber(RabbitQueue(_QUEUE, durable=True, auto_delete=False, routing_key=_QUEUE), _EXCHANGE, no_reply=True)
    async def consume(body: dict[str, Any]) -> Reply | None:
        return await handle(body)

    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        await topology.declare(channel)
        await broker.start()
        try:
            yield Consumer(url, broker, await channel.get_exchange(_EXCHANGE.name), counted)
        finally:
            stopping.set()
            await broker.stop()
            await channel.queue_delete(_QUEUE)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Waiting messages are tried again at once, and no traceback is drawn."""
    monkeypatch.setattr(outcomes, "pause_after", lambda *_: 0.001)
    with capture_logs():
        yield


@pytest.mark.usefixtures("no_pauses")
async def test_no_fault_of_the_database_makes_a_dead_letter_wherever_it_strikes(
    store: Store, clean_bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each place of the transaction, also more often than a bug is tried: then the message is handled all the same."""
    scan_id = await store.a_scan()
    numbers = iter(range(1, 10_000))

    async def handle(_: dict[str, Any]) -> Reply:
        async with store.uows["progress"].on_scans(current_context(), [scan_id]) as tx:
            if tx.recorded_reply is not None:
                return tx.recorded_reply
            await tx.connection.fetch(OWN)
            tx.append(scan_id, [a_report(next(numbers))])
            tx.record(Reply(body=b"{}"))
            return Reply(body=b"{}")

    async with a_consumer(clean_bus, handle) as consumer, faulty_database(monkeypatch) as database:
        sent = 0
        for code in OUTAGES + DEFECTS:
            for place in PLACES:
                times = 4 if place == "write" else 1
                database.fails(place, code, times)
                sent += 1
                await consumer.send(f"{code} {place}")
                await consumer.until("done", sent)
                assert database.met == times
        assert consumer.outcomes == {"done": sent}
        assert await consumer.letters() == []
    assert await store.pool.fetchval("SELECT count(*) FROM event_log WHERE type = 'scan.progress-reported'") == sent


@pytest.mark.usefixtures("no_pauses")
async def test_values_that_the_database_refuses_make_a_dead_letter_after_some_tries(
    store: Store, clean_bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_id = await store.a_scan()

    async def handle(_: dict[str, Any]) -> None:
        async with store.uows["progress"].on_scans(current_context(), [scan_id]) as tx:
            await tx.connection.fetch(OWN)
            tx.append(scan_id, [a_report(1)])

    async with a_consumer(clean_bus, handle) as consumer, faulty_database(monkeypatch) as database:
        buried = 0
        for code in OF_DATA:
            for place in PLACES:
                database.fails(place, code, 1000)
                buried += 1
                await consumer.send(f"{code} {place}")
                await consumer.until("buried", buried)
                assert database.met == 3
                database.left = 0
        assert len(await consumer.letters()) == buried
        await consumer.send("sound")
        await consumer.until("done", 1)


@pytest.mark.usefixtures("no_pauses")
async def test_waits_use_up_no_try_of_a_bug(store: Store, clean_bus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[Exception] = [KeyError("a bug"), KeyError("a bug")]

    async def handle(_: dict[str, Any]) -> None:
        async with store.uows["progress"].on_scans(current_context(), []):
            if failures and not database.left:
                raise failures.pop()

    async with a_consumer(clean_bus, handle) as consumer, faulty_database(monkeypatch) as database:
        database.fails("load", "25006", 10)
        await consumer.send("m")
        await consumer.until("done", 1)
    assert not failures


async def test_late_commands_are_dropped_and_counted_without_a_letter_or_an_error(clean_bus: str) -> None:
    async def handle(_: dict[str, Any]) -> None:
        return None

    with capture_logs() as logs:
        async with a_consumer(clean_bus, handle) as consumer:
            for number in range(20):
                await consumer.send(f"late {number}", deadline=time.time() - 1)
            await consumer.send("in time", deadline=time.time() + 600)
            await consumer.until("late", 20)
            await consumer.until("done", 1)
            assert await consumer.letters() == []
    assert [entry for entry in logs if entry["log_level"] in ("warning", "error")] == []


@pytest.mark.parametrize("refusal", [DeliveryError(None, Basic.Nack()), TimeoutError(), ConnectionResetError()])
@pytest.mark.usefixtures("no_pauses")
async def test_a_refusal_that_the_broker_does_not_take_is_tried_until_it_does(
    clean_bus: str, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    async def handle(_: dict[str, Any]) -> None:
        raise BadMessage("not as it must be")

    async with a_consumer(clean_bus, handle) as consumer:
        publish, refused = consumer.broker.publish, [refusal] * 7

        async def publishes(*given: Any, **named: Any) -> Any:
            if refused:
                raise refused.pop()
            return await publish(*given, **named)

        monkeypatch.setattr(consumer.broker, "publish", publishes)
        await consumer.send("m")
        await consumer.until("buried", 1)
        [letter] = await consumer.letters()
    assert letter.reason == "malformed: not as it must be"


async def test_what_is_done_and_cannot_be_acknowledged_is_no_bug(clean_bus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection was lost meanwhile: the broker delivers it again."""
    handled, acknowledge, is_lost = 0, RabbitMessage.ack, [True]

    async def handle(_: dict[str, Any]) -> None:
        nonlocal handled
        handled += 1

    async def ack(self: RabbitMessage) -> None:
        if is_lost:
            is_lost.clear()
            raise ChannelInvalidStateError
        await acknowledge(self)

    monkeypatch.setattr(RabbitMessage, "ack", ack)
    with capture_logs() as logs:
        async with a_consumer(clean_bus, handle) as consumer:
            await consumer.send("m")
            await consumer.until("lost", 1)
            await consumer.send("n")
            await consumer.until("done", 1)
            assert await consumer.letters() == []
    assert handled == 2
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == []


async def test_a_reply_that_cannot_be_written_leaves_its_message_settled(
    clean_bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled = 0

    async def handle(_: dict[str, Any]) -> Reply:
        nonlocal handled
        handled += 1
        return Reply(body=b"{}")

    async def send(*_: Any, **__: Any) -> None:
        raise ValueError("this can't be written")

    monkeypatch.setattr(Replies, "send", send)
    async with a_consumer(clean_bus, handle) as consumer:
        await consumer.send("m", reply_to="nobody")
        await consumer.until("done", 1)
        assert await consumer.letters() == []
    assert handled == 1


def _outsides() -> list[Outside]:
    texts = [b"\xff" * 255, b"\0" * 255, "\U0001f600".encode() * 63]
    found = [Outside({name: short(text)}) for name in SHORT_TEXTS for text in texts]
    found += [
        Outside({"content_type": short(text)}) for text in (b"text/plain", b"application/json", b"application/jsonx", b"\xff")
    ]
    found += [Outside({"delivery_mode": bytes([mode])}) for mode in (0, 3, 255)]
    found += [
        Outside({"timestamp": b"\xff" * 8}),
        Outside({}, entry(b"\xff" * 255, "x")),
        Outside({}, entry("deadline", "nan")),
    ]
    found += [
        Outside({}, entry("actor", "a\0b")),
        Outside({}, entry("fingerprint", "\0")),
        Outside({}, entry("x-from-key", "x" * 999)),
    ]

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(OUTSIDES)
    def collect(outside: Outside) -> None:
        found.append(outside)

    collect()
    return found


@pytest.mark.usefixtures("no_pauses")
async def test_a_consumer_settles_every_message_whatever_stands_on_its_outside_and_in_its_body(
    store: Store, clean_bus: str
) -> None:
    outsides = await asyncio.to_thread(_outsides)
    scan_id = await store.a_scan()

    async def handle(body: dict[str, Any]) -> Reply:
        if "bad" in body:
            raise BadMessage("it says that it is bad")
        async with store.uows["progress"].on_scans(current_context(), [scan_id]) as tx:
            if tx.recorded_reply is None:
                tx.append(scan_id, [a_report(1)])
                tx.record(Reply(body=b"{}"))
        return Reply(body=b"{}")  # to wherever the message says

    bodies = (b"{}", b'{"bad":1}', b"\xff\0", b" {}", b"[" * 100_000, b"")
    taken = 0
    async with a_consumer(clean_bus, handle) as consumer, RawSender(clean_bus) as sender:
        for outside in outsides:
            for body in bodies[: 2 if outside.properties else len(bodies)]:
                taken += await sender.publish(_EXCHANGE.name, _QUEUE.encode(), outside.with_headers(b""), body)

        async def all_are_settled() -> bool:
            return consumer.outcomes.total() >= taken

        await until(all_are_settled)
        assert consumer.outcomes["lost"] == consumer.outcomes["given-back"] == 0
        letters = await consumer.letters()
        await consumer.send("sound")
        await consumer.until("done", consumer.outcomes["done"] + 1)
    assert taken > len(outsides)
    assert len(letters) == consumer.outcomes["buried"] > 0
