"""The way back: replies to whoever asked, on a channel of their own that asks the broker for no confirmation.

A reply tells what is committed already. Whoever does not get it asks again and is told the recorded one.
"""

import asyncio
from collections.abc import Awaitable, Callable

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection

from skydriver_common.bus.envelope import reply_headers
from skydriver_common.bus.errors import broker_faults
from skydriver_common.bus.publishing import publish_pipelined
from skydriver_common.model.rejections import Reply

_LIMIT_S = 5.0


class Replies:
    """Sends replies. connect: gives the connection to send them on; called once, at the first reply."""

    def __init__(self, connect: Callable[[], Awaitable[AbstractConnection]]) -> None:
        self._connect = connect
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()

    async def send(self, reply: Reply, *, to: str, correlation_id: str) -> None:
        """Send to a queue. Raises TryLater."""
        message = aio_pika.Message(
            reply.body, correlation_id=correlation_id, headers=dict(reply_headers(reply)), content_type="application/octet-stream"
        )  # fmt: skip
        with broker_faults():
            async with asyncio.timeout(_LIMIT_S):
                channel = self._channel
                if channel is None or channel.is_closed:
                    channel = await self._opened()
                await publish_pipelined(channel, message, exchange="", routing_key=to)

    async def _opened(self) -> AbstractChannel:
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                self._channel = await (await self._connect()).channel(publisher_confirms=False)
            return self._channel
