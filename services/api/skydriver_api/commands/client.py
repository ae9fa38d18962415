"""Publish a command, await its reply: many in flight on one exclusive reply queue.

A reply that is lost with the broker's connection is read from where the decision has recorded it, so that a command which took
effect does not get a 503.

FastStream's own ``request`` serialises calls (measured in the design: 440/s against 1,300/s), hence aio-pika here.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable

import aio_pika
import structlog
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustChannel, AbstractRobustConnection, DeliveryMode
from aio_pika.exceptions import AMQPError, DeliveryError

from skydriver_api.commands.admission import AdmissionLimit
from skydriver_common.bus import topology
from skydriver_common.bus.envelope import headers_of, reply_of
from skydriver_common.bus.errors import broker_faults
from skydriver_common.bus.publishing import ChannelLost, publish_pipelined
from skydriver_common.clock import CLOCK
from skydriver_common.faults import TryLater
from skydriver_common.model import event_codec
from skydriver_common.model.commands import REPLY_GRACE_S, Command, Context, PatchManifest, PutResult
from skydriver_common.model.rejections import Reply

logger = structlog.get_logger(__name__)

_RECONNECT_WAIT_S = 1.0
"""How long a command waits for the broker to come back before it is given up: nothing was sent yet."""
_REPLY_POLL_S = 0.5
_REPLY_QUERY_TIMEOUT_S = 2.0

RecordedReply = Callable[[str, str], Awaitable[Reply | None]]
"""From a command's id and fingerprint to the reply recorded under it, None when there is none. Raises TryLater."""


MAX_COMMAND_BYTES = 12 * 1024 * 1024
"""Brokers refuse messages above 16 MiB by closing the channel, which all requests share."""


class CommandTooLarge(Exception):
    """The command is too large for one message; nothing was sent."""


class _ReplyLost(Exception):
    """The connection that would have brought the reply is gone; the command may have been received."""


class CommandClient:
    """Sends commands to the services and waits for their replies. Open it before use."""

    def __init__(
        self, recorded_reply: RecordedReply, *, deadline_s: float, on_timeout: Callable[[str], None] = lambda _: None,
        on_published: Callable[[float], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """on_timeout: called with the key of a command without a reply. on_published: with the seconds until it was confirmed."""
        self._on_timeout = on_timeout
        self._on_published = on_published
        self._recorded_reply = recorded_reply
        self._deadline_s = deadline_s
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._admission: dict[str, AdmissionLimit] = {}
        self._channel: AbstractRobustChannel | None = None
        self._reply_to = ""

    async def open(self, bus: AbstractRobustConnection) -> None:
        """Declare the reply queue and consume it; until then every call raises TryLater. Raises TryLater."""
        with broker_faults():
            channel = await bus.channel(publisher_confirms=True, on_return_raises=True)
            await topology.declare(channel)
            replies = await channel.declare_queue(f"skydriver.replies.{uuid.uuid4().hex}", exclusive=True, auto_delete=True)
            await replies.consume(self._on_reply, no_ack=True)
        self._reply_to = replies.name
        self._channel = channel
        bus.close_callbacks.add(self._on_loss)
        channel.close_callbacks.add(self._on_loss)

    @property
    def is_open(self) -> bool:
        """Whether a broker was found since the start."""
        return self._channel is not None

    def admission(self, key: str) -> AdmissionLimit:
        """Return the limit of commands in flight with this routing key."""
        return self._admission.setdefault(key, AdmissionLimit(target_s=self._deadline_s / 5))

    async def call(self, command: Command, *, actor: str, command_id: str | None = None, fingerprint: str = "") -> Reply:
        """Send a command and return the service's recorded reply, rejections included.

        Raises TryLater when no service could take or process the command in time, or too many commands are in flight. It has not
        taken effect then, with two exceptions: the database could not be asked, or the commit of a decision took longer than a
        second. In both it is safe to repeat the command under the same id. Raises CommandTooLarge.
        """
        content = event_codec.encode({name: getattr(command, name) for name in _fields(command)})
        if len(content) > MAX_COMMAND_BYTES:
            raise CommandTooLarge
        with self.admission(command.key).waiting():
            return await self._call(command.key, content, actor, command_id, fingerprint)

    async def _call(self, key: str, content: bytes, actor: str, command_id: str | None, fingerprint: str) -> Reply:
        deadline = CLOCK.time_s() + self._deadline_s
        correlation_id = uuid.uuid4().hex
        context = Context(
            command_id=command_id or str(uuid.uuid4()), correlation_id=correlation_id, actor=actor, deadline=deadline,
            fingerprint=fingerprint,
        )  # fmt: skip
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = reply
        try:
            async with asyncio.timeout(self._deadline_s + REPLY_GRACE_S):
                await self._publish(key, content, context)
                return await reply
        except TimeoutError as error:
            self._on_timeout(key)
            found = await self._find_recorded_reply(context)
            if found is None:
                raise TryLater(
                    "the request was not processed in time; nothing was changed unless a later read shows it", 2.0
                ) from error
            return found
        except _ReplyLost as error:
            found = await self._poll_recorded_reply(deadline + REPLY_GRACE_S, context)
            if found is None:
                raise TryLater("the message broker is unreachable", 2.0) from error
            return found
        finally:
            self._waiting.pop(correlation_id, None)

    async def _publish(self, key: str, content: bytes, context: Context) -> None:
        """Send, as soon as a broker is there to take it. Raises TryLater when it was not sent, _ReplyLost when it may have been."""
        message = aio_pika.Message(
            content,
            message_id=context.command_id,
            correlation_id=context.correlation_id,
            reply_to=self._reply_to,
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
            headers=headers_of(context),
        )
        # no time to live: the consumer drops what is late, the broker would make a dead letter of it
        give_up_at = asyncio.get_running_loop().time() + _RECONNECT_WAIT_S
        while True:
            channel = await self._ready_channel(give_up_at)
            began = time.monotonic()
            try:
                await publish_pipelined(
                    channel,
                    message,
                    exchange=topology.COMMAND_EXCHANGE.name,
                    routing_key=key,
                    mandatory=True,
                    wait_for_room=False,
                )
                return self._on_published(time.monotonic() - began)
            except ChannelLost:
                await asyncio.sleep(_RECONNECT_WAIT_S / 50)  # until the channel has noticed it as well
            except DeliveryError as error:
                raise TryLater(f"no {_service_of(key)} is running; the request was not processed", 2.0) from error
            except (AMQPError, OSError, RuntimeError) as error:
                raise _ReplyLost from error

    async def _ready_channel(self, give_up_at: float) -> AbstractRobustChannel:
        """The channel, once it and its reply queue are there again after a reconnection. Raises TryLater at a moment (loop's time).

        The connection alone is not enough: it is back some time before what was declared on it.
        """
        if self._channel is None:
            raise TryLater("the message broker is unreachable", 2.0)
        try:
            async with asyncio.timeout_at(give_up_at):
                await self._channel.ready()
                return self._channel
        except TimeoutError as error:
            raise TryLater("the message broker is unreachable", 2.0) from error

    async def _poll_recorded_reply(self, moment: float, context: Context) -> Reply | None:
        """The recorded reply, as soon as there is one; None when there is none at that moment (Unix seconds)."""
        while True:
            is_last = CLOCK.time_s() > moment
            found = await self._find_recorded_reply(context)
            if found is not None or is_last:
                return found
            await asyncio.sleep(_REPLY_POLL_S)

    async def _find_recorded_reply(self, context: Context) -> Reply | None:
        try:
            async with asyncio.timeout(_REPLY_QUERY_TIMEOUT_S):
                return await self._recorded_reply(context.command_id, context.fingerprint)
        except (TryLater, TimeoutError):
            return None

    def _on_loss(self, *_: object) -> None:
        """The connection or the channel is gone, and with it the replies that were on their way."""
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(_ReplyLost())
                reply.exception()  # so that asyncio logs no error for a caller that gave up meanwhile

    async def _on_reply(self, message: AbstractIncomingMessage) -> None:
        reply = self._waiting.get(message.correlation_id or "")
        if reply is not None and not reply.done():
            try:
                reply.set_result(reply_of(message.headers, message.body))
            except TryLater as fault:
                reply.set_exception(fault)


def _service_of(key: str) -> str:
    """The service that consumes commands with this routing key, for people."""
    if key.startswith("ewms."):
        return "EWMS bridge"
    return "progress service" if key in (PatchManifest.key, PutResult.key) else "dispatcher"


def _fields(command: Command) -> tuple[str, ...]:
    return tuple(command.__dataclass_fields__)
