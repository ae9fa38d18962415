"""A broker with the scanner's exchanges, someone who reads them, and a SkyDriver that answers over REST."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue

from skydriver_scanner import SessionSettings, protocol
from tests.support.proxy import Proxy, proxying
from tests.support.sandbox_parts import SCAN_ID, FakeSkyDriver, serving


class Reader:
    """Reads all that this test's scanner publishes, in the order of arrival."""

    def __init__(self, queue: AbstractQueue) -> None:
        self._queue = queue
        self.messages: list[AbstractIncomingMessage] = []
        self._arrived = asyncio.Event()

    async def start(self) -> None:
        await self._queue.consume(self._take, no_ack=True)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self.messages.append(message)
        self._arrived.set()

    def received(self) -> list[protocol.UnpackedMessage]:
        return [
            protocol.unpack(one.routing_key or "", dict(one.headers), one.body, content_encoding=one.content_encoding)
            for one in self.messages
        ]

    async def until(self, condition: Any, limit_s: float = 30.0) -> None:
        """Wait until the condition holds for what was received."""
        async with asyncio.timeout(limit_s):
            while not condition(self.received()):
                self._arrived.clear()
                await self._arrived.wait()


@pytest.fixture
async def bus(clean_bus: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A channel on the broker, with the exchanges that scanners use, and none of SkyDriver's queues bound to them."""
    connection = await aio_pika.connect(clean_bus)
    async with connection:
        channel = await connection.channel()
        for kind in protocol.KINDS:  # a service's own queues, if an earlier test has left them
            await channel.queue_delete(f"skydriver.scanner.{kind}")
        for name in (protocol.EXCHANGE, protocol.STOP_EXCHANGE):
            await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
        yield channel


@pytest.fixture
async def reader(bus: aio_pika.abc.AbstractChannel) -> Reader:
    """Reads what scanners publish. Only this test's queue is bound: an unread message is unroutable."""
    queue = await bus.declare_queue(exclusive=True)
    await queue.bind(protocol.EXCHANGE, f"*.{SCAN_ID}")
    reader = Reader(queue)
    await reader.start()
    return reader


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    """A way to the broker that can be cut."""
    async with proxying(urlsplit(amqp_url).port or 5672) as proxy:
        yield proxy


@pytest.fixture
async def skydriver() -> AsyncIterator[FakeSkyDriver]:
    """The REST side."""

    async def one_worker() -> int:
        return 1

    async with serving(FakeSkyDriver({"an": "event"}, one_worker)) as skydriver:
        yield skydriver


@pytest.fixture
def settings(amqp_url: str, proxy: Proxy, skydriver: FakeSkyDriver, tmp_path: Path) -> SessionSettings:
    """Of a session on the bus through the proxy."""
    parts = urlsplit(amqp_url)
    url = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}").geturl()
    return SessionSettings(
        SCAN_ID, skydriver.url, "scan token", url, spool_dir=tmp_path / "spool", bus_patience_s=60.0, close_patience_s=30.0
    )


@pytest.fixture
def rest_settings(settings: SessionSettings) -> SessionSettings:
    """Of a session without a bus."""
    return dataclasses.replace(settings, bus_url=None)
