"""Any bytes on the outside of a message: every event goes out, every refusal can be read and sent back, nobody is held up."""

import asyncio

import aio_pika
from hypothesis import HealthCheck, given, settings

from skydriver_common.bus import topology
from skydriver_common.bus.broker import connect
from skydriver_common.bus.dead_letter import DeadLetter
from skydriver_common.bus.relay import Relay
from skydriver_common.runtime.loops import LoopSignals, run_loop
from skydriver_ops.bus.dead_letters import open_dead_letters
from skydriver_scanner import protocol
from tests.integration.skydriver_progress.conftest import Rig
from tests.support.histories import skydriver
from tests.support.raw_amqp import OUTSIDES, SHORT_TEXTS, Outside, RawSender, entry, short
from tests.support.scanner_bus import a_progress, batch_consumers
from tests.support.waiting import until

_EXAMPLES = 80


def _outsides() -> list[Outside]:
    """The extremes of each property, and many that nobody thought of."""
    extremes = [b"\xff" * 255, b"\0" * 255, "\U0001f600".encode() * 63 + b"\xf0\x9f", b"\xc3" * 128]
    found = [Outside({name: short(text)}) for name in SHORT_TEXTS for text in extremes]
    found += [Outside({"delivery_mode": bytes([mode])}) for mode in (0, 3, 255)]
    found += [
        Outside({"timestamp": b"\xff" * 8}),
        Outside({"timestamp": b"\x7f" + b"\xff" * 7}),
        Outside({"expiration": short(b"600000")}),
    ]
    found += [Outside({}, entry(b"\xff" * 255, "x")), Outside({}, entry("CC", "x")), Outside({}, entry("large", "x" * 100_000))]

    @settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(OUTSIDES)
    def collect(outside: Outside) -> None:
        found.append(outside)

    collect()
    return found


async def _letters(amqp_url: str) -> list[DeadLetter]:
    async with open_dead_letters(amqp_url) as look:
        return [held.letter async for held in look.letters()]


async def test_no_property_of_any_message_holds_up_lanes_relay_or_operators(rig: Rig, sessions: list[str]) -> None:
    outsides = await asyncio.to_thread(_outsides)
    pulse, accepted, refused = LoopSignals(), 0, 0
    bus = await connect(rig.amqp_url, name="test")
    relay = Relay(rig.store.url, bus, name="poison")
    relaying = asyncio.create_task(run_loop(relay.step, pulse, name="relay", idle_s=0.1))
    try:
        channel = await bus.channel()
        everything = await channel.declare_queue("poison-tests.events", auto_delete=True)
        await everything.bind(topology.EVENT_EXCHANGE.name, "#")
        async with batch_consumers(rig.amqp_url, rig.store, rig.jwks), RawSender(rig.amqp_url) as sender:
            for number, outside in enumerate(outsides):
                scan_id = await rig.store.a_scan()
                for token in (rig.bus.token(scan_id), "no token"):
                    packed = protocol.pack("progress", scan_id, a_progress(number), token=token, producer="p1", sequence=1)
                    ours = b"".join(entry(name, value) for name, value in packed.headers.items())
                    properties = outside.with_headers(ours)
                    is_taken = await sender.publish(
                        topology.SCANNER_EXCHANGE.name, packed.routing_key.encode(), properties, packed.body
                    )
                    accepted += is_taken and token != "no token"
                    refused += is_taken and token == "no token"
            last = await rig.store.a_scan()
            await rig.bus.send("progress", last, a_progress(1), sequence=1)
            await rig.bus.until(last, lambda scan: scan.sequence == 1)

            async def all_are_settled() -> bool:
                taken = await rig.store.pool.fetchval("SELECT count(*) FROM event_log WHERE type = 'scan.progress-reported'")
                return int(taken) - 1 + await _depth(rig.amqp_url) >= accepted + refused

            await until(all_are_settled)
            letters = await _letters(rig.amqp_url)
            assert refused > 50  # the broker itself does not take the others
            assert {letter.queue for letter in letters} == {topology.scanner_queue("progress").name}

            async def all_are_relayed() -> bool:
                events = await rig.store.pool.fetchval("SELECT count(*) FROM event_log")
                return await _depth(rig.amqp_url, "poison-tests.events") >= int(events)

            await until(all_are_relayed)
            shown = await skydriver("dead", "show", letters[0].letter_id, "--amqp-url", rig.amqp_url, "--json")
            assert shown.code == 0, shown.err
            both = ("--amqp-url", rig.amqp_url, "--database-url", rig.store.url)
            ran = await skydriver("dead", "redrive", "--all", "--json", *both)
            assert (ran.code, ran.json) == (0, {"chosen": len(letters), "settled": len(letters)}), ran.err

            async def all_are_back() -> bool:
                return await _depth(rig.amqp_url) >= refused

            await until(all_are_back)
            assert sorted(sessions) == sorted(topology.scanner_queue(kind).name for kind in topology.SCANNER_KINDS)
            await rig.bus.send("progress", last, a_progress(2), sequence=2)
            await rig.bus.until(last, lambda scan: scan.sequence == 2)
    finally:
        pulse.stop()
        await relaying
        await relay.close()
        await bus.close()


async def _depth(amqp_url: str, queue: str = topology.DEAD_LETTER_QUEUE) -> int:
    async with await aio_pika.connect(amqp_url) as connection:
        found = await (await connection.channel()).get_queue(queue)
        return found.declaration_result.message_count or 0
