"""Whether an exchange or a queue of a name is there."""

from typing import Literal

from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelClosed


async def broker_object_exists(connection: AbstractConnection, kind: Literal["exchange", "queue"], name: str) -> bool:
    """Ask the broker, on a channel of its own: the broker closes one that asks for what is not there. Raises what the client does."""
    channel = await connection.channel(publisher_confirms=False)
    try:
        if kind == "exchange":
            await channel.get_exchange(name, ensure=True)
        else:
            await channel.get_queue(name, ensure=True)
    except ChannelClosed:
        return False
    await channel.close()
    return True
