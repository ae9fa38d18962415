"""From how handling ended to what becomes of the message: the only place where messages are settled.

done → reply, ack · BadMessage, deadline passed → dead letter with the reason · TryLater → wait here and try again, until the
deadline; given back when the service stops · anything else → three tries, then dead letter with the traceback.
"""

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from faststream import BaseMiddleware
from faststream.rabbit import RabbitBroker
from faststream.rabbit.message import RabbitMessage
from pydantic import ValidationError

from skydriver_common.bus import topology
from skydriver_common.bus.envelope import MESSAGE, deadline_of, seconds_left
from skydriver_common.bus.letters import KEY, headers_of_burial
from skydriver_common.bus.replies import Replies
from skydriver_common.db.translate import fault_of
from skydriver_common.faults import BadMessage, TryLater
from skydriver_common.log.unit_of_work import DeadlinePassed
from skydriver_common.model.rejections import Reply

log = structlog.get_logger(__name__)

_TRIES_OF_A_BUG = 3
_LONGEST_WAIT_S = 5.0

Handled = Callable[[str, str, float], None]
"""Called with (routing key, outcome, seconds) for metrics."""


class Settle:
    """Makes the middleware that settles every message of one broker."""

    def __init__(self, stopping: asyncio.Event, handled: Handled, replies: Replies) -> None:
        self.broker: RabbitBroker | None = None
        self.stopping = stopping
        self.handled = handled
        self.replies = replies

    def __call__(self, msg: Any, /, *, context: Any) -> "_Settling":
        return _Settling(self, msg, context)


class _Settling(BaseMiddleware[Any, Any]):
    def __init__(self, settle: Settle, msg: Any, context: Any) -> None:
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
            log.debug("message.settled", key=key, outcome=outcome, duration_s=round(seconds, 4))

    async def _handle(self, call_next: Callable[[Any], Awaitable[Any]], msg: RabbitMessage) -> str:
        waits = bugs = 0
        while True:
            try:
                deadline = deadline_of(msg.headers)
                if seconds_left(deadline) <= 0:
                    return await self._bury(msg, "the deadline had passed before the work began")
                result = await call_next(msg)
                if isinstance(result, Reply):
                    await self._reply(msg, result)
                await msg.ack()
                return "done" if not isinstance(result, Reply) or result.is_done else "refused"
            except (BadMessage, ValidationError) as error:
                reason = error.reason if isinstance(error, BadMessage) else _readable(error)
                return await self._bury(msg, reason)
            except DeadlinePassed:
                return await self._bury(msg, "the deadline passed while the work was in hand; nothing was changed")
            except Exception as error:
                if (fault := error if isinstance(error, TryLater) else fault_of(error)) is not None:
                    waits += 1
                    pause_s = max(fault.after_s, min(_LONGEST_WAIT_S, 0.05 * 2 ** min(waits, 8))) * random.uniform(0.5, 1)  # noqa: S311
                    log.warning("message.waiting", what=fault.what, waits=waits, retry_in_s=round(pause_s, 3))
                else:
                    bugs += 1
                    log.exception("message.failed", failures=bugs)
                    if bugs >= _TRIES_OF_A_BUG:
                        return await self._bury(msg, f"{type(error).__name__}", trace=True)
                    pause_s = 0.2 * bugs
            if await self._stopped_within(min(pause_s, max(0.0, seconds_left(deadline)))):
                await msg.nack(requeue=True)
                return "given-back"

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
            log.warning("reply.lost", what=fault.what)

    async def _bury(self, msg: RabbitMessage, reason: str, *, trace: bool = False) -> str:
        """Publish to the dead letters with the reason, confirmed, then ack; until that works the message stays ours."""
        assert self._settle.broker is not None
        handler = self.context.get_local("handler_")
        headers = headers_of_burial(
            msg.headers, reason=reason, queue=str(getattr(getattr(handler, "queue", None), "name", "")),
            exchange=msg.raw_message.exchange or "", key=msg.raw_message.routing_key or "",
            trace=traceback.format_exc(limit=-8) if trace else "",
        )  # fmt: skip
        await self._settle.broker.publish(
            msg.body, exchange=topology.DEAD, routing_key=str(headers[KEY]) or "unknown", headers=headers,
            message_id=msg.message_id, correlation_id=msg.correlation_id, persist=True, content_type=msg.content_type,
        )  # fmt: skip
        await msg.ack()
        log.error("message.buried", reason=reason[:1000])
        return "buried"


def _readable(error: ValidationError) -> str:
    """The problems of a message, without its values."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in error.errors(include_input=False, include_url=False)
    )
