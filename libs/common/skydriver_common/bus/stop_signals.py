"""Which events stop a scanner. The relay tells it at once, beside publishing the event."""

import aio_pika

from skydriver_common.log.read import LoggedEvent
from skydriver_common.model.events import ScanDeleted, WorkflowDeactivated
from skydriver_scanner.protocol import DEACTIVATED, DELETED, stop_signal

_REASONS = {ScanDeleted.type: DELETED, WorkflowDeactivated.type: DEACTIVATED}


def stop_message(event: LoggedEvent) -> aio_pika.Message | None:
    """The signal for the scan's scanner, None when the event does not concern it."""
    reason = _REASONS.get(event.type)
    if reason is None:
        return None
    return aio_pika.Message(stop_signal(reason), message_id=str(event.event_id), content_type="application/json")
