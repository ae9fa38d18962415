"""The broker factory: acknowledgement policy, prefetch, grace and dead-lettering are set here, once for all services."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import aio_pika
from aio_pika.abc import AbstractRobustConnection
from faststream import AckPolicy
from faststream.message import StreamMessage
from faststream.rabbit import Channel, RabbitBroker

from skydriver_common.bus import lenient_decoding
from skydriver_common.bus.errors import broker_faults
from skydriver_common.bus.replies import Replies
from skydriver_common.bus.settlement import DeadLettered, Handled, SettlementMiddleware
from skydriver_common.faults import BadMessage
from skydriver_common.model import event_codec
from skydriver_common.trust import amqp_parameters

PREFETCH = 32
GRACE_S = 8.0
RECONNECT_S = 1.0
HEARTBEAT_S = 15
"""A peer that is silent for about three times this long counts as gone: what it holds unacknowledged goes to another replica."""


def make_broker(
    amqp_url: str, *, stopping: asyncio.Event, handled: Handled, dead_lettered: DeadLettered = lambda *_: None, prefetch: int = PREFETCH,
    grace_s: float = GRACE_S,
) -> RabbitBroker:  # fmt: skip
    """A broker whose consumers settle messages by ``bus.outcomes`` alone. Connects on ``start``.

    stopping: set when the service stops; waiting messages are then given back. handled, dead_lettered: for metrics.
    """
    lenient_decoding.install()
    settle = SettlementMiddleware(stopping, handled, Replies(lambda: broker.connect()))
    settle.dead_lettered = dead_lettered
    broker = RabbitBroker(
        watched(amqp_url),
        reconnect_interval=RECONNECT_S,
        default_channel=Channel(prefetch_count=prefetch, on_return_raises=False),
        ack_policy=AckPolicy.MANUAL,
        graceful_timeout=grace_s,
        middlewares=[settle],
        decoder=_decoded,
        logger=None,
    )
    settle.broker = broker
    return broker


async def _decoded(message: StreamMessage[Any], original: Callable[[StreamMessage[Any]], Awaitable[Any]]) -> Any:
    """The content of a message; one of ours with integers beyond 64 bits keeps them (see ``wire.encode``). Raises BadMessage."""
    body = message.body
    try:
        return event_codec.decode(body) if isinstance(body, bytes) and body[:1] == b" " else await original(message)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"body: cannot be decoded: {type(error).__name__}") from error


async def connect(amqp_url: str, *, name: str) -> AbstractRobustConnection:
    """A connection that comes back by itself, for what is not a consumer. Raises TryLater when there is none."""
    with broker_faults():
        return await aio_pika.connect_robust(
            watched(amqp_url),
            timeout=10,
            reconnect_interval=RECONNECT_S,
            client_properties={"connection_name": f"skydriver-{name}"},
        )


def watched(amqp_url: str) -> str:
    """The broker's URL with our heartbeat, unless it names one, and with the authorities that its certificate may be of."""
    url = urlsplit(amqp_url)
    heartbeat = "" if "heartbeat=" in url.query else f"heartbeat={HEARTBEAT_S}"
    return url._replace(query="&".join(filter(None, (url.query, heartbeat, amqp_parameters(amqp_url))))).geturl()
