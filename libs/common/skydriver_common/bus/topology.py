"""Exchanges and queues: declared here once, with all their arguments."""

from aio_pika.abc import AbstractChannel
from aio_pika.abc import ExchangeType as AioExchangeType
from faststream.rabbit import ExchangeType, QueueType, RabbitExchange, RabbitQueue

from skydriver_common.model.events import (
    Event,
    LaunchAbandoned,
    ResultReceived,
    ScanDeleted,
    ScanLaunched,
    ScannerFailed,
    ScannerStageChanged,
    WorkflowDeactivated,
    WorkflowRefused,
)

COMMAND_EXCHANGE = RabbitExchange("skydriver.commands", type=ExchangeType.DIRECT, durable=True)
EVENT_EXCHANGE = RabbitExchange("skydriver.events", type=ExchangeType.TOPIC, durable=True)
SCANNER_EXCHANGE = RabbitExchange("skydriver.scanner", type=ExchangeType.TOPIC, durable=True)
STOP_EXCHANGE = RabbitExchange("skydriver.stop", type=ExchangeType.TOPIC, durable=True)
"""Stop signals for scanners; the routing key is the scan id. Nothing waits here: who was away asks over REST."""
DEAD_LETTER_EXCHANGE = RabbitExchange("skydriver.dead", type=ExchangeType.TOPIC, durable=True)

DEAD_LETTER_QUEUE = "skydriver.dead-letters"

DISPATCHER = "dispatcher"
EWMS_BRIDGE = "ewms-bridge"
PROGRESS = "progress"

EVENT_CONSUMERS: dict[str, tuple[type[Event], ...]] = {
    DISPATCHER: (WorkflowRefused, WorkflowDeactivated),
    PROGRESS: (ScanLaunched,),
    EWMS_BRIDGE: (ScanLaunched, ScannerStageChanged, ResultReceived, ScanDeleted, ScannerFailed, LaunchAbandoned),
}
"""Who reacts to which events. Whoever publishes declares these queues first: an event that finds no queue would be lost to a
consumer that has not started yet."""

SCANNER_KINDS = ("progress", "result", "failure")
"""What scanners publish, by the first word of the routing key: a queue each, so that skymaps do not wait for reports."""

DELIVERY_LIMIT = 50
"""Deliveries after which the broker itself gives a message up; our own handling settles it long before."""


def command_queue(key: str) -> RabbitQueue:
    """The queue of one command, named and routed by its key."""
    return _queue(f"skydriver.{key}", key)


def event_queue(consumer: str, pattern: str) -> RabbitQueue:
    """A consumer's own queue of the events that match a pattern."""
    return _queue(f"skydriver.events.{consumer}.{pattern}", pattern)


def scanner_queue(kind: str) -> RabbitQueue:
    """The queue of what scanners publish of one kind, for all scans."""
    return _queue(f"skydriver.scanner.{kind}", f"{kind}.*")


def _queue(name: str, routing_key: str) -> RabbitQueue:
    return RabbitQueue(
        name,
        queue_type=QueueType.QUORUM,
        durable=True,
        routing_key=routing_key,
        arguments={
            "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE.name,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-delivery-limit": DELIVERY_LIMIT,
        },
    )


async def declare(channel: AbstractChannel) -> None:
    """Declare what must exist before anything is published: exchanges, and the place where dead letters are kept."""
    for exchange, kind in (
        (COMMAND_EXCHANGE, AioExchangeType.DIRECT),
        (EVENT_EXCHANGE, AioExchangeType.TOPIC),
        (SCANNER_EXCHANGE, AioExchangeType.TOPIC),
        (STOP_EXCHANGE, AioExchangeType.TOPIC),
        (DEAD_LETTER_EXCHANGE, AioExchangeType.TOPIC),
    ):
        await channel.declare_exchange(exchange.name, kind, durable=True)
    for consumer, events in EVENT_CONSUMERS.items():
        for event in events:
            queue = event_queue(consumer, event.type)
            declared = await channel.declare_queue(queue.name, durable=True, arguments=dict(queue.arguments or {}))
            await declared.bind(EVENT_EXCHANGE.name, event.type)
    for word in SCANNER_KINDS:
        queue = scanner_queue(word)
        declared = await channel.declare_queue(queue.name, durable=True, arguments=dict(queue.arguments or {}))
        await declared.bind(SCANNER_EXCHANGE.name, queue.routing_key)
    await declare_dead_letters(channel)


async def declare_dead_letters(channel: AbstractChannel) -> None:
    """The place where dead letters are kept."""
    await channel.declare_exchange(DEAD_LETTER_EXCHANGE.name, AioExchangeType.TOPIC, durable=True)
    dead = await channel.declare_queue(DEAD_LETTER_QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    await dead.bind(DEAD_LETTER_EXCHANGE.name, "#")
