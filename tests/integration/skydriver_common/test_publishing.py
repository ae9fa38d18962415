"""What is on its way to a broker that does not confirm is bounded, and whoever gives up waiting takes nothing of it back."""

import asyncio

import aio_pika
import pytest

from skydriver_common.bus import publishing
from skydriver_common.bus.broker import connect
from skydriver_common.bus.publishing import ChannelLost, NotSent, publish_pipelined
from tests.support.proxy import proxying
from tests.support.servers import port_of, through
from tests.support.waiting import let_others_run

MIB = 1024 * 1024
LARGE = aio_pika.Message(b"x" * 4 * MIB)


async def test_a_broker_that_reads_nothing_gets_no_more_than_the_bound(clean_bus: str) -> None:
    async with proxying(port_of(clean_bus)) as proxy:
        bus = await connect(through(clean_bus, proxy), name="test")
        channel = await bus.channel()
        proxy.stall()
        most = publishing.MAX_UNCONFIRMED_BYTES // (4 * MIB + publishing._ENVELOPE_BYTES)
        waiting = [
            asyncio.create_task(publish_pipelined(channel, LARGE, exchange="", routing_key="nowhere")) for _ in range(most)
        ]
        await let_others_run(10)
        assert len(publishing._UNCONFIRMED[(await channel.get_underlay_channel()).connection].publications) == most
        with pytest.raises(NotSent):
            await publish_pipelined(channel, LARGE, exchange="", routing_key="nowhere", wait_for_room=False)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(NotSent):  # what was written is on its way, whoever waits for it
            await publish_pipelined(channel, LARGE, exchange="", routing_key="nowhere", wait_for_room=False)
        patient = asyncio.create_task(publish_pipelined(channel, LARGE, exchange="", routing_key="nowhere"))
        await let_others_run()
        assert not patient.done()
        proxy.flow()
        async with asyncio.timeout(60):
            await patient
            await publish_pipelined(channel, LARGE, exchange="", routing_key="nowhere")
        await bus.close()


async def test_a_closed_channel_is_told_from_a_lost_message(clean_bus: str) -> None:
    async with await aio_pika.connect(clean_bus) as bus:
        channel = await bus.channel()
        await (await channel.get_underlay_channel()).close()
        with pytest.raises(ChannelLost):
            await publish_pipelined(channel, aio_pika.Message(b"x"), exchange="", routing_key="nowhere")


async def test_without_confirmations_the_socket_must_have_taken_a_mebibyte_before_more_is_written(clean_bus: str) -> None:
    async with proxying(port_of(clean_bus)) as proxy:
        bus = await connect(through(clean_bus, proxy), name="test")
        channel = await bus.channel(publisher_confirms=False)
        proxy.stall()
        sent = 0

        async def send_many() -> None:
            nonlocal sent
            while sent < 64:
                await publish_pipelined(channel, LARGE, exchange="", routing_key="nowhere")
                sent += 1

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(send_many(), 2)
        assert sent * 4 < 32  # what sockets and the proxy hold, not all
        proxy.flow()
        await bus.close()
