"""An event of the log as a message, the same whether it is published for the first time or replayed."""

from typing import Any

import aio_pika
from aio_pika.abc import DeliveryMode

from skydriver_common.log.read import LoggedEvent

REPLAYED = "x-replayed"
"""Header of an event that was published before: when it was replayed, ISO 8601."""


def event_message(event: LoggedEvent, **headers: Any) -> aio_pika.Message:
    """The event with its own id and time. headers: further ones."""
    return aio_pika.Message(
        event.as_json(),
        message_id=str(event.event_id),
        correlation_id=event.correlation_id,
        timestamp=event.recorded_at,
        type=event.type,
        content_type="application/json",
        delivery_mode=DeliveryMode.PERSISTENT,
        headers={"scan_id": event.scan_id, "version": event.version, "position": event.position, **headers},
    )
