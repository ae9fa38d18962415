"""Whether the results that scanners have sent by now were taken from the bus."""

import asyncio

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection

from skydriver_common.bus import topology
from skydriver_common.bus.broker import watched
from skydriver_common.bus.errors import broker_faults

_LIMIT_S = 10.0


class ScannerQueue:
    """Asks the broker on a connection of its own, which is opened when it is needed and again after it broke."""

    def __init__(self, amqp_url: str, *, name: str) -> None:
        self._amqp_url = amqp_url
        self._name = name
        self._queue = topology.scanner_queue("result").name
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._lock = asyncio.Lock()

    async def is_drained(self) -> bool:
        """Whether no result waits in the queue. Those that a consumer holds do not count: a little later they do. Raises TryLater."""
        async with self._lock:
            try:
                with broker_faults():
                    async with asyncio.timeout(_LIMIT_S):
                        channel = self._channel or await self._open()
                        found = await channel.declare_queue(self._queue, passive=True)
                return not found.declaration_result.message_count
            except BaseException:
                await self._drop()
                raise

    async def close(self) -> None:
        """Close the connection; another question opens a new one."""
        async with self._lock:
            await self._drop()

    async def _open(self) -> AbstractChannel:
        self._connection = await aio_pika.connect(
            watched(self._amqp_url), timeout=_LIMIT_S, client_properties={"connection_name": f"skydriver-{self._name}"}
        )
        self._channel = await self._connection.channel(publisher_confirms=False)
        return self._channel

    async def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            try:
                async with asyncio.timeout(1.0):
                    await connection.close()
            except Exception:  # noqa: BLE001  (it is broken, that is why it is closed)
                return
