"""Past events published again: with their own ids and times, in the order of their commits, confirmed before one goes on."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import aio_pika
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import DeliveryError

from skydriver_common.bus.broker import watched
from skydriver_common.bus.errors import broker_faults
from skydriver_common.bus.event_messages import REPLAYED, event_message
from skydriver_common.bus.lenient_decoding import without_unwritable
from skydriver_common.bus.publishing import publish_pipelined
from skydriver_ops.bus.broker_objects import broker_object_exists
from skydriver_ops.eventlog.selection import ChainedEvent

MAX_UNCONFIRMED = 200
"""Events that wait for their confirmations together."""

_CONFIRM_S = 60.0


class TargetNotFound(Exception):
    """There is no exchange or queue of this name, or there is one of each."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where events are published. queue: its name, or None for an exchange, which gets each event by its type."""

    channel: AbstractChannel
    exchange: str
    queue: str | None

    async def publish(self, links: list[ChainedEvent]) -> None:
        """Publish these and wait for the confirmations. Raises NoSuchPlace (the queue is gone), TryLater."""
        replayed_at = datetime.now(UTC).isoformat()
        with broker_faults():
            try:
                async with asyncio.timeout(_CONFIRM_S):
                    await asyncio.gather(*(self._publish(one, replayed_at) for one in links))
            except DeliveryError as error:
                raise TargetNotFound(f"queue {self.queue} rejected the event") from error

    async def _publish(self, one: ChainedEvent, replayed_at: str) -> None:
        message = event_message(one.event, **{REPLAYED: replayed_at})
        without_unwritable(message)
        is_queue = self.queue is not None
        await publish_pipelined(
            self.channel, message, exchange=self.exchange, routing_key=self.queue or one.event.type, mandatory=is_queue
        )


class RateLimiter:
    """Lets through at most so many events per second; None: as fast as they go."""

    def __init__(self, per_s: float | None) -> None:
        self._per_s = per_s
        self._began = time.monotonic()
        self._passed = 0

    @property
    def at_once(self) -> int:
        """How many may go together, so that they are spread evenly: a tenth of a second's worth."""
        return MAX_UNCONFIRMED if self._per_s is None else max(1, min(MAX_UNCONFIRMED, int(self._per_s / 10)))

    async def passes(self, count: int) -> None:
        """Wait until so many more may go."""
        if self._per_s is not None:
            await asyncio.sleep(max(0.0, self._began + self._passed / self._per_s - time.monotonic()))
        self._passed += count


@asynccontextmanager
async def target(amqp_url: str, name: str) -> AsyncIterator[Target]:
    """The exchange or the queue of this name; ``exchange:NAME`` or ``queue:NAME`` says which. Raises NoSuchPlace, TryLater."""
    with broker_faults():
        connection = await aio_pika.connect(
            watched(amqp_url), timeout=10, client_properties={"connection_name": "skydriver-replay"}
        )
    async with connection:
        kind, _, plain = name.rpartition(":") if name.startswith(("exchange:", "queue:")) else ("", "", name)
        with broker_faults():
            is_exchange = kind != "queue" and await broker_object_exists(connection, "exchange", plain)
            is_queue = kind != "exchange" and await broker_object_exists(connection, "queue", plain)
            if is_exchange and is_queue:
                raise TargetNotFound(f"{plain} is ambiguous: use exchange:{plain} or queue:{plain}")
            if not is_exchange and not is_queue:
                raise TargetNotFound(f"there is no {kind or 'exchange or queue'} called {plain}")
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        yield Target(channel, plain if is_exchange else "", None if is_exchange else plain)
