"""Publishing many messages at once on one channel, with a bound on what waits to be sent.

The client library's own ``publish`` holds the channel until the socket has taken the message, so that messages of many tasks go
out one by one, each in a write of its own. Here they go out together; where the channel asks for confirmations, each is awaited.

A broker that takes nothing (memory or disk alarm, flow control) would let the messages pile up in this process. So a message is
refused before it is written while the broker has blocked the connection, or while too many bytes on it are not confirmed yet.
"""

import asyncio
from weakref import WeakKeyDictionary

from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractRobustConnection
from aio_pika.exceptions import AMQPError
from aiormq.abc import AbstractConnection
from aiormq.channel import Channel

from skydriver_common.bus.errors import heartbeat_loss_as_connection_error
from skydriver_common.faults import TryLater

MAX_UNCONFIRMED_BYTES = 32 * 1024 * 1024
"""Of messages on one connection that the broker has not confirmed yet; a single larger one may go alone."""
MAX_UNDRAINED_BYTES = 1024 * 1024
"""Without confirmations: after so many bytes the socket must have taken what was written before more is."""
_ENVELOPE_BYTES = 1024
"""About what properties and frames add to a body."""


class NotSent(TryLater):
    """The message was not written to the connection: it has no effect, and may be sent again."""


class ChannelLost(NotSent):
    """The message was not written, because the channel is closed; it may be open again in a moment."""


class _Unconfirmed:
    """What is on its way on one connection."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self.undrained = 0
        self.publications: set[asyncio.Task[object]] = set()
        self._freed = asyncio.Event()

    async def make_room(self, size: int, *, wait: bool) -> None:
        """Raises NotSent when there is no room and the caller does not want to wait for it."""
        while self.n_bytes and self.n_bytes + size > MAX_UNCONFIRMED_BYTES:
            if not wait:
                raise NotSent("the message broker takes messages too slowly", 2.0)
            self._freed.clear()
            await self._freed.wait()

    def free(self, size: int) -> None:
        self.n_bytes -= size
        self._freed.set()


_UNCONFIRMED: "WeakKeyDictionary[AbstractConnection, _Unconfirmed]" = WeakKeyDictionary()


async def publish_pipelined(
    channel: AbstractChannel, message: Message, *, exchange: str, routing_key: str, mandatory: bool = False,
    wait_for_room: bool = True,
) -> None:  # fmt: skip
    """Publish; return when the broker has confirmed, or at once on a channel without confirmations.

    wait_for_room: whether to wait while too much is unconfirmed, or to be refused then. Raises NotSent, and what the client library
    raises: DeliveryError for a message that a queue refused or, with ``mandatory``, that found none, AMQPError and others when
    the broker is lost meanwhile; then the message may have arrived.
    """
    try:
        underlay = await channel.get_underlay_channel()
    except (AMQPError, OSError, RuntimeError) as error:
        raise ChannelLost("the message broker is unreachable", 1.0) from error
    assert isinstance(underlay, Channel)
    connection = underlay.connection
    if underlay.is_closed or connection.is_closed:
        raise ChannelLost("the message broker is unreachable", 1.0)
    if is_blocked(connection):
        raise NotSent("the message broker is out of memory or disk and accepts no messages", 5.0)
    unconfirmed = _UNCONFIRMED.setdefault(connection, _Unconfirmed())
    size = len(message.body) + _ENVELOPE_BYTES
    await unconfirmed.make_room(size, wait=wait_for_room)
    must_drain = False
    if not underlay.publisher_confirms:
        unconfirmed.undrained += size
        if must_drain := unconfirmed.undrained > MAX_UNDRAINED_BYTES:
            unconfirmed.undrained = 0

    async def publish() -> None:
        if underlay.is_closed:
            raise ChannelLost("the message broker is unreachable", 1.0)
        await underlay.basic_publish(
            message.body, exchange=exchange, routing_key=routing_key, properties=message.properties, mandatory=mandatory,
            wait=must_drain,
        )  # fmt: skip

    # a task of its own: whoever stops waiting takes nothing back, what was written stays on its way
    unconfirmed.n_bytes += size
    publication = asyncio.create_task(publish())
    unconfirmed.publications.add(publication)
    publication.add_done_callback(lambda task: _ended(task, unconfirmed, size))
    with heartbeat_loss_as_connection_error():
        await asyncio.shield(publication)


def is_bus_blocked(bus: AbstractRobustConnection) -> bool:
    """Return the same for the connection that this one has at present; False while it has none."""
    connection = None if bus.transport is None else bus.transport.connection
    return connection is not None and not connection.is_closed and is_blocked(connection)


def is_blocked(connection: AbstractConnection) -> bool:
    """Return whether the broker has said on this connection that it takes no messages at present."""
    ready = connection.ready()  # of a connection that is open, this waits for exactly that
    try:
        ready.send(None)
    except StopIteration:
        return False
    finally:
        ready.close()
    return True


def _ended(publication: "asyncio.Task[None]", unconfirmed: _Unconfirmed, size: int) -> None:
    unconfirmed.publications.discard(publication)
    unconfirmed.free(size)
    if not publication.cancelled():
        publication.exception()  # nobody may be waiting for it any more
