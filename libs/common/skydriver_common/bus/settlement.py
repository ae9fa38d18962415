"""From how handling ended to what becomes of the message: the only place where messages are settled.

==========================================  ========================================================================  ==========
how handling ended                          what becomes of the message                                               outcome
==========================================  ========================================================================  ==========
a decision                                  reply, acknowledged                                                       done
a refusal                                   reply, acknowledged                                                       refused
the deadline passed, before or meanwhile    acknowledged: whoever asked has been told 503                             late
`BadMessage`, not of the expected form      dead letter with the reason                                               buried
the database refuses the message's values   a bug: three tries, then dead letter with the traceback                   buried
any other error                             a bug: three tries, then dead letter with the traceback                   buried
`TryLater`, any other database error        waits here and is tried again, without end; uses up no try of a bug       (none)
the service stops meanwhile                 given back to its queue                                                   given-back
the connection to the broker is lost        the broker delivers it again                                              lost
==========================================  ========================================================================  ==========

Which database errors are whose fault: ``db/sqlstates.py``.
"""

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
import structlog
from aio_pika.exceptions import ChannelInvalidStateError
from faststream import BaseMiddleware
from faststream.rabbit import RabbitBroker
from faststream.rabbit.message import RabbitMessage
from pydantic import ValidationError

from skydriver_common.backoff import Backoff
from skydriver_common.bus import topology
from skydriver_common.bus.dead_letter import FAILED, KEY, MALFORMED, QUEUE, dead_letter_headers, dead_letter_message
from skydriver_common.bus.envelope import MESSAGE, deadline_of, seconds_left
from skydriver_common.bus.errors import broker_faults
from skydriver_common.bus.lenient_decoding import short_text
from skydriver_common.bus.replies import Replies
from skydriver_common.db.errors import fault_of
from skydriver_common.faults import BadMessage, TryLater
from skydriver_common.log.unit_of_work import DeadlinePassed
from skydriver_common.model.rejections import Reply

logger = structlog.get_logger(__name__)

_MAX_TRIES_OF_A_BUG = 3
_RETRY = Backoff(first_s=0.1, cap_s=5.0)
_CONFIRM_S = 30.0

LATE, LOST, GIVEN_BACK, DEAD_LETTERED = "late", "lost", "given-back", "buried"

Handled = Callable[[str, str, float], None]
"""Called with (routing key, outcome, seconds) for metrics."""

DeadLettered = Callable[[str, str], None]
"""Called with (queue, code) of a message that became a dead letter, for metrics."""


class SettlementMiddleware:
    """Makes the middleware that settles every message of one broker."""

    def __init__(self, stopping: asyncio.Event, handled: Handled, replies: Replies) -> None:
        self.broker: RabbitBroker | None = None
        self.stopping = stopping
        self.handled = handled
        self.replies = replies
        self.dead_lettered: DeadLettered = lambda *_: None

    def __call__(self, msg: Any, /, *, context: Any) -> "_Settlement":
        return _Settlement(self, msg, context)


class _Settlement(BaseMiddleware[Any, Any]):
    def __init__(self, settle: SettlementMiddleware, msg: Any, context: Any) -> None:
        super().__init__(msg, context=context)
        self._settle = settle

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: Any) -> Any:
        started = time.monotonic()
        key = str(msg.headers.get(KEY) or msg.raw_message.routing_key or "")  # one that was sent back from the dead letters
        MESSAGE.set(msg)
        with structlog.contextvars.bound_contextvars(command_id=msg.message_id, correlation_id=msg.correlation_id):
            outcome = await self._handle(call_next, msg)
            seconds = time.monotonic() - started
            self._settle.handled(key, outcome, seconds)
            logger.debug("message.settled", key=key, outcome=outcome, duration_s=round(seconds, 4))

    async def _handle(self, call_next: Callable[[Any], Awaitable[Any]], msg: RabbitMessage) -> str:
        """The outcome. Raises nothing but cancellation: FastStream would swallow it, and nobody settle the message."""
        waits = bugs = 0
        while True:
            deadline = None
            try:
                deadline = deadline_of(msg.headers)
                if seconds_left(deadline) <= 0:
                    return await self._settled(msg, LATE)
                result = await call_next(msg)
            except (BadMessage, ValidationError) as error:
                reason = error.reason if isinstance(error, BadMessage) else _readable(error)
                return await self._dead_letter(msg, MALFORMED, reason)
            except DeadlinePassed:
                return await self._settled(msg, LATE)
            except Exception as error:
                if (fault := error if isinstance(error, TryLater) else fault_of(error)) is not None:
                    waits += 1
                    pause_s = pause_after(fault, waits)
                    logger.warning("message.retrying", what=fault.what, waits=waits, retry_in_s=round(pause_s, 3))
                else:
                    bugs += 1
                    logger.exception("message.failed", failures=bugs)
                    if bugs >= _MAX_TRIES_OF_A_BUG:
                        reason = f"internal error: {type(error).__name__}; see the traceback"
                        return await self._dead_letter(msg, FAILED, reason, trace=traceback.format_exc(limit=-8))
                    pause_s = 0.2 * bugs
            else:
                if isinstance(result, Reply):
                    await self._reply(msg, result)
                return await self._settled(msg, "done" if not isinstance(result, Reply) or result.is_done else "refused")
            if await self._stopped_within(min(pause_s, max(0.0, seconds_left(deadline)))):
                return await self._given_back(msg)
            if _is_gone(msg):
                return LOST

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._settle.stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _reply(self, msg: RabbitMessage, reply: Reply) -> None:
        if not msg.reply_to:
            return
        try:
            # best effort: a gateway that has died must not undo what is committed
            await self._settle.replies.send(reply, to=msg.reply_to, correlation_id=msg.correlation_id or "")
        except TryLater as fault:
            logger.warning("reply.lost", what=fault.what)
        except Exception:
            logger.exception(
                "reply.failed"
            )  # it may be the way back that can't be written; the message is settled all the same

    async def _settled(self, msg: RabbitMessage, outcome: str) -> str:
        try:
            with broker_faults():
                await msg.ack()
        except TryLater:
            return LOST
        return outcome

    async def _given_back(self, msg: RabbitMessage) -> str:
        try:
            with broker_faults():
                await msg.nack(requeue=True)
        except TryLater:
            return LOST
        return GIVEN_BACK

    async def _dead_letter(self, msg: RabbitMessage, code: str, reason: str, *, trace: str = "") -> str:
        """Publish to the dead letters with the reason, confirmed, then ack; until that works the message stays ours."""
        handler = self.context.get_local("handler_")
        headers = dead_letter_headers(
            msg.headers, code=code, reason=reason, queue=str(getattr(getattr(handler, "queue", None), "name", "")),
            exchange=msg.raw_message.exchange or "", key=msg.raw_message.routing_key or "", trace=trace,
        )  # fmt: skip
        letter = dead_letter_message(
            msg.body, headers, message_id=msg.message_id, correlation_id=msg.correlation_id, content_type=msg.content_type,
            content_encoding=msg.raw_message.content_encoding,
        )  # fmt: skip
        waits = 0
        while not self._settle.stopping.is_set() and not _is_gone(msg):
            try:
                await self._publish(letter, short_text(str(headers[KEY])) or "unknown")
            except TryLater as fault:
                waits += 1
                pause_s = pause_after(fault, waits)
                logger.warning("dead-letter.retrying", what=fault.what, waits=waits, retry_in_s=round(pause_s, 3))
                await self._stopped_within(pause_s)
                continue
            logger.error("message.dead-lettered", code=code, reason=reason[:1000])
            self._settle.dead_lettered(str(headers.get(QUEUE, "")), code)
            return await self._settled(msg, DEAD_LETTERED)
        return await self._given_back(msg)

    async def _publish(self, letter: aio_pika.Message, key: str) -> None:
        """Raises TryLater, also when the broker does not take it or does not say so in time."""
        assert self._settle.broker is not None
        with broker_faults():
            async with asyncio.timeout(_CONFIRM_S):
                await self._settle.broker.publish(letter, exchange=topology.DEAD_LETTER_EXCHANGE, routing_key=key)


def _is_gone(msg: RabbitMessage) -> bool:
    """Whether the channel it came on is closed: then the broker delivers it again, and it can't be settled here."""
    try:
        return bool(msg.raw_message.channel.is_closed)
    except ChannelInvalidStateError:
        return True


def pause_after(fault: TryLater, waits: int) -> float:
    """Return the seconds until the next try: growing, spread, and not less than half of what the fault says."""
    return max(fault.after_s * random.uniform(0.5, 1), _RETRY.pause_s(waits))  # noqa: S311  (no secret)


def _readable(error: ValidationError) -> str:
    """The problems of a message, without its values."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in error.errors(include_input=False, include_url=False)
    )
