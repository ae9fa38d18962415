"""Whatever a sender writes on the outside of a message, or packs into it: the consumer goes on, and others' reports with it."""

import struct
from typing import Any

import aio_pika
import pytest
from aiormq.abc import DeliveredMessage
from pamqp import encode

from skydriver_common.bus import topology
from skydriver_common.bus.dead_letter import DeadLetter
from skydriver_ops.bus.dead_letters import open_dead_letters
from skydriver_progress import ingest
from skydriver_progress.adapters import batch_consumer
from skydriver_progress.incoming import IncomingReport, ReceivedMessage
from skydriver_scanner import protocol
from tests.integration.skydriver_progress.conftest import Rig
from tests.support.scanner_bus import a_progress, batch_consumers
from tests.support.waiting import until


class _Bytes(str):
    """A text that is not UTF-8 once it is on the wire."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe"


class _Raw(bytes):
    """A header's value as it stands on the wire."""


_A_DOUBLE = _Raw(b"d" + struct.pack(">d", 1e300))


async def _letters(rig: Rig, count: int) -> list[DeadLetter]:
    """As many letters as there must be, read as an operator reads them."""

    async def are_there() -> list[DeadLetter]:
        async with open_dead_letters(rig.amqp_url) as look:
            found = [held.letter async for held in look.letters()]
        assert len(found) >= count, f"{len(found)} of {count}"
        return found

    return await until(are_there, not_yet=AssertionError) if count else await are_there()


@pytest.fixture
def raw_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests' sender write what the library does not."""
    plain = encode.encode_table_value

    def encode_table_value(value: Any) -> bytes:
        return bytes(value) if isinstance(value, _Raw) else plain(value)

    monkeypatch.setattr(encode, "encode_table_value", encode_table_value)


@pytest.mark.usefixtures("raw_values")
async def test_nothing_on_the_outside_of_a_message_stops_its_lane(rig: Rig) -> None:
    scan_id = await rig.store.a_scan()
    refused = protocol.pack("progress", scan_id, a_progress(1), token="no token", producer="p1", sequence=1)
    odd: list[dict[str, Any]] = [
        {"headers": {"odd": _Bytes("x")}},
        {"headers": {"odd": _A_DOUBLE}},
        {"headers": {_Bytes("name"): "x"}},
        {"headers": {"odd": {"deep": [_Bytes("x"), {"deeper": _A_DOUBLE}]}}},
        {"headers": {"large": "x" * 100_000}},
        {"headers": {f"h{n}": "x" * 1000 for n in range(60)}},
        {"headers": {"odd": _Raw(b"T" + b"\xff" * 8)}},
        {"headers": {"x-redriven": 1, "x-from-key": "x" * 1000, "x-from-queue": "skydriver.scan.delete"}},
        {"headers": {"x-death": "none"}},
        {"message_id": _Bytes("x")},
        {"correlation_id": _Bytes("x")},
    ]
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        for changes in odd:
            message = aio_pika.Message(
                refused.body, content_encoding=refused.content_encoding, delivery_mode=2,
                headers=dict(refused.headers) | changes.pop("headers", {}), **changes,
            )  # fmt: skip
            await rig.bus.exchange.publish(message, refused.routing_key)
        await rig.bus.send("progress", scan_id, a_progress(2), sequence=2)
        await rig.bus.until(scan_id, lambda scan: scan.sequence == 2)
        letters = await _letters(rig, len(odd))
    assert len(letters) == len(odd)
    assert {letter.queue for letter in letters} == {topology.scanner_queue("progress").name}
    assert {letter.key for letter in letters} == {refused.routing_key}
    assert {letter.reason.partition(":")[0] for letter in letters} <= {"token-invalid", "malformed"}
    assert await rig.dead.read(len(odd))


async def test_a_message_that_breaks_its_lane_costs_no_other_its_life(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has thought of: each connection on which this message comes ends at once."""
    monkeypatch.setattr(batch_consumer, "_SINGLE_MODE_PAUSE_S", 0.02)
    monkeypatch.setattr(batch_consumer, "_SINGLE_MODE_S", 0.5)
    monkeypatch.setattr(batch_consumer, "_MAX_PAUSE_S", 0.1)
    on_message = batch_consumer.BatchConsumer._on_message

    async def breaks(self: batch_consumer.BatchConsumer, delivered: DeliveredMessage) -> None:
        if b"poison" in delivered.body:
            await delivered.channel.connection.close()
            return
        await on_message(self, delivered)

    monkeypatch.setattr(batch_consumer.BatchConsumer, "_on_message", breaks)
    scans = [await rig.store.a_scan() for _ in range(20)]
    for number, scan_id in enumerate(scans):
        content = a_progress(1) if number != 10 else {"scan_metadata": {"poison": 1}}
        await rig.bus.send("progress", scan_id, content, sequence=1)
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        for number, scan_id in enumerate(scans):
            if number != 10:
                await rig.bus.until(scan_id, lambda scan: scan.sequence == 1)
        [letter] = await rig.dead.read(1, limit_s=60)
        await rig.bus.send("progress", scans[10], a_progress(2), sequence=2)
        await rig.bus.until(scans[10], lambda scan: scan.sequence == 2)
    assert b"poison" in letter.body


async def test_a_letter_of_the_broker_itself_goes_nowhere_but_where_it_died(rig: Rig) -> None:
    """What a sender wrote in the place of our words about a letter is believed by nobody."""
    scan_id = await rig.store.a_scan()
    forged = {"x-from-queue": "skydriver.scan.delete", "x-from-key": "scan.delete", "x-from-exchange": "", "x-reason": "forged"}
    await rig.bus.send("progress", scan_id, a_progress(1), sequence=1, headers=forged)
    connection = await aio_pika.connect(rig.amqp_url)
    async with connection:
        queue = await (await connection.channel()).get_queue(topology.scanner_queue("progress").name)
        message = await queue.get(timeout=120)
        assert message is not None
        await message.reject()
    [letter] = await _letters(rig, 1)
    assert letter.queue == topology.scanner_queue("progress").name
    assert letter.key == f"progress.{scan_id}"
    assert letter.reason == "rejected by its consumer"
    await rig.dead.read(1)


async def test_small_messages_with_much_in_them_are_unpacked_a_few_at_a_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    scan_id = await rig.store.a_scan()
    content = a_progress(1)
    content["progress"]["tallies"] = {"filler": "x" * 900_000}
    count, held, most = 100, 0, 0
    prepare = ingest.Ingest.prepare

    async def counted(self: ingest.Ingest, batch: list[ReceivedMessage]) -> list[IncomingReport]:
        nonlocal held, most
        items = await prepare(self, batch)
        held = sum(len(item.envelope.plain) for item in items if item.envelope is not None)
        most = max(most, held)
        return items

    monkeypatch.setattr(ingest.Ingest, "prepare", counted)
    for n in range(1, count + 1):
        await rig.bus.send("progress", scan_id, content, sequence=1, producer=f"p{n}", encoding=protocol.GZIP)
    await rig.bus.send("progress", scan_id, a_progress(2), sequence=1, producer="last")
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        await rig.bus.until(scan_id, lambda scan: scan.producer == "last")
    assert 0 < most < 20 * 1024 * 1024
    assert await rig.dead.read(0) == []
