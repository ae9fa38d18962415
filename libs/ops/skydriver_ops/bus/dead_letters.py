"""The queue of dead letters, looked through from end to end without losing or reordering what stays in it.

A queue can't be read without taking. So all letters are held unsettled while one looks, a few in memory at a time, and given
back in the order in which they died. Whoever dies in the middle loses nothing: the broker gives back what a connection held. It
may do that in another order; the next complete look restores it.
"""

import asyncio
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import DeliveryError
from aiormq.exceptions import ChannelLockedResource

from skydriver_common.bus import lenient_decoding, topology
from skydriver_common.bus.broker import watched
from skydriver_common.bus.dead_letter import DeadLetter, letter_of, redriven_message
from skydriver_common.bus.errors import broker_faults
from skydriver_common.faults import TryLater
from skydriver_ops.bus.broker_objects import broker_object_exists

IN_MEMORY = 8
"""Letters delivered to us at a time; the largest are skymaps of some tens of MB."""

_LOCK = f"{topology.DEAD_LETTER_QUEUE}.lock"
_SILENCE_S = 5.0
_CONFIRM_S = 30.0
_ON_THEIR_WAY = 12
"""Less than the 32 commands after which RabbitMQ gathers what a channel sends to a quorum queue, and loses its order."""
_LOOKS, _LOOK_S = 400, 0.005


class InUse(Exception):
    """Somebody else is looking through the dead letters: two at once would see half each."""


class OriginMissing(Exception):
    """The queue that a letter came from is not there any more: it stays where it is."""


@dataclass(frozen=True, slots=True)
class OpenDeadLetter:
    """A letter in our hands. It goes back unless it is settled."""

    letter: DeadLetter
    _message: AbstractIncomingMessage
    _letters: "DeadLetters"

    async def can_redrive(self) -> bool:
        """Whether the queue or the exchange it came from is there. Raises TryLater."""
        return await self._letters.route_exists(self.letter)

    async def redrive(self) -> None:
        """Publish it to the queue it came from (or the exchange, when no queue is known), confirmed. It is still to be settled.

        Raises NoWayBack, TryLater.
        """
        await self._letters.publish(self.letter, redriven_message(self.letter, self._message))

    async def settle(self) -> None:
        """Remove it from the dead letters. Raises TryLater."""
        await self._letters.settle(self._message)


class DeadLetters:
    """One look through the queue. depth: how many letters there were at its beginning."""

    def __init__(
        self, connection: AbstractConnection, channel: AbstractChannel, publishing: AbstractChannel, queue: AbstractQueue
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._publishing = publishing
        self._queue = queue
        self.depth = queue.declaration_result.message_count or 0
        self._tags, self._times = array("Q"), array("d")
        self._settled: set[int] = set()
        self._ways: dict[tuple[str, str], bool] = {}

    async def letters(self) -> AsyncIterator[OpenDeadLetter]:
        """Each letter that was there at the beginning, in order; all that are not settled go back at the end.

        Leave the iteration before its end only on an error. Raises TryLater.
        """
        left = self.depth
        while left > 0:
            batch = await self._take(min(left, IN_MEMORY))
            if not batch:
                break
            left -= len(batch)
            for message in batch:
                letter = letter_of(message)
                yield OpenDeadLetter(letter, message, self)
                if message.delivery_tag is not None and message.delivery_tag not in self._settled:
                    self._tags.append(message.delivery_tag)
                    self._times.append(letter.last_failed_at)
                self._settled.clear()
        await self._give_back()

    async def _take(self, most: int) -> list[AbstractIncomingMessage]:
        """The next letters; fewer when there are no more. They stay unsettled after their consumer is gone."""
        taken: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        batch: list[AbstractIncomingMessage] = []
        with broker_faults():
            await self._channel.set_qos(prefetch_count=most)
            tag = await self._queue.consume(taken.put)
            while len(batch) < most:
                try:
                    batch.append(await asyncio.wait_for(taken.get(), _SILENCE_S))
                except TimeoutError:
                    if not await self._count():
                        break
            await self._queue.cancel(tag)
        while not taken.empty():
            batch.append(taken.get_nowait())
        return batch

    async def _give_back(self) -> None:
        """One by one, oldest failure first: the broker delivers returned letters before others, in the order of their return.

        A few at a time, each time until the broker has them: with many on their way to a quorum queue it takes them as it likes.
        """
        order = sorted(range(len(self._tags)), key=self._times.__getitem__)
        with broker_faults():
            channel = await self._channel.get_underlay_channel()
            for start in range(0, len(order), _ON_THEIR_WAY):
                there = await self._count()
                part = order[start : start + _ON_THEIR_WAY]
                for index in part:
                    await channel.basic_nack(self._tags[index], requeue=True)
                for _ in range(_LOOKS):
                    if await self._count() >= there + len(part):
                        break
                    await asyncio.sleep(_LOOK_S)

    async def _count(self) -> int:
        """How many letters lie in the queue, those in our hands left out."""
        found = await self._channel.declare_queue(self._queue.name, passive=True)
        return found.declaration_result.message_count or 0

    async def route_exists(self, letter: DeadLetter) -> bool:
        """See Held.has_way_back. Asked once for each queue."""
        way = (letter.queue, "" if letter.queue else letter.exchange)
        if way not in self._ways:
            with broker_faults():
                if letter.queue:
                    self._ways[way] = await broker_object_exists(self._connection, "queue", letter.queue)
                else:
                    self._ways[way] = await broker_object_exists(self._connection, "exchange", letter.exchange)
        return self._ways[way]

    async def publish(self, letter: DeadLetter, message: aio_pika.Message) -> None:
        """See Held.send_back."""
        with broker_faults():
            try:
                async with asyncio.timeout(_CONFIRM_S):
                    if letter.queue:
                        await self._publishing.default_exchange.publish(message, letter.queue, mandatory=True)
                    else:
                        exchange = await self._publishing.get_exchange(letter.exchange, ensure=False)
                        await exchange.publish(message, letter.key, mandatory=True)
            except DeliveryError as error:
                raise OriginMissing(letter.queue or f"{letter.exchange} {letter.key}") from error

    async def settle(self, message: AbstractIncomingMessage) -> None:
        """See Held.settle."""
        with broker_faults():
            await message.ack()
        if message.delivery_tag is not None:
            self._settled.add(message.delivery_tag)


@asynccontextmanager
async def open_dead_letters(amqp_url: str) -> AsyncIterator[DeadLetters]:
    """Hold the queue of dead letters for one look. Raises InUse, TryLater."""
    lenient_decoding.install()
    with broker_faults():
        connection = await aio_pika.connect(
            watched(amqp_url), timeout=10, client_properties={"connection_name": "skydriver-dead"}
        )
    try:
        with broker_faults():
            try:
                await (await connection.channel()).declare_queue(_LOCK, exclusive=True)
            except ChannelLockedResource:
                raise InUse from None
            channel = await connection.channel(publisher_confirms=False)
            await topology.declare_dead_letters(channel)
            queue = await channel.declare_queue(topology.DEAD_LETTER_QUEUE, passive=True)
            publishing = await connection.channel(publisher_confirms=True, on_return_raises=True)
        yield DeadLetters(connection, channel, publishing, queue)
    finally:
        with suppress(TryLater), broker_faults():
            async with asyncio.timeout(10):
                await connection.close()
