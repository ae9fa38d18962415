"""Subscribers: each calls its use case. The middleware of the broker settles the messages."""

from faststream.rabbit import RabbitBroker
from faststream.rabbit.annotations import RabbitMessage

from skydriver_common.bus import topology
from skydriver_common.bus.envelope import current_context
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.model.commands import PatchManifest, PutResult
from skydriver_common.model.events import ScanLaunched
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Reply
from skydriver_progress import usecases
from skydriver_progress.retention import Retention
from skydriver_progress.silence import SilenceWatch


def register(broker: RabbitBroker, uow: UnitOfWork, retention: Retention, silence: SilenceWatch) -> None:
    """Subscribe to the commands of this service, and to launches."""

    @broker.subscriber(topology.command_queue(PatchManifest.key), topology.COMMAND_EXCHANGE, no_reply=True)
    async def patch_manifest(command: PatchManifest) -> Reply:
        """Store a scanner's progress and metadata; metadata is set once."""
        return await usecases.patch_manifest(command, current_context(), uow, retention)

    @broker.subscriber(topology.command_queue(PutResult.key), topology.COMMAND_EXCHANGE, no_reply=True)
    async def put_result(command: PutResult) -> Reply:
        """Store a skymap, partial or final; a final one is never replaced by a partial one."""
        return await usecases.put_result(command, current_context(), uow, retention)

    @broker.subscriber(topology.event_queue(topology.PROGRESS, ScanLaunched.type), topology.EVENT_EXCHANGE, no_reply=True)
    async def scan_launched(message: RabbitMessage) -> None:
        """Watch the scanner server for silence from now on."""
        await silence.schedule_silence_check(ScanId(str(message.headers.get("scan_id", ""))))
