"""Whether the broker takes messages: one that no queue wants, published with a confirmation.

A broker in alarm (memory, disk) answers heartbeats and delivers, and takes nothing; it tells so only to who publishes.
"""

import asyncio
from collections.abc import Callable

import aio_pika
from aio_pika.abc import AbstractRobustConnection
from aiormq.exceptions import ChannelAccessRefused

from skydriver_common.bus.errors import broker_faults
from skydriver_common.bus.publishing import publish_pipelined
from skydriver_common.faults import TryLater

BUS_PROBE_INTERVAL_S = 10.0
_TIMEOUT_S = 5.0
_KEY = "skydriver.probe"
"""Of no command, event or scan: the message is confirmed and thrown away."""


class BusWriteProbe:
    """Loop step: publish, and tell whether the broker confirmed it. on_tried: called with that."""

    def __init__(self, bus: AbstractRobustConnection, exchange: str, *, on_tried: Callable[[bool], None]) -> None:
        self._bus = bus
        self._exchange = exchange
        self._on_tried = on_tried

    async def step(self) -> bool:
        """Raises TryLater when the broker takes no messages."""
        try:
            with broker_faults():
                async with asyncio.timeout(_TIMEOUT_S):
                    channel = await self._bus.channel(publisher_confirms=True)
                    try:
                        await publish_pipelined(
                            channel, aio_pika.Message(b""), exchange=self._exchange, routing_key=_KEY, wait_for_room=False
                        )
                    except ChannelAccessRefused:
                        pass  # an answer, too
                    finally:
                        if not channel.is_closed:
                            await channel.close()
        except TryLater:
            self._on_tried(False)
            raise
        self._on_tried(True)
        return False
