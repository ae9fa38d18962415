"""Messages to use cases; settling them is the broker's affair."""

import uuid
from dataclasses import dataclass

from faststream.rabbit import RabbitBroker

from skydriver_common.bus import topology
from skydriver_common.bus.envelope import current_context
from skydriver_common.model.commands import DeleteScan, RequestScan, RescanScan
from skydriver_common.model.events import WorkflowDeactivated, WorkflowRefused
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Reply
from skydriver_dispatcher.usecases import UseCases, context_of_loop


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowEnd:
    """What the dispatcher reads of an event on the bus."""

    scan_id: ScanId


def register(broker: RabbitBroker, usecases: UseCases) -> None:
    """Subscribe to the commands of this service, and to the events it reacts to. Each may arrive more than once."""

    @broker.subscriber(topology.command_queue(RequestScan.key), topology.COMMAND_EXCHANGE, no_reply=True)
    async def request_scan(command: RequestScan) -> Reply:
        """Store a scan request and put the scan on the backlog."""
        return await usecases.request_scan(command, current_context())

    @broker.subscriber(topology.command_queue(RescanScan.key), topology.COMMAND_EXCHANGE, no_reply=True)
    async def rescan_scan(command: RescanScan) -> Reply:
        """Start a new scan from the request of an old one."""
        return await usecases.rescan_scan(command, current_context())

    @broker.subscriber(topology.command_queue(DeleteScan.key), topology.COMMAND_EXCHANGE, no_reply=True)
    async def delete_scan(command: DeleteScan) -> Reply:
        """Stop a scan and hide it; asking twice gives the same answer."""
        return await usecases.delete_scan(command, current_context())

    @broker.subscriber(topology.event_queue(topology.DISPATCHER, WorkflowRefused.type), topology.EVENT_EXCHANGE, no_reply=True)
    async def workflow_refused(event: WorkflowEnd) -> None:
        """A scan that gets no workflow needs no scanner server."""
        await usecases.end_without_queues(event.scan_id, context_of_loop("watchdog", event.scan_id, str(uuid.uuid4())))

    @broker.subscriber(
        topology.event_queue(topology.DISPATCHER, WorkflowDeactivated.type), topology.EVENT_EXCHANGE, no_reply=True
    )
    async def workflow_deactivated(event: WorkflowEnd) -> None:
        """The same, if it was stopped before it had its queues."""
        await usecases.end_without_queues(event.scan_id, context_of_loop("watchdog", event.scan_id, str(uuid.uuid4())))
