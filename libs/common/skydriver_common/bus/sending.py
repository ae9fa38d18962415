"""Publishing many messages at once on one channel.

The client library's own ``publish`` holds the channel until the socket has taken the message, so that messages of many tasks go
out one by one, each in a write of its own. Here they go out together; where the channel asks for confirmations, each is awaited.
"""

from aio_pika import Message
from aio_pika.abc import AbstractChannel
from aiormq.channel import Channel

from skydriver_common.bus.translate import deaths_told


async def send(channel: AbstractChannel, message: Message, *, exchange: str, routing_key: str, mandatory: bool = False) -> None:
    """Publish; returns when the broker has confirmed, or at once on a channel without confirmations.

    Raises what the client library raises: DeliveryError for a message that a queue refused or, with ``mandatory``, that found
    none, AMQPError and others when the broker is away.
    """
    underlay = await channel.get_underlay_channel()
    assert isinstance(underlay, Channel)
    with deaths_told():
        await underlay.basic_publish(
            message.body, exchange=exchange, routing_key=routing_key, properties=message.properties, mandatory=mandatory, wait=False
        )  # fmt: skip
