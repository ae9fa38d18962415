"""One unit of work around each decision."""

import uuid
from datetime import timedelta

import structlog

from skydriver_common.db.pool import Pool
from skydriver_common.log.unit_of_work import Transaction, UnitOfWork
from skydriver_common.log.views import manifest_body
from skydriver_common.model.commands import Context, DeleteScan, RequestScan, RescanScan
from skydriver_common.model.events import (
    RescanRecorded,
    ScanDeleted,
    ScannerFailed,
    ScannerLost,
    ScanReplaced,
    ScanRequested,
)
from skydriver_common.model.ids import ScanId, new_scan_id
from skydriver_common.model.rejections import Code, Rejection, Reply
from skydriver_common.model.scan import Scan
from skydriver_dispatcher import store
from skydriver_dispatcher.decide import (
    can_end,
    decide_delete,
    decide_request,
    decide_rescan,
    decide_without_queues,
    too_many_replacements,
    unknown,
)

logger = structlog.get_logger(__name__)

LAUNCH = store.LAUNCH
STOP = "stop"
RELAUNCH = "relaunch"
END = "scanner-end"
"""An end of a scanner server that is judged a little later."""
CHECK = "scanner-check"
"""A trouble of a scanner server that must be over by then."""


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
                case Rejection() as no:
                    reply = Reply.refused(no)
                case event:
                    reply = Reply(body=manifest_body(self._enqueue(tx, command.scan_id, event)))
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
            if tx.scan(command.scan_id) is None:
                reply = Reply.refused(unknown(command.scan_id))
            elif original is None:
                reply = Reply.refused(Rejection(Code.REQUEST_UNKNOWN, f"The request of scan {command.scan_id} is not stored"))
            else:
                reply = Reply(body=manifest_body(self._rescan(tx, command, original)))
            tx.record(reply)
        return reply

    async def delete_scan(self, command: DeleteScan, context: Context) -> Reply:
        """Hide and stop a scan; replies with its Manifest. Asking twice gives the same answer, a little later."""
        async with self._uow.on_scans(context, [command.scan_id]) as tx:
            if tx.recorded_reply is not None:
                return tx.recorded_reply
            scan = tx.scan(command.scan_id)
            match unknown(command.scan_id) if scan is None else decide_delete(scan, command):
                case Rejection() as no:
                    reply = Reply.refused(no)
                case _:
                    reply = Reply(body=manifest_body(self._delete(tx, command)))
            tx.record(reply)
        return reply

    async def replace_scan(
        self, scan_id: ScanId, reason: str, exit_code: int | None, log_tail: str, context: Context
    ) -> ScanId | None:
        """A scan whose scanner server was taken away goes on as a new scan; the id of the new one.

        None: it does not, since the scan has ended meanwhile, or was replaced too often already (then it has failed). Readers of
        the old scan are sent to the new one. Source: REST contract 9.6.
        """
        new = new_scan_id()
        holder = await store.request_holder(self._pool, scan_id) or scan_id
        async with self._uow.on_scans(context, sorted({scan_id, holder, new})) as tx:
            scan, original = tx.scan(scan_id), tx.scan(holder)
            if scan is None or original is None or not can_end(scan):
                return None
            why_not = too_many_replacements(original, now=tx.now.timestamp())
            if why_not:
                tx.append(scan_id, [ScannerFailed(reason=f"{reason}; {why_not}", exit_code=exit_code, log_tail=log_tail)])
                tx.due.put(STOP, scan_id, priority=scan.priority)
                return None
            tx.append(scan_id, [ScannerLost(reason=reason, exit_code=exit_code, log_tail=log_tail)])
            command = RescanScan(scan_id=scan_id, new_scan_id=new, abort_first=True, replace_scan=True)
            # its waiting counts from the old one's request: it has waited, and run, already
            self._rescan(tx, command, original, since=scan.timestamp)
        return new

    async def end_without_queues(self, scan_id: ScanId, context: Context) -> None:
        """EWMS has refused or stopped a scan's workflow: a scanner server that now waits in vain is ended, and has failed."""
        async with self._uow.on_scans(context, [scan_id]) as tx:
            scan = tx.scan(scan_id)
            events = [] if scan is None else decide_without_queues(scan)
            if scan is None or not events:
                return
            tx.append(scan_id, events)
            tx.due.drop(LAUNCH, scan_id)
            tx.due.put(STOP, scan_id, priority=scan.priority)
        logger.warning("scanner.without_queues", scan_id=scan_id, reason=events[0].reason)

    async def reconcile_queues(self) -> bool:
        """Loop step: what the delivery of an event about a workflow would have done, found from the state. Raises TryLater."""
        for scan_id in await store.without_queues(self._pool):
            await self.end_without_queues(scan_id, context_of_loop("watchdog", scan_id, str(uuid.uuid4())))
        return False

    def _rescan(self, tx: Transaction, command: RescanScan, original: Scan, *, since: float | None = None) -> Scan:
        if command.abort_first:
            self._delete(tx, command)
        tx.append(original.scan_id, [RescanRecorded(rescan_id=command.new_scan_id)])
        event = decide_rescan(original, command, now=tx.now.timestamp())
        scan = self._enqueue(tx, command.new_scan_id, event, since=since)
        if command.replace_scan:
            tx.append(command.scan_id, [ScanReplaced(by_scan_id=command.new_scan_id)])
        return scan

    def _delete(self, tx: Transaction, command: DeleteScan | RescanScan) -> Scan:
        after = tx.append(command.scan_id, [ScanDeleted()])
        assert after is not None
        tx.due.drop(LAUNCH, command.scan_id)
        tx.due.put(STOP, command.scan_id, priority=after.priority)
        return after

    def _enqueue(self, tx: Transaction, scan_id: ScanId, event: ScanRequested, *, since: float | None = None) -> Scan:
        """Put a new scan on the backlog. since: Unix seconds from which its waiting counts, None: now."""
        scan = tx.append(scan_id, [event])
        assert scan is not None
        waited_s = 0.0 if since is None else max(0.0, tx.now.timestamp() - since)
        tx.due.put(LAUNCH, scan_id, waited=timedelta(seconds=waited_s), priority=scan.priority)
        return scan


def context_of_loop(loop: str, scan_id: ScanId, command_id: str) -> Context:
    """The context of what a background loop decides by itself."""
    return Context(command_id=command_id, correlation_id=scan_id, actor=f"dispatcher/{loop}")
