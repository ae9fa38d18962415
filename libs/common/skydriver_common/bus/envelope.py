"""What travels beside a message's body: ids, actor, deadline. Both directions."""

import math
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from faststream.rabbit.message import RabbitMessage

from skydriver_common.clock import CLOCK
from skydriver_common.faults import BadMessage
from skydriver_common.model.commands import Context
from skydriver_common.model.rejections import Reply, code_of

MESSAGE: ContextVar[RabbitMessage] = ContextVar("message")
"""The message being handled. Consumers take it from here and not as a parameter: FastStream would hand each one through a thread."""


def headers_of(context: Context) -> dict[str, Any]:
    """Headers of a command message."""
    headers: dict[str, Any] = {"actor": context.actor, "fingerprint": context.fingerprint}
    if context.deadline is not None:
        headers["deadline"] = str(context.deadline)
    return headers


def current_context() -> Context:
    """The context of the command being handled. Raises BadMessage when it has no id or a deadline that is no number."""
    return context_of(MESSAGE.get())


def context_of(message: RabbitMessage) -> Context:
    """The context of a received command. Raises BadMessage when it has no id or a deadline that is no number."""
    if not message.raw_message.message_id:
        raise BadMessage("the message has no message_id")
    return Context(
        command_id=message.message_id,
        correlation_id=message.correlation_id or message.message_id,
        actor=str(message.headers.get("actor", "unknown")),
        deadline=deadline_of(message.headers),
        fingerprint=str(message.headers.get("fingerprint", "")),
    )


def deadline_of(headers: Mapping[str, Any]) -> float | None:
    """Unix seconds after which the message must not take effect, or None. Raises BadMessage."""
    if "deadline" not in headers:
        return None
    try:
        deadline = float(str(headers["deadline"]))
    except ValueError as error:
        raise BadMessage("header deadline: must be a number") from error
    if math.isnan(deadline):
        raise BadMessage("header deadline: must be a number")
    return deadline


def seconds_left(deadline: float | None) -> float:
    """Seconds until the deadline; infinite without one."""
    return float("inf") if deadline is None else deadline - CLOCK.time_s()


def reply_headers(reply: Reply) -> dict[str, str]:
    """Headers that carry a refusal beside the body."""
    return {} if reply.is_done else {"code": str(reply.code), "reason": reply.reason}


def reply_of(headers: Mapping[str, Any], body: bytes) -> Reply:
    """The reply that a message carries. Raises TryLater when its code is a newer release's."""
    return Reply(body=body, code=code_of(headers.get("code")), reason=str(headers.get("reason", "")))
