"""Asking a service while the broker's connection comes and goes: answers are quick, and what took effect is not denied."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from skydriver_api.commander import Commander, CommandTooLarge
from skydriver_common.bus import topology
from skydriver_common.bus.broker import connect
from skydriver_common.faults import TryLater
from skydriver_common.model.commands import DeleteScan
from skydriver_common.model.rejections import Reply
from tests.support.proxy import Proxy

COMMAND = DeleteScan(scan_id="s")
DONE = Reply(body=b'{"deleted": true}')


class Service:
    """Takes the command, records its reply, and never sends it."""

    def __init__(self) -> None:
        self.recorded: dict[str, Reply] = {}
        self.then: Callable[[], object] = lambda: None

    async def handle(self, message: AbstractIncomingMessage) -> None:
        assert message.message_id
        self.recorded[message.message_id] = DONE
        await message.ack()
        self.then()

    async def recorded_reply(self, command_id: str, fingerprint: str) -> Reply | None:
        return self.recorded.get(command_id)


@pytest.fixture
async def proxy(clean_bus: str) -> AsyncIterator[Proxy]:
    port = urlsplit(clean_bus).port
    assert port is not None
    made = Proxy(port)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def service(clean_bus: str) -> AsyncIterator[Service]:
    made = Service()
    bus = await aio_pika.connect(clean_bus)
    async with bus:
        channel = await bus.channel()
        await topology.declare(channel)
        described = topology.command_queue(DeleteScan.key)
        queue = await channel.declare_queue(described.name, durable=True, arguments=dict(described.arguments or {}))
        await queue.bind(topology.COMMANDS.name, DeleteScan.key)
        await queue.consume(made.handle)
        yield made
        await queue.delete(if_unused=False, if_empty=False)


def _through(url: str, proxy: Proxy) -> str:
    return url.replace(f":{urlsplit(url).port}/", f":{proxy.port}/")


async def test_without_a_broker_the_answer_is_quick(clean_bus: str, proxy: Proxy, service: Service) -> None:
    bus = await connect(_through(clean_bus, proxy), name="test")
    commander = Commander(bus, service.recorded_reply, deadline_s=10)
    await commander.open()
    await proxy.close()
    await asyncio.sleep(0.1)
    began = time.monotonic()
    with pytest.raises(TryLater):
        await commander.ask(COMMAND, actor="a")
    assert time.monotonic() - began < 5
    assert service.recorded == {}
    await bus.close()


async def test_what_no_broker_takes_is_not_sent(clean_bus: str, service: Service) -> None:
    bus = await connect(clean_bus, name="test")
    commander = Commander(bus, service.recorded_reply, deadline_s=0.5)
    await commander.open()
    with pytest.raises(CommandTooLarge):
        await commander.ask(DeleteScan(scan_id="s" * 13 * 2**20), actor="a")
    assert service.recorded == {}
    assert await commander.ask(COMMAND, actor="a") == DONE  # the channel is as it was
    await bus.close()


async def test_a_reply_lost_with_the_connection_is_read_where_it_is_recorded(
    clean_bus: str, proxy: Proxy, service: Service
) -> None:
    bus = await connect(_through(clean_bus, proxy), name="test")
    commander = Commander(bus, service.recorded_reply, deadline_s=20)
    await commander.open()
    service.then = proxy.cut
    began = time.monotonic()
    assert await commander.ask(COMMAND, actor="a") == DONE
    assert time.monotonic() - began < 10
    service.then = lambda: None
    await bus.close()


async def test_a_command_that_took_effect_without_a_reply_is_not_denied(clean_bus: str, service: Service) -> None:
    bus = await connect(clean_bus, name="test")
    commander = Commander(bus, service.recorded_reply, deadline_s=0.5)
    await commander.open()
    assert await commander.ask(COMMAND, actor="a") == DONE
    await bus.close()


async def test_a_command_that_nobody_handled_is_denied_once_its_time_is_over(clean_bus: str, service: Service) -> None:
    async def nothing(command_id: str, fingerprint: str) -> Reply | None:
        return None

    bus = await connect(clean_bus, name="test")
    commander = Commander(bus, nothing, deadline_s=0.5)
    await commander.open()
    with pytest.raises(TryLater):
        await commander.ask(COMMAND, actor="a")
    await bus.close()
