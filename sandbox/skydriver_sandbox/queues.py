"""One EWMS queue from the client's side: where it is, how to get in, how to read and write it.

Source: EWMS contract 8. Clients declare the queue themselves (durable, quorum); messages go to the default exchange with
the queue's name as routing key. A lost connection shows as `QueueLostError`; the caller opens a new one.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AMQPException

# What aio-pika and aiormq let through when a broker goes away, besides their own family.
LOST = (AMQPException, ConnectionError, OSError, asyncio.InvalidStateError, RuntimeError, TimeoutError)
_PUBLISH_BATCH = 256


class QueueLostError(Exception):
    """The broker cannot be reached or dropped the connection; a new one may work."""


class BadProfileError(Exception):
    """A queue's address or profile cannot be used."""


@dataclass(frozen=True)
class QueueProfile:
    """Name, place and token of one queue, as in one half of `ewms.json`."""

    name: str
    auth_token: str
    broker_type: str
    broker_address: str

    def url(self) -> str:
        """AMQP URL of the broker: user from the address, the token as password. Contains the secret."""
        address = self.broker_address if "://" in self.broker_address else f"amqp://{self.broker_address}"
        parts = urlsplit(address)
        if not parts.hostname or parts.scheme not in {"amqp", "amqps"}:
            raise BadProfileError(f"queue {self.name}: no host in the broker's address")
        user = quote(unquote(parts.username or ""), safe="")
        login = f"{user}:{quote(self.auth_token, safe='')}@" if user or self.auth_token else ""
        port = f":{parts.port}" if parts.port else ""
        vhost = quote(unquote(parts.path[1:]), safe="") or "%2F"
        return f"{parts.scheme}://{login}{parts.hostname}{port}/{vhost}"


def read_profile(name: str, fields: object) -> QueueProfile:
    """One half of `ewms.json`. Raises BadProfileError, which names the field and not its value."""
    if not isinstance(fields, Mapping):
        raise BadProfileError(f"'{name}' is not an object")
    for field in ("name", "auth_token", "broker_type", "broker_address"):
        if not isinstance(fields.get(field), str):
            raise BadProfileError(f"'{name}.{field}' is not a text")
    if fields["broker_type"] != "rabbitmq":
        raise BadProfileError(f"'{name}.broker_type' is not rabbitmq")
    return QueueProfile(fields["name"], fields["auth_token"], fields["broker_type"], fields["broker_address"])


class Queue:
    """An open queue; `async with` closes it. Not for use by several tasks, except `publish`."""

    def __init__(self, profile: QueueProfile, *, prefetch: int = 1, timeout_s: float = 20.0) -> None:
        self._profile = profile
        self._prefetch = prefetch
        self._timeout_s = timeout_s
        self._connection: aio_pika.abc.AbstractConnection | None = None
        self._arrived: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()
        self._kept: list[AbstractIncomingMessage] = []
        self._consumer_tag: str | None = None

    async def __aenter__(self) -> "Queue":
        try:
            async with asyncio.timeout(self._timeout_s):
                self._connection = await aio_pika.connect(self._profile.url(), timeout=self._timeout_s)
                self._connection.close_callbacks.add(self._on_lost)
                self._channel = await self._connection.channel(publisher_confirms=True)
                self._channel.close_callbacks.add(self._on_lost)
                await self._channel.set_qos(prefetch_count=self._prefetch)
                self._queue = await self._channel.declare_queue(
                    self._profile.name, durable=True, arguments={"x-queue-type": "quorum"}
                )
        except LOST as error:
            await self._close()
            raise QueueLostError(f"queue {self._profile.name}: {type(error).__name__}") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        if self._connection is not None:
            try:
                async with asyncio.timeout(5):
                    await self._connection.close()
            except LOST:
                return  # It was gone already.

    def _on_lost(self, *_: Any) -> None:
        self._arrived.put_nowait(None)

    async def start_reading(self) -> None:
        """Let messages come in, at most `prefetch` unanswered ones. Raises QueueLostError."""
        try:
            self._consumer_tag = await self._queue.consume(self._arrived.put, timeout=self._timeout_s)
        except LOST as error:
            raise QueueLostError(f"queue {self._profile.name}: {type(error).__name__}") from error

    async def stop_reading(self) -> None:
        """Let no more messages come in; those that have come stay with the caller. Raises QueueLostError."""
        if self._consumer_tag is None:
            return
        tag, self._consumer_tag = self._consumer_tag, None
        try:
            await self._queue.cancel(tag, timeout=self._timeout_s)
        except LOST as error:
            raise QueueLostError(f"queue {self._profile.name}: {type(error).__name__}") from error

    async def next_messages(self, *, timeout_s: float, limit: int = 1) -> list[AbstractIncomingMessage]:
        """Wait for a message; give it and those already here, oldest first; none after the timeout. Raises QueueLostError."""
        if self._kept:
            kept, self._kept = self._kept[:limit], self._kept[limit:]
            return kept
        try:
            async with asyncio.timeout(timeout_s):
                messages = [await self._arrived.get()]
        except TimeoutError:
            return []
        while len(messages) < limit and not self._arrived.empty():
            messages.append(self._arrived.get_nowait())
        if None in messages:
            self._arrived.put_nowait(None)  # Stay lost for whoever asks again.
            raise QueueLostError(f"queue {self._profile.name}: the connection closed")
        return [message for message in messages if message is not None]

    def put_back(self, messages: list[AbstractIncomingMessage]) -> None:
        """Keep messages for the next `next_messages`: they were taken too early. They stay unanswered."""
        self._kept = messages + self._kept

    async def waiting(self) -> int:
        """How many messages lie in the queue and are with no one. Raises QueueLostError."""
        try:
            declared = await self._queue.declare(timeout=self._timeout_s)
        except LOST as error:
            raise QueueLostError(f"queue {self._profile.name}: {type(error).__name__}") from error
        return declared.message_count or 0

    async def publish(self, body: bytes) -> None:
        """Put one message into the queue; returns when the broker has it safe. Raises QueueLostError."""
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        try:
            await self._channel.default_exchange.publish(
                message, routing_key=self._profile.name, mandatory=True, timeout=self._timeout_s
            )
        except LOST as error:
            raise QueueLostError(f"queue {self._profile.name}: {type(error).__name__}") from error

    async def publish_all(self, bodies: Iterable[bytes]) -> None:
        """Publish many, a few hundred confirms under way at a time. Raises QueueLostError: some may have arrived."""
        batch: list[bytes] = []
        for body in bodies:
            batch.append(body)
            if len(batch) == _PUBLISH_BATCH:
                await self._publish_together(batch)
                batch = []
        if batch:
            await self._publish_together(batch)

    async def _publish_together(self, bodies: list[bytes]) -> None:
        results = await asyncio.gather(*(self.publish(body) for body in bodies), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


async def settle(message: AbstractIncomingMessage, *, multiple: bool = False) -> None:
    """Tell the broker that a message (or all up to it) is done with. Raises QueueLostError."""
    try:
        await message.ack(multiple=multiple)
    except LOST as error:
        raise QueueLostError("the connection closed before an answer was settled") from error


async def give_back(message: AbstractIncomingMessage) -> None:
    """Return a message to its queue for another worker. Raises QueueLostError."""
    try:
        await message.nack(requeue=True)
    except LOST as error:
        raise QueueLostError("the connection closed before a message was given back") from error
