"""The broker factory: acknowledgement policy, prefetch, grace and dead-lettering are set here, once for all services."""

import asyncio

import aio_pika
from aio_pika.abc import AbstractRobustConnection
from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker

from skydriver_common.bus.outcomes import Handled, Settle

PREFETCH = 32
GRACE_S = 8.0


def make_broker(
    amqp_url: str, *, stopping: asyncio.Event, handled: Handled, prefetch: int = PREFETCH, grace_s: float = GRACE_S
) -> RabbitBroker:
    """A broker whose consumers settle messages by ``bus.outcomes`` alone. Connects on ``start``.

    stopping: set when the service stops; waiting messages are then given back. handled: for metrics.
    """
    settle = Settle(stopping, handled)
    broker = RabbitBroker(
        amqp_url,
        default_channel=Channel(prefetch_count=prefetch, on_return_raises=False),
        ack_policy=AckPolicy.MANUAL,
        graceful_timeout=grace_s,
        middlewares=[settle],
        logger=None,
    )
    settle.broker = broker
    return broker


async def connect(amqp_url: str, *, name: str) -> AbstractRobustConnection:
    """A connection that comes back by itself, for what is not a consumer. Raises what aio-pika raises when there is none."""
    return await aio_pika.connect_robust(amqp_url, timeout=10, client_properties={"connection_name": f"skydriver-{name}"})
