"""Asking a service while the broker's connection comes and goes: answers are quick, and what took effect is not denied."""

import asyncio
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.robust_queue import RobustQueue

from skydriver_api.commands import client as commander_module
from skydriver_api.commands.client import CommandClient, CommandTooLarge
from skydriver_common.bus import topology
from skydriver_common.bus.broker import connect
from skydriver_common.faults import TryLater
from skydriver_common.model.commands import DeleteScan
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Reply
from tests.support.proxy import Proxy
from tests.support.waiting import let_others_run, until

COMMAND = DeleteScan(scan_id=ScanId("s"))
DONE = Reply(body=b'{"deleted": true}')


class Service:
    """Takes the command, records its reply, and sends it only if told to. looks: how often the record was asked for."""

    def __init__(self) -> None:
        self.recorded: dict[str, Reply] = {}
        self.then: Callable[[], object] = lambda: None
        self.replies_on: AbstractChannel | None = None
        self.looks = 0

    async def handle(self, message: AbstractIncomingMessage) -> None:
        assert message.message_id
        self.recorded[message.message_id] = DONE
        await message.ack()
        if self.replies_on is not None:
            reply = aio_pika.Message(DONE.body, correlation_id=message.correlation_id)
            await self.replies_on.default_exchange.publish(reply, message.reply_to or "")
        self.then()

    async def recorded_reply(self, command_id: str, fingerprint: str) -> Reply | None:
        self.looks += 1
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
        await queue.bind(topology.COMMAND_EXCHANGE.name, DeleteScan.key)
        await queue.consume(made.handle)
        yield made
        await queue.delete(if_unused=False, if_empty=False)


def _through(url: str, proxy: Proxy) -> str:
    return url.replace(f":{urlsplit(url).port}/", f":{proxy.port}/")


async def test_without_a_broker_nobody_waits_for_the_deadline(clean_bus: str, proxy: Proxy, service: Service) -> None:
    bus = await connect(_through(clean_bus, proxy), name="test")
    commands = CommandClient(service.recorded_reply, deadline_s=600)
    await commands.open(bus)
    await proxy.close()
    await until(lambda: not bus.connected.is_set(), "the loss of the connection is noticed", poll_s=0.01)
    async with asyncio.timeout(60):
        with pytest.raises(TryLater):
            await commands.call(COMMAND, actor="a")
    assert service.recorded == {}
    await bus.close()


async def test_what_no_broker_takes_is_not_sent(clean_bus: str, service: Service) -> None:
    bus = await connect(clean_bus, name="test")
    commands = CommandClient(service.recorded_reply, deadline_s=0.5)
    await commands.open(bus)
    with pytest.raises(CommandTooLarge):
        await commands.call(DeleteScan(scan_id=ScanId("s" * 13 * 2**20)), actor="a")
    assert service.recorded == {}
    assert await commands.call(COMMAND, actor="a") == DONE  # the channel is as it was
    await bus.close()


async def test_a_reply_lost_with_the_connection_is_read_where_it_is_recorded(
    clean_bus: str, proxy: Proxy, service: Service
) -> None:
    bus = await connect(_through(clean_bus, proxy), name="test")
    commands = CommandClient(service.recorded_reply, deadline_s=600)
    await commands.open(bus)
    service.then = proxy.cut
    async with asyncio.timeout(60):  # long before the deadline
        assert await commands.call(COMMAND, actor="a") == DONE
    service.then = lambda: None
    await bus.close()


async def test_a_command_during_a_slow_reconnection_is_sent_once_the_way_back_is_there(
    clean_bus: str, proxy: Proxy, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = await connect(_through(clean_bus, proxy), name="test")
    commands = CommandClient(service.recorded_reply, deadline_s=20)
    await commands.open(bus)
    is_restoring, may_go_on, restore = asyncio.Event(), asyncio.Event(), RobustQueue.restore

    async def restore_slowly(queue: RobustQueue, channel: object = None) -> None:
        is_restoring.set()
        await may_go_on.wait()
        await restore(queue)

    monkeypatch.setattr(RobustQueue, "restore", restore_slowly)
    async with await aio_pika.connect(clean_bus) as other:
        service.replies_on = await other.channel()
        proxy.cut()
        async with asyncio.timeout(120):
            await is_restoring.wait()  # the connection is back, what was declared on it is not
            asking = asyncio.create_task(commands.call(COMMAND, actor="a"))
            await let_others_run(20)
            assert not asking.done()
            may_go_on.set()
            assert await asking == DONE
    assert service.looks == 0  # the reply came by itself
    await bus.close()


async def test_a_command_that_was_not_sent_is_refused_without_asking_for_its_reply(
    clean_bus: str, proxy: Proxy, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commander_module, "_RECONNECT_WAIT_S", 0.1)
    bus = await connect(_through(clean_bus, proxy), name="test")
    commands = CommandClient(service.recorded_reply, deadline_s=60)
    await commands.open(bus)
    channel = commands._channel
    assert channel is not None
    await (await channel.get_underlay_channel()).connection.close()  # and nothing has noticed it yet
    await proxy.close()
    with pytest.raises(TryLater):
        await commands.call(COMMAND, actor="a")
    assert (service.looks, service.recorded) == (0, {})
    await bus.close()


async def test_before_the_broker_is_there_the_answer_is_quick() -> None:
    with pytest.raises(TryLater, match="broker"):
        await CommandClient(Service().recorded_reply, deadline_s=60).call(COMMAND, actor="a")


async def test_more_commands_than_may_wait_are_refused_before_they_are_sent(clean_bus: str, service: Service) -> None:
    bus = await connect(clean_bus, name="test")
    commands = CommandClient(service.recorded_reply, deadline_s=1)
    await commands.open(bus)
    limit = int(commands.admission(COMMAND.key).limit)
    answers = await asyncio.gather(*(commands.call(COMMAND, actor="a") for _ in range(limit + 50)), return_exceptions=True)
    assert sum(isinstance(answer, TryLater) for answer in answers) == 50
    assert len(service.recorded) == limit
    await bus.close()


async def test_a_command_that_took_effect_without_a_reply_is_not_denied(clean_bus: str, service: Service) -> None:
    bus = await connect(clean_bus, name="test")
    commands = CommandClient(service.recorded_reply, deadline_s=0.5)
    await commands.open(bus)
    assert await commands.call(COMMAND, actor="a") == DONE
    await bus.close()


async def test_a_command_that_nobody_handled_is_denied_once_its_time_is_over(clean_bus: str, service: Service) -> None:
    async def nothing(command_id: str, fingerprint: str) -> Reply | None:
        return None

    bus = await connect(clean_bus, name="test")
    commands = CommandClient(nothing, deadline_s=0.5)
    await commands.open(bus)
    with pytest.raises(TryLater):
        await commands.call(COMMAND, actor="a")
    await bus.close()
