"""Publish a command, await its reply: many in flight on one exclusive reply queue.

A reply that is lost with the broker's connection is read from where the decision has recorded it, so that a command which took
effect is not answered 503.

FastStream's own ``request`` serialises calls (measured in the design: 440/s against 1,300/s), hence aio-pika here.
"""

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable

import aio_pika
import structlog
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue, AbstractRobustChannel, AbstractRobustConnection, DeliveryMode
from aio_pika.exceptions import AMQPError, DeliveryError

from skydriver_common.bus import topology
from skydriver_common.bus.envelope import headers_of, reply_of
from skydriver_common.bus.sending import send
from skydriver_common.bus.translate import broker_faults
from skydriver_common.faults import TryLater
from skydriver_common.model import wire
from skydriver_common.model.commands import Command, Context
from skydriver_common.model.rejections import Reply

log = structlog.get_logger(__name__)

_GRACE_S = 2.0
"""How much longer than the deadline a reply is awaited: what was committed just in time is told."""
_BLIP_S = 1.0
"""How long a command waits for a broker that is away before it is given up: nothing was sent yet."""
_LOOK_EVERY_S = 0.5
_LOOK_LIMIT_S = 2.0

RecordedReply = Callable[[str, str], Awaitable[Reply | None]]
"""From a command's id and fingerprint to the reply recorded under it, None when there is none. Raises TryLater."""


_MOST_BYTES = 12 * 1024 * 1024
"""Brokers refuse messages above 16 MiB by closing the channel, which all requests share."""


class CommandTooLarge(Exception):
    """What is asked is too much for one message; nothing was sent."""


class _ReplyLost(Exception):
    """The connection that would have brought the reply is gone; the command may have been received."""


class Commander:
    """Asks the services. Open it before use, close it after."""

    def __init__(self, bus: AbstractRobustConnection, recorded_reply: RecordedReply, *, deadline_s: float) -> None:
        self._bus = bus
        self._recorded_reply = recorded_reply
        self._deadline_s = deadline_s
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._channel: AbstractRobustChannel | None = None
        self._replies: AbstractQueue | None = None

    async def open(self) -> None:
        """Declare the reply queue and begin to listen. Raises TryLater."""
        with broker_faults():
            channel = await self._bus.channel(publisher_confirms=True, on_return_raises=True)
            await topology.declare(channel)
            self._replies = await channel.declare_queue(
                f"skydriver.replies.{uuid.uuid4().hex}", exclusive=True, auto_delete=True
            )
            await self._replies.consume(self._on_reply, no_ack=True)
            self._channel = channel
        self._bus.close_callbacks.add(self._on_loss)

    async def ask(self, command: Command, *, actor: str, command_id: str | None = None, fingerprint: str = "") -> Reply:
        """The service's recorded reply, refusals included.

        Raises TryLater when nobody could take or answer the command in time: it then has not taken effect and won't, unless
        the database could not be asked either. Raises CommandTooLarge.
        """
        content = wire.encode({name: getattr(command, name) for name in _fields(command)})
        if len(content) > _MOST_BYTES:
            raise CommandTooLarge
        await self._connected()
        deadline = time.time() + self._deadline_s
        correlation_id = uuid.uuid4().hex
        context = Context(
            command_id=command_id or str(uuid.uuid4()), correlation_id=correlation_id, actor=actor, deadline=deadline,
            fingerprint=fingerprint,
        )  # fmt: skip
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = answer
        try:
            async with asyncio.timeout(self._deadline_s + _GRACE_S):
                await self._publish(command.key, content, context)
                return await answer
        except TimeoutError as error:
            found = await self._look(context)
            if found is None:
                raise TryLater("the service that does this did not answer in time", 2.0) from error
            return found
        except _ReplyLost as error:
            found = await self._look_until(deadline + _GRACE_S, context)
            if found is None:
                raise TryLater("the message broker can't be reached", 2.0) from error
            return found
        finally:
            self._waiting.pop(correlation_id, None)

    async def _connected(self) -> None:
        try:
            async with asyncio.timeout(_BLIP_S):
                await self._bus.ready()
        except TimeoutError as error:
            raise TryLater("the message broker can't be reached", 2.0) from error

    async def _look_until(self, moment: float, context: Context) -> Reply | None:
        """The recorded reply, as soon as there is one; None when there is none at that moment (Unix seconds)."""
        while True:
            is_last = time.time() > moment
            found = await self._look(context)
            if found is not None or is_last:
                return found
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _look(self, context: Context) -> Reply | None:
        try:
            async with asyncio.timeout(_LOOK_LIMIT_S):
                return await self._recorded_reply(context.command_id, context.fingerprint)
        except (TryLater, TimeoutError):
            return None

    async def _publish(self, key: str, content: bytes, context: Context) -> None:
        if self._channel is None or self._replies is None:
            raise TryLater("the message broker can't be reached")
        message = aio_pika.Message(
            content,
            message_id=context.command_id,
            correlation_id=context.correlation_id,
            reply_to=self._replies.name,
            expiration=math.ceil(self._deadline_s),
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
            headers=headers_of(context),
        )
        try:
            await send(self._channel, message, exchange=topology.COMMANDS.name, routing_key=key, mandatory=True)
        except DeliveryError as error:
            raise TryLater("the service that does this is not running", 2.0) from error
        except (AMQPError, OSError, RuntimeError) as error:
            raise _ReplyLost from error

    def _on_loss(self, *_: object) -> None:
        """The connection is gone, and with it the replies that were on their way."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(_ReplyLost())
                answer.exception()  # whoever gave up meanwhile must not make it an unheard error

    async def _on_reply(self, message: AbstractIncomingMessage) -> None:
        answer = self._waiting.get(message.correlation_id or "")
        if answer is not None and not answer.done():
            answer.set_result(reply_of(message.headers, message.body))


def _fields(command: Command) -> tuple[str, ...]:
    return tuple(command.__dataclass_fields__)
