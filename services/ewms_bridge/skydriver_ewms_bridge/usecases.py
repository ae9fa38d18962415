"""One unit of work around each decision; what happens outside is due work."""

from datetime import UTC, datetime, timedelta

import structlog

from skydriver_common.clock import CLOCK
from skydriver_common.db.notifier import DUE_CHANNEL
from skydriver_common.db.schedule import Schedule
from skydriver_common.log.unit_of_work import Transaction, UnitOfWork
from skydriver_common.log.views import manifest_body
from skydriver_common.model.commands import AssignWorkflow, Context
from skydriver_common.model.events import (
    Event,
    QueuesActivated,
    QueuesAwaited,
    QueueTokensEnding,
    StartupFileFound,
    StartupFileMissing,
    WorkersCameBack,
    WorkflowRefused,
)
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Rejection, Reply
from skydriver_common.model.scan import Scan
from skydriver_ewms_bridge import store
from skydriver_ewms_bridge.decide import (
    decide_assign,
    decide_deactivated,
    decide_refused_for_now,
    is_working,
    may_order_workflow,
    may_race_with_activation,
    stop_label,
    wants_queues,
    wants_workflow,
)
from skydriver_ewms_bridge.due_kinds import WORKFORCE, DueKind
from skydriver_ewms_bridge.due_work import context_of

logger = structlog.get_logger(__name__)

AFTERMATH_DELAY = timedelta(seconds=300)
"""After a stop: EWMS's activation loop and its submitters have come round by then."""
EARLY_AFTERMATH_DELAY = timedelta(seconds=30)
"""After a stop that may have raced with the activation of the queues, which is ordinary: the activation loop has come round twice."""

TOKEN_WARNING = timedelta(hours=2)
"""So long before the queues' tokens end it is said."""


class UseCases:
    """What the bridge decides, each in one transaction. Every method may raise TryLater."""

    def __init__(self, uow: UnitOfWork, schedule: Schedule, *, teardown_delay: timedelta, startup_limit: timedelta) -> None:
        self._uow = uow
        self._schedule = schedule
        self._teardown_delay = teardown_delay
        self._startup_limit = startup_limit

    async def scan(self, scan_id: ScanId) -> Scan | None:
        """The scan as it is now."""
        async with self._uow.on_scans(context_of("look", scan_id), [scan_id]) as tx:
            return tx.scan(scan_id)

    async def assign_workflow(self, command: AssignWorkflow, context: Context) -> Reply:
        """Set the workflow of a scan, once; replies with the whole Manifest. Source: REST contract 4.16."""
        async with self._uow.on_scans(context, [command.scan_id]) as tx:
            if tx.recorded_reply is not None:
                return tx.recorded_reply
            match decide_assign(tx.scan(command.scan_id), command):
                case Rejection() as no:
                    reply = Reply.refused(no)
                case events:
                    reply = Reply(body=manifest_body(await self._assigned(tx, command.scan_id, events)))
            tx.record(reply)
        return reply

    async def assign_own(self, scan_id: ScanId, workflow_id: str, ewms_address: str) -> bool:
        """Set the workflow that this bridge has made; False when the scan does not want it any more: abort it then."""
        command = AssignWorkflow(scan_id=scan_id, workflow_id=workflow_id, ewms_address=ewms_address)
        async with self._uow.on_scans(context_of(DueKind.ASSIGN, scan_id, workflow_id), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is None or not wants_workflow(scan):
                return scan is not None and scan.ewms_workflow_id == workflow_id
            match decide_assign(scan, command):
                case Rejection():
                    return False
                case events:
                    await self._assigned(tx, scan_id, events)
        return True

    async def refuse_workflow(self, scan_id: ScanId, reason: str) -> None:
        """EWMS will not make, or not get ready, this scan's workflow. What there is of it is stopped."""
        async with self._uow.on_scans(context_of(DueKind.ASSIGN, scan_id, "refused"), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is None or scan.ewms.refused or not scan.may_run:
                return
            tx.append(scan_id, [WorkflowRefused(reason=reason)])
            tx.due.put(DueKind.STOP, scan_id)

    async def workflow_refused_for_now(self, scan_id: ScanId, reason: str, *, limit: timedelta) -> None:
        """EWMS does not make this scan's workflow for now: told while it is asked again; after `limit` the workflow is refused."""
        async with self._uow.on_scans(context_of(DueKind.ASSIGN, scan_id, "awaited"), [scan_id]) as tx:
            events = decide_refused_for_now(
                tx.scan(scan_id), reason, now=tx.now.timestamp(), limit_s=limit.total_seconds()
            )  # fmt: skip
            if events:
                tx.append(scan_id, events)
            if any(isinstance(event, WorkflowRefused) for event in events):
                tx.due.put(DueKind.STOP, scan_id)

    async def queues_awaited(self, scan_id: ScanId, place_in_line: int) -> None:
        """The queues are not active yet; how many are before them is told when it changes."""
        async with self._uow.on_scans(context_of(DueKind.QUEUES, scan_id, "awaited"), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is not None and wants_queues(scan) and scan.ewms.place_in_line != place_in_line:
                tx.append(scan_id, [QueuesAwaited(place_in_line=place_in_line)])

    async def queues_activated(self, scan_id: ScanId, queues: dict[str, str], tokens_end_at: float | None) -> None:
        """The scanner was given its queues. queues: alias to queue id. tokens_end_at: Unix seconds, None: never."""
        async with self._uow.on_scans(context_of(DueKind.QUEUES, scan_id), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is None or not wants_queues(scan) or scan.ewms.queues == queues:
                return
            tx.append(scan_id, [QueuesActivated(queues=queues, tokens_end_at=tokens_end_at)])
            tx.due.put(DueKind.STARTUP, scan_id, after=self._startup_limit)
            if tokens_end_at is not None:
                tx.due.put(DueKind.TOKENS, scan_id, after=datetime.fromtimestamp(tokens_end_at, UTC) - TOKEN_WARNING - tx.now)

    async def startup_file_seen(self, scan_id: ScanId, *, is_there: bool, waited_s: float) -> None:
        """The workers' start-up file was looked for; a change is told."""
        async with self._uow.on_scans(context_of(DueKind.STARTUP, scan_id), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is not None and scan.ewms.is_startup_file_missing == is_there and is_working(scan):
                tx.append(scan_id, [StartupFileFound() if is_there else StartupFileMissing(waited_s=waited_s)])

    async def tokens_ending(self, scan_id: ScanId) -> bool:
        """The tokens of the queues end soon. False: nobody needs them any more, or it is known."""
        async with self._uow.on_scans(context_of(DueKind.TOKENS, scan_id), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is None or not is_working(scan) or scan.ewms.are_tokens_ending or scan.ewms.tokens_end_at is None:
                return False
            tx.append(scan_id, [QueueTokensEnding(ends_at=scan.ewms.tokens_end_at)])
        return True

    async def workflow_deactivated(self, scan_id: ScanId, workflow_id: str, label: str) -> None:
        """EWMS shows the workflow stopped, by whomever."""
        async with self._uow.on_scans(context_of(DueKind.STOP, scan_id, "deactivated"), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            events = decide_deactivated(scan, workflow_id, label)
            if scan is not None and events:
                tx.append(scan_id, events)
                is_early = may_race_with_activation(scan)
                tx.due.put(DueKind.AFTERMATH, scan_id, after=EARLY_AFTERMATH_DELAY if is_early else AFTERMATH_DELAY)
                if is_early:
                    logger.info(
                        "workflow.stopped-early", workflow_id=workflow_id, looked_again_in_s=EARLY_AFTERMATH_DELAY.seconds
                    )
                # its workers are watched until they are gone, so that the counts do not stop at those of its last minute
                tx.rings.append((DUE_CHANNEL, WORKFORCE))

    async def workers_came_back(self, scan_id: ScanId, n_workers: int) -> None:
        """So many workers of the stopped workflow run nevertheless; a change is told."""
        async with self._uow.on_scans(context_of(DueKind.AFTERMATH, scan_id), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is not None and scan.ewms_workflow_id is not None and scan.ewms.n_came_back != n_workers:
                tx.append(scan_id, [WorkersCameBack(workflow_id=scan.ewms_workflow_id, n_workers=n_workers)])

    async def workflow_gone(self, scan_id: ScanId) -> None:
        """The workflow is over with all its workers, or EWMS does not know it: there is nothing to watch any more."""
        async with self._uow.on_scans(context_of(DueKind.STOP, scan_id, "gone"), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is not None and scan.ewms_workflow_id is not None:
                await store.unwatch(tx.connection, scan_id, scan.ewms_workflow_id, now=tx.now)

    async def scan_launched(self, scan_id: ScanId) -> None:
        """A scanner server was launched or came further: as soon as it has a node, it needs a workflow."""
        scan = await self.scan(scan_id)
        if scan is not None and may_order_workflow(scan):
            await self._schedule.put(DueKind.ASSIGN, scan_id, priority=scan.priority)

    async def scan_ends(self, scan_id: ScanId, *, since: datetime) -> None:
        """A scan was deleted, has failed or has its final result (at `since`): its workflow is to be stopped.

        After a final result there is a delay, because the scanner still reports; after a deletion there is none.
        """
        scan = await self.scan(scan_id)
        if scan is None or (label := stop_label(scan)) is None or scan.ewms.deactivated:
            return
        if label == "FINISHED":
            delay = since + self._teardown_delay - CLOCK.now()
            await self._schedule.put(DueKind.STOP, scan_id, after=delay, priority=scan.priority)
        else:
            await self._schedule.put(DueKind.STOP, scan_id, priority=scan.priority)

    async def note_again(self, scan: Scan, kind: str) -> None:
        """Note due work that the scan's state calls for and that has got lost. kind: any but `AFTERMATH` and those of requests."""
        now = CLOCK.now()
        match kind:
            case DueKind.ASSIGN:
                await self.scan_launched(scan.scan_id)
            case DueKind.STOP:
                ended_at = scan.scanner.ended_at
                await self.scan_ends(scan.scan_id, since=now if ended_at is None else datetime.fromtimestamp(ended_at, UTC))
            case DueKind.QUEUES:
                await self._schedule.put(kind, scan.scan_id, priority=scan.priority)
            case DueKind.STARTUP:
                await self._schedule.put(kind, scan.scan_id, after=self._startup_limit)
            case DueKind.TOKENS if scan.ewms.tokens_end_at is not None:
                ends_at = datetime.fromtimestamp(scan.ewms.tokens_end_at, UTC)
                await self._schedule.put(kind, scan.scan_id, after=ends_at - TOKEN_WARNING - now)
            case _:
                raise ValueError(f"no rule notes {kind} again")

    async def _assigned(self, tx: Transaction, scan_id: ScanId, events: list[Event]) -> Scan:
        scan = tx.append(scan_id, events)
        assert scan is not None
        if events:
            assert scan.ewms_workflow_id is not None
            await store.watch(tx.connection, scan_id, scan.ewms_workflow_id, now=tx.now)
            tx.rings.append((DUE_CHANNEL, WORKFORCE))
            tx.due.put(DueKind.QUEUES, scan_id, priority=scan.priority)
        return scan
