"""How much waits in each of the system's queues, and how many consumers take from it."""

from dataclasses import dataclass

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelClosed

from skydriver_common.bus import topology
from skydriver_common.bus.broker import watched
from skydriver_common.bus.errors import broker_faults
from skydriver_common.model.commands import Command


@dataclass(frozen=True, slots=True)
class QueueStats:
    """messages: that wait, those in a consumer's hands left out. None: there is no such queue yet."""

    queue: str
    messages: int | None
    consumers: int | None


def known_queues() -> list[str]:
    """Every queue that the system's services consume, and that of the dead letters."""
    commands = {topology.command_queue(command.key).name for command in Command.__subclasses__()}
    events = [topology.event_queue(who, event.type).name for who, them in topology.EVENT_CONSUMERS.items() for event in them]
    scanners = [topology.scanner_queue(kind).name for kind in topology.SCANNER_KINDS]
    return [*sorted(commands), *events, *scanners, topology.DEAD_LETTER_QUEUE]


async def load_queue_stats(amqp_url: str) -> list[QueueStats]:
    """As of now. Raises TryLater."""
    with broker_faults():
        connection = await aio_pika.connect(
            watched(amqp_url), timeout=10, client_properties={"connection_name": "skydriver-stats"}
        )
        async with connection:
            return [await _depth(connection, name) for name in known_queues()]


async def _depth(connection: AbstractConnection, name: str) -> QueueStats:
    channel = await connection.channel(publisher_confirms=False)
    try:
        found = (await channel.declare_queue(name, passive=True)).declaration_result
    except ChannelClosed:
        return QueueStats(name, None, None)
    await channel.close()
    return QueueStats(name, found.message_count or 0, found.consumer_count or 0)
