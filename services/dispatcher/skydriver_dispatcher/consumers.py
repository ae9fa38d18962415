"""Messages to use cases; settling them is the broker's affair."""

from faststream.rabbit import RabbitBroker

from skydriver_common.bus import topology
from skydriver_common.bus.envelope import current_context
from skydriver_common.model.commands import DeleteScan, RequestScan, RescanScan
from skydriver_common.model.rejections import Reply
from skydriver_dispatcher.usecases import UseCases


def register(broker: RabbitBroker, usecases: UseCases) -> None:
    """Subscribe to the commands of this service."""

    @broker.subscriber(topology.command_queue(RequestScan.key), topology.COMMANDS, no_reply=True)
    async def request_scan(command: RequestScan) -> Reply:
        """Store a scan request and put the scan on the backlog."""
        return await usecases.request_scan(command, current_context())

    @broker.subscriber(topology.command_queue(RescanScan.key), topology.COMMANDS, no_reply=True)
    async def rescan_scan(command: RescanScan) -> Reply:
        """Start a new scan from the request of an old one."""
        return await usecases.rescan_scan(command, current_context())

    @broker.subscriber(topology.command_queue(DeleteScan.key), topology.COMMANDS, no_reply=True)
    async def delete_scan(command: DeleteScan) -> Reply:
        """Stop a scan and hide it; asking twice gives the same answer."""
        return await usecases.delete_scan(command, current_context())
