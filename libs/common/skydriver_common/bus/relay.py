"""The relay: committed events to the topic exchange, in commit-safe order, at least once.

One relay is active at a time, by advisory lock; its cursor moves after the broker has confirmed. One whose process stands still
(stopped, swapped out, cut off) says nothing to the database, which ends its session after a while: then another takes over, and
when it wakes up its cursor can't be moved any more.
"""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import aio_pika
import asyncpg
import structlog
from aio_pika.abc import AbstractRobustConnection

from skydriver_common.bus import topology
from skydriver_common.bus.errors import broker_faults
from skydriver_common.bus.event_messages import event_message
from skydriver_common.bus.lenient_decoding import UNWRITABLE, without_unwritable
from skydriver_common.bus.publishing import publish_pipelined
from skydriver_common.bus.stop_signals import stop_message
from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import connect
from skydriver_common.faults import TryLater
from skydriver_common.log import read
from skydriver_common.log.another_server import LogOfAnotherServer, refuse_log_of_another_server
from skydriver_common.log.unit_of_work import sql

logger = structlog.get_logger(__name__)

_LOCK_KEY = 7_311_002
_BATCH = 500
_BATCH_BYTES = 16 * 1024 * 1024
"""A batch is in memory as rows and as messages until the broker has confirmed all of it."""
_STANDBY_S = 2.0
_CONFIRM_S = 30.0
_CLOSE_S = 5.0
FROZEN_S = 45.0
"""Longer than an active relay is ever silent: between two looks, or while it waits for confirmations."""


class Relay:
    """Step of a background loop: publish what is past the cursor, then move it.

    on_lag: called with the age in seconds of the oldest event that is not published; NaN while another replica's is active.
    on_published: called with the exchange and the seconds until the broker had confirmed a batch.
    """

    def __init__(
        self,
        database_url: str,
        bus: AbstractRobustConnection,
        *,
        name: str = "events",
        on_lag: Callable[[float], None] = lambda _: None,
        on_published: Callable[[str, float], None] = lambda *_: None,
    ) -> None:
        self._database_url = database_url
        self._bus = bus
        self._name = name
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._is_active = False
        self._next_try = 0.0
        self._channel: aio_pika.abc.AbstractChannel | None = None
        self._on_lag = on_lag
        self._on_published = on_published

    async def step(self) -> bool | float:
        """Publish one batch. True: there is more. Raises TryLater while Postgres or RabbitMQ is away."""
        if (wait_s := self._next_try - time.monotonic()) > 0:
            return wait_s
        try:
            connection = await self._locked_connection()
            if connection is None:
                self._on_lag(math.nan)  # whoever is active knows it; what was last known here is no alarm any more
                self._next_try = time.monotonic() + _STANDBY_S
                return _STANDBY_S
            return await self._publish_batch(connection)
        except TryLater:
            await self.close()
            raise

    async def _publish_batch(self, connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
        with database_faults():
            row = await sql.relay_cursor(connection, relay=self._name)
        xid, position = (row["xid"], row["position"]) if row else ("0", 0)
        batch = await read.past_cursor(connection, xid, position, most=_BATCH, most_bytes=_BATCH_BYTES)
        # events that an open transaction holds back are no batch, but they do wait
        oldest = batch[0][1].recorded_at if batch else await self._oldest_held_back(connection, xid, position)
        self._on_lag(0.0 if oldest is None else max(0.0, time.time() - oldest.timestamp()))
        if not batch:
            return False
        began = time.monotonic()
        await self._publish([event for _, event in batch])
        self._on_published(topology.EVENT_EXCHANGE.name, time.monotonic() - began)
        last_xid, last = batch[-1]
        with database_faults():
            await sql.move_relay_cursor(connection, relay=self._name, xid=last_xid, position=last.position)
        return len(batch) == _BATCH or sum(len(event.data) for _, event in batch) >= _BATCH_BYTES

    async def _oldest_held_back(
        self, connection: "asyncpg.Connection[asyncpg.Record]", xid: str, position: int
    ) -> datetime | None:
        with database_faults():
            recorded_at: datetime | None = await sql.oldest_past_cursor(connection, xid=xid, position=position)
        return recorded_at

    async def _publish(self, events: list[read.LoggedEvent]) -> None:
        signals = [(signal, event) for event in events if (signal := stop_message(event)) is not None]
        stop, topic = topology.STOP_EXCHANGE.name, topology.EVENT_EXCHANGE.name
        try:
            with broker_faults():
                async with asyncio.timeout(_CONFIRM_S):
                    if self._channel is None or self._channel.is_closed:
                        self._channel = await self._bus.channel(publisher_confirms=True)
                        await topology.declare(self._channel)
                    await asyncio.gather(
                        *(
                            publish_pipelined(self._channel, signal, exchange=stop, routing_key=event.scan_id)
                            for signal, event in signals
                        ),
                        *(_send_event(self._channel, event, exchange=topic) for event in events),
                    )
        except TryLater:
            await self._drop_channel()
            raise

    async def _drop_channel(self) -> None:
        """Close the channel, on which confirmations may still be due: a connection has room for some 2,000."""
        channel, self._channel = self._channel, None
        if channel is not None and not channel.is_closed:
            with suppress(TryLater), broker_faults():
                async with asyncio.timeout(_CLOSE_S):
                    await channel.close()

    async def _locked_connection(self) -> "asyncpg.Connection[asyncpg.Record] | None":
        """The connection that holds the relay's lock, or None while another replica holds it."""
        if self._connection is None or self._connection.is_closed():
            self._is_active = False
            with database_faults():
                self._connection = await connect(
                    self._database_url, name="relay", command_timeout_s=30, idle_session_timeout=str(int(FROZEN_S * 1000))
                )
        if not self._is_active:
            with database_faults():
                self._is_active = bool(await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK_KEY))
                if self._is_active:
                    try:
                        await refuse_log_of_another_server(self._connection)
                    except LogOfAnotherServer:
                        logger.error("relay.foreign-log", see="docs/operators/limits.md: the log was restored from a dump")
                        raise
            if self._is_active:
                logger.info("relay.leadership-acquired")
        return self._connection if self._is_active else None

    async def close(self) -> None:
        """Give the lock back."""
        if self._connection is not None:
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await self._connection.close(timeout=5)
            self._connection = None
        self._is_active = False


async def _send_event(channel: aio_pika.abc.AbstractChannel, event: read.LoggedEvent, *, exchange: str) -> None:
    """Publish an event, without the properties that can't be written: nothing in it may hold up the ones behind it."""
    message = event_message(event)
    try:
        await publish_pipelined(channel, message, exchange=exchange, routing_key=event.type)
    except UNWRITABLE:
        taken = without_unwritable(message)
        if not taken:
            raise
        logger.warning("relay.properties-omitted", event_id=str(event.event_id), scan_id=event.scan_id, properties=taken)
        await publish_pipelined(channel, message, exchange=exchange, routing_key=event.type)
