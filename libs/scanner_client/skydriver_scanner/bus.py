"""The scanner's connection to the message bus: it publishes with confirmation and receives the stop signal.

Its own loop reconnects whenever the connection is lost. Nothing is resent here: the caller of ``publish`` learns the outcome.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage
from aio_pika.exceptions import AMQPException, ChannelClosed, DeliveryError

from skydriver_scanner.protocol import EXCHANGE, STOP_EXCHANGE, PackedMessage, stop_queue

logger = logging.getLogger("skydriver_scanner")

T = TypeVar("T")

_TIMEOUT_S = 20.0
"""Timeout of a connection attempt and of a confirmation. After that the connection counts as dead."""
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0
_LOST = (AMQPException, ConnectionError, OSError, asyncio.InvalidStateError, asyncio.TimeoutError, RuntimeError)


class BusUnavailable(Exception):
    """The message was not confirmed: it may or may not have arrived, and may be sent again."""


class BusRejected(Exception):
    """The broker received the message but does not accept it, at least for now. The text says why."""


async def _run_with_timeout(timeout_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Return the outcome of the work, run in a task of its own. When a connection dies silently, the AMQP library ends what waits
    for it with CancelledError, which must not end the caller. Raises asyncio.TimeoutError, ConnectionError, what the work raises.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            raise asyncio.TimeoutError
        if task.cancelled():
            raise ConnectionError
        return task.result()
    finally:
        task.cancel()


async def _close(connection: AbstractConnection) -> None:
    await connection.close()


class Bus:
    """To be created and used in one event loop. ``run`` keeps the connection up until it is cancelled."""

    def __init__(
        self,
        url: str,
        scan_id: str,
        session: str,
        *,
        on_stop: Callable[[bytes], None],
        on_up: Callable[[], None],
    ) -> None:
        """session: names this session's stop queues. on_stop: called with a stop signal. on_up: after each connect."""
        self._url = url
        self._scan_id = scan_id
        self._session = session
        self._on_stop = on_stop
        self._on_up = on_up
        self._connects = 0
        self._exchange: AbstractExchange | None = None
        self._lost = asyncio.Event()
        self.down_since: float | None = time.monotonic()
        """When the connection was lost (``time.monotonic``); None while it is up."""

    @property
    def is_up(self) -> bool:
        return self.down_since is None

    async def run(self) -> None:
        """Connect, and reconnect when the connection is lost; a rejected login is retried with growing pauses."""
        pause_s, is_logged = _FIRST_PAUSE_S, False
        while True:
            connection: AbstractConnection | None = None
            try:
                self._lost.clear()
                connection = await _run_with_timeout(_TIMEOUT_S, aio_pika.connect(self._url, timeout=_TIMEOUT_S))
                connection.close_callbacks.add(self._on_lost)
                await _run_with_timeout(_TIMEOUT_S, self._open(connection))
                pause_s, is_logged = _FIRST_PAUSE_S, False
                await self._lost.wait()
                logger.warning("lost the connection to the message bus; reconnecting")
            except _LOST as error:
                logger.log(
                    logging.DEBUG if is_logged else logging.WARNING,
                    "cannot reach the message bus (%s); retrying",
                    type(error).__name__,
                )
                is_logged = True
            finally:
                self._set_down()
                if connection is not None:
                    with suppress(*_LOST):
                        await _run_with_timeout(2.0, _close(connection))
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
            pause_s = min(_MAX_PAUSE_S, pause_s * 2)

    async def publish(self, packed: PackedMessage) -> None:
        """Publish persistent, mandatory, and wait for the confirmation. Raises BusUnavailable, BusRejected."""
        exchange = self._exchange
        if exchange is None:
            raise BusUnavailable
        message = aio_pika.Message(
            packed.body,
            headers=dict(packed.headers),
            content_type=packed.content_type,
            content_encoding=packed.content_encoding,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=f"{packed.headers['producer']}-{packed.headers['sequence']}",
        )
        try:
            await _run_with_timeout(
                _TIMEOUT_S, exchange.publish(message, packed.routing_key, mandatory=True, timeout=_TIMEOUT_S)
            )
        except DeliveryError as error:
            raise BusRejected("the broker rejected the message (queue full or missing)") from error
        except ChannelClosed as error:
            self._on_lost()
            raise BusRejected(f"the broker rejected the message ({type(error).__name__})") from error
        except _LOST as error:
            self._on_lost()
            raise BusUnavailable from error

    async def _open(self, connection: AbstractConnection) -> None:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        channel.close_callbacks.add(self._on_lost)
        exchange = await channel.get_exchange(EXCHANGE, ensure=False)
        await self._listen(await connection.channel(publisher_confirms=False))
        self._exchange = exchange
        self.down_since = None
        logger.info("connected to the message bus")
        self._on_up()

    async def _listen(self, channel: AbstractChannel) -> None:
        """Consume the stop signal from a queue of this connection alone: a half-dead earlier connection cannot take its signals."""
        self._connects += 1
        try:
            queue = await channel.declare_queue(
                stop_queue(self._scan_id, f"{self._session}-{self._connects}"), exclusive=True, auto_delete=True
            )
            await queue.bind(STOP_EXCHANGE, self._scan_id)
            await queue.consume(self._on_stop_signal, no_ack=True)
        except ChannelClosed as error:
            logger.warning("no stop signals over the bus (%s); polling the scan's status instead", type(error).__name__)
        else:
            channel.close_callbacks.add(self._on_lost)

    async def _on_stop_signal(self, message: AbstractIncomingMessage) -> None:
        self._on_stop(message.body)

    def _on_lost(self, *_: object) -> None:
        self._set_down()
        self._lost.set()

    def _set_down(self) -> None:
        self._exchange = None
        if self.down_since is None:
            self.down_since = time.monotonic()
