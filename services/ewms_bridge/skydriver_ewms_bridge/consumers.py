"""Messages to use cases; settling them is the broker's affair."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from faststream.rabbit import RabbitBroker

from skydriver_common.bus import topology
from skydriver_common.bus.envelope import current_context
from skydriver_common.model.commands import AddWorkers, AssignWorkflow, RefreshTaskforces
from skydriver_common.model.events import (
    LaunchAbandoned,
    ResultReceived,
    ScanDeleted,
    ScanLaunched,
    ScannerFailed,
    ScannerStageChanged,
)
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Reply
from skydriver_ewms_bridge.taskforces import Taskforces
from skydriver_ewms_bridge.usecases import UseCases
from skydriver_ewms_bridge.worker_requests import WorkerRequests

CONSUMER = topology.EWMS_BRIDGE


@dataclass(frozen=True, slots=True, kw_only=True)
class EventEnvelope:
    """What the bridge reads of an event on the bus."""

    scan_id: ScanId
    recorded_at: datetime
    data: dict[str, Any] = field(default_factory=dict)


def register(broker: RabbitBroker, usecases: UseCases, additions: WorkerRequests, taskforces: Taskforces) -> None:
    """Subscribe to the commands of this service and to the events it reacts to. Each may arrive more than once."""

    @broker.subscriber(topology.command_queue(AssignWorkflow.key), topology.COMMAND_EXCHANGE, no_reply=True)
    async def assign_workflow(command: AssignWorkflow) -> Reply:
        """Set the EWMS workflow of a scan, once."""
        return await usecases.assign_workflow(command, current_context())

    @broker.subscriber(topology.command_queue(AddWorkers.key), topology.COMMAND_EXCHANGE, no_reply=True)
    async def add_workers(command: AddWorkers) -> Reply:
        """Ask EWMS for more workers, once per request."""
        return await additions.add_workers(command, current_context())

    @broker.subscriber(topology.command_queue(RefreshTaskforces.key), topology.COMMAND_EXCHANGE, no_reply=True)
    async def refresh_taskforces(command: RefreshTaskforces) -> Reply:
        """See to it that the kept taskforces of a scan are recent."""
        return await taskforces.refresh(command)

    @broker.subscriber(topology.event_queue(CONSUMER, ScanLaunched.type), topology.EVENT_EXCHANGE, no_reply=True)
    async def scan_launched(event: EventEnvelope) -> None:
        """A scanner server was launched: it gets a workflow, unless it has to wait for a node first."""
        await usecases.scan_launched(event.scan_id)

    @broker.subscriber(topology.event_queue(CONSUMER, ScannerStageChanged.type), topology.EVENT_EXCHANGE, no_reply=True)
    async def scanner_stage_changed(event: EventEnvelope) -> None:
        """A scanner server that has its node gets a workflow."""
        await usecases.scan_launched(event.scan_id)

    @broker.subscriber(topology.event_queue(CONSUMER, ResultReceived.type), topology.EVENT_EXCHANGE, no_reply=True)
    async def result_received(event: EventEnvelope) -> None:
        """After the final result the workflow is finished."""
        if event.data.get("is_final") is True:
            await usecases.scan_ends(event.scan_id, since=event.recorded_at)

    @broker.subscriber(topology.event_queue(CONSUMER, ScanDeleted.type), topology.EVENT_EXCHANGE, no_reply=True)
    async def scan_deleted(event: EventEnvelope) -> None:
        """A deleted scan's workflow is aborted at once."""
        await usecases.scan_ends(event.scan_id, since=event.recorded_at)

    @broker.subscriber(topology.event_queue(CONSUMER, ScannerFailed.type), topology.EVENT_EXCHANGE, no_reply=True)
    async def scanner_failed(event: EventEnvelope) -> None:
        """Without a scanner server the workers have nothing to do."""
        await usecases.scan_ends(event.scan_id, since=event.recorded_at)

    @broker.subscriber(topology.event_queue(CONSUMER, LaunchAbandoned.type), topology.EVENT_EXCHANGE, no_reply=True)
    async def launch_abandoned(event: EventEnvelope) -> None:
        """The same for a scan that will never have one."""
        await usecases.scan_ends(event.scan_id, since=event.recorded_at)
