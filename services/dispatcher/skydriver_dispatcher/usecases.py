"""One unit of work around each decision."""

import uuid
from datetime import timedelta

import structlog

from skydriver_common.db.pool import Pool
from skydriver_common.log.unit_of_work import Transaction, UnitOfWork
from skydriver_common.log.views import manifest_body
from skydriver_common.model.commands import Context, DeleteScan, RequestScan, RescanScan
from skydriver_common.model.events import ScanDeleted, ScannerFailed, ScanRequested
from skydriver_common.model.ids import ScanId, new_scan_id
from skydriver_common.model.rejections import Rejection, Reply
from skydriver_common.model.scan import Scan
from skydriver_dispatcher import store
from skydriver_dispatcher.decide.exits import decide_replacement
from skydriver_dispatcher.decide.launches import decide_without_queues
from skydriver_dispatcher.decide.requests import ScanEvents, decide_delete, decide_request, decide_rescan, waited_s
from skydriver_dispatcher.due_kinds import DueKind

logger = structlog.get_logger(__name__)


class UseCases:
    """The commands of the dispatcher."""

    def __init__(self, pool: Pool, uow: UnitOfWork) -> None:
        self._pool = pool
        self._uow = uow

    async def request_scan(self, command: RequestScan, context: Context) -> Reply:
        """Store the request and put the scan on the backlog; replies with its Manifest."""
        async with self._uow.on_scans(context, [command.scan_id]) as tx:
            if tx.recorded_reply is not None:
                return tx.recorded_reply
            digest = None
            if command.event_digest is None:
                digest = await store.digest_of_event(tx.connection, command.request["i3_event_id"])
            else:
                tx.needs_blob(command.event_digest)
            match decide_request(command, digest, now=tx.now.timestamp()):
                case Rejection() as rejection:
                    reply = Reply.refused(rejection)
                case event:
                    scans = self._append(tx, [(command.scan_id, event)])
                    reply = Reply(body=manifest_body(scans[command.scan_id]))
            tx.record(reply)
        return reply

    async def rescan_scan(self, command: RescanScan, context: Context) -> Reply:
        """Start a new scan from an old one's request; replies with the new Manifest."""
        holder = await store.request_holder(self._pool, command.scan_id)
        scan_ids = sorted({command.scan_id, holder or command.scan_id, command.new_scan_id})
        async with self._uow.on_scans(context, scan_ids) as tx:
            if tx.recorded_reply is not None:
                return tx.recorded_reply
            original = tx.scan(holder) if holder else None
            match decide_rescan(tx.scan(command.scan_id), original, command, now=tx.now.timestamp()):
                case Rejection() as rejection:
                    reply = Reply.refused(rejection)
                case events:
                    scans = self._append(tx, events)
                    reply = Reply(body=manifest_body(scans[command.new_scan_id]))
            tx.record(reply)
        return reply

    async def delete_scan(self, command: DeleteScan, context: Context) -> Reply:
        """Hide and stop a scan; replies with its Manifest. A repeated call returns the same, a little later."""
        async with self._uow.on_scans(context, [command.scan_id]) as tx:
            if tx.recorded_reply is not None:
                return tx.recorded_reply
            match decide_delete(tx.scan(command.scan_id), command):
                case Rejection() as rejection:
                    reply = Reply.refused(rejection)
                case events:
                    scans = self._append(tx, events)
                    reply = Reply(body=manifest_body(scans[command.scan_id]))
            tx.record(reply)
        return reply

    async def replace_scan(
        self, scan_id: ScanId, reason: str, exit_code: int | None, log_tail: str, context: Context
    ) -> str | None:
        """Continue a scan whose scanner server was taken away as a new scan, and return the new one's id.

        None: there is no new one, since the scan has ended meanwhile, or was replaced too often already (then it has failed).
        """
        holder, new_id = await store.request_holder(self._pool, scan_id) or scan_id, new_scan_id()
        async with self._uow.on_scans(context, sorted({scan_id, holder, new_id})) as tx:
            scan = tx.scan(scan_id)
            replacement = decide_replacement(
                scan, tx.scan(holder), new_scan_id=new_id, reason=reason, exit_code=exit_code, log_tail=log_tail,
                now=tx.now.timestamp(),
            )  # fmt: skip
            if scan is None or replacement is None:
                return None
            # the new scan's waiting counts from the old one's request: it has waited, and run, already
            self._append(tx, replacement.events, since=scan.timestamp)
        return replacement.new_scan_id

    async def end_without_queues(self, scan_id: ScanId, context: Context) -> None:
        """EWMS has refused or stopped a scan's workflow: a scanner server that now waits in vain is ended, and has failed."""
        async with self._uow.on_scans(context, [scan_id]) as tx:
            scan = tx.scan(scan_id)
            events = [] if scan is None else decide_without_queues(scan)
            if scan is None or not events:
                return
            tx.append(scan_id, events)
            tx.due.drop(DueKind.LAUNCH, scan_id)
            tx.due.put(DueKind.STOP, scan_id, priority=scan.priority)
        logger.warning("scanner.queues-unavailable", scan_id=scan_id, reason=events[0].reason)

    async def reconcile_queues(self) -> bool:
        """Loop step: what the delivery of an event about a workflow would have done, found from the state. Raises TryLater."""
        for scan_id in await store.find_without_queues(self._pool):
            await self.end_without_queues(scan_id, context_of_loop("watchdog", scan_id, str(uuid.uuid4())))
        return False

    def _append(self, tx: Transaction, events: ScanEvents, *, since: float | None = None) -> dict[ScanId, Scan]:
        """Append the events with the due work that follows from them; return the scans as they are then.

        since: Unix seconds from which the waiting of a new scan counts, None: now.
        """
        scans: dict[ScanId, Scan] = {}
        for scan_id, event in events:
            scan = tx.append(scan_id, [event])
            assert scan is not None
            scans[scan_id] = scan
            match event:
                case ScanRequested():
                    waited = timedelta(seconds=waited_s(since, now=tx.now.timestamp()))
                    tx.due.put(DueKind.LAUNCH, scan_id, waited=waited, priority=scan.priority)
                case ScanDeleted():
                    tx.due.drop(DueKind.LAUNCH, scan_id)
                    tx.due.put(DueKind.STOP, scan_id, priority=scan.priority)
                case ScannerFailed():
                    tx.due.put(DueKind.STOP, scan_id, priority=scan.priority)
                case _:
                    pass
        return scans


def context_of_loop(loop: str, scan_id: ScanId, command_id: str) -> Context:
    """The context of what a background loop decides by itself."""
    return Context(command_id=command_id, correlation_id=scan_id, actor=f"dispatcher/{loop}")
