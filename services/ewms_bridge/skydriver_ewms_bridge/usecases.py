"""One unit of work around each decision; what happens outside is due work."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from skydriver_common.clock import CLOCK
from skydriver_common.db.notifier import DUE_CHANNEL
from skydriver_common.db.schedule import Schedule
from skydriver_common.log.unit_of_work import Transaction, UnitOfWork
from skydriver_common.log.views import manifest_body
from skydriver_common.model.commands import AssignWorkflow, Context
from skydriver_common.model.events import Event, WorkflowRefused
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Rejection, Reply
from skydriver_common.model.scan import Scan
from skydriver_ewms_bridge import store
from skydriver_ewms_bridge.decide.assignment import decide_assign, decide_assign_own, decide_refused, decide_refused_for_now
from skydriver_ewms_bridge.decide.queues import decide_queues_activated, decide_queues_awaited
from skydriver_ewms_bridge.decide.reconciliation import due_in, over_since
from skydriver_ewms_bridge.decide.scan import may_order_workflow
from skydriver_ewms_bridge.decide.start_checks import decide_startup_file, decide_tokens_ending, token_warning_in
from skydriver_ewms_bridge.decide.teardown import (
    decide_deactivated,
    decide_workers_came_back,
    first_stop_verification,
    may_race_with_activation,
    stop_delay,
)
from skydriver_ewms_bridge.decide.workforce import Workforce
from skydriver_ewms_bridge.decide.workforce_changes import decide_workforce_changed, reported_problems
from skydriver_ewms_bridge.due_kinds import WORKFORCE, DueKind
from skydriver_ewms_bridge.due_work import context_of

logger = structlog.get_logger(__name__)


class UseCases:
    """What the bridge decides, each in one transaction. Every method may raise TryLater."""

    def __init__(self, uow: UnitOfWork, schedule: Schedule, *, teardown_delay: timedelta, startup_limit: timedelta) -> None:
        self._uow = uow
        self._schedule = schedule
        self._teardown_delay = teardown_delay
        self._startup_limit = startup_limit

    async def scan(self, scan_id: ScanId) -> Scan | None:
        """Return the scan as it is now."""
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
            events = decide_assign_own(tx.scan(scan_id), command)
            if events:
                await self._assigned(tx, scan_id, events)
        return events is not None

    async def refuse_workflow(self, scan_id: ScanId, reason: str) -> None:
        """EWMS will not make, or not get ready, this scan's workflow. What there is of it is stopped."""
        async with self._uow.on_scans(context_of(DueKind.ASSIGN, scan_id, "refused"), [scan_id]) as tx:
            self._stop_refused(tx, scan_id, decide_refused(tx.scan(scan_id), reason))

    async def workflow_refused_for_now(self, scan_id: ScanId, reason: str, *, limit: timedelta) -> None:
        """EWMS does not make this scan's workflow for now: recorded while it is asked again; after `limit` the workflow is refused."""
        async with self._uow.on_scans(context_of(DueKind.ASSIGN, scan_id, "awaited"), [scan_id]) as tx:
            events = decide_refused_for_now(
                tx.scan(scan_id), reason, now=tx.now.timestamp(), limit_s=limit.total_seconds()
            )  # fmt: skip
            self._stop_refused(tx, scan_id, events)

    async def queues_awaited(self, scan_id: ScanId, place_in_line: int) -> None:
        """The queues are not active yet; a change in how many workflows are ahead is recorded."""
        async with self._uow.on_scans(context_of(DueKind.QUEUES, scan_id, "awaited"), [scan_id]) as tx:
            _append(tx, scan_id, decide_queues_awaited(tx.scan(scan_id), place_in_line))

    async def queues_activated(self, scan_id: ScanId, queues: dict[str, str], tokens_end_at: float | None) -> None:
        """The scanner was given its queues. queues: alias to queue id. tokens_end_at: Unix seconds, None: never."""
        async with self._uow.on_scans(context_of(DueKind.QUEUES, scan_id), [scan_id]) as tx:
            if _append(tx, scan_id, decide_queues_activated(tx.scan(scan_id), queues, tokens_end_at)):
                tx.due.put(DueKind.STARTUP, scan_id, after=self._startup_limit)
                if tokens_end_at is not None:
                    tx.due.put(DueKind.TOKENS, scan_id, after=token_warning_in(tokens_end_at, now=tx.now))

    async def startup_file_seen(self, scan_id: ScanId, *, is_there: bool, waited_s: float) -> None:
        """It was checked whether the workers' startup file exists; a change is recorded."""
        async with self._uow.on_scans(context_of(DueKind.STARTUP, scan_id), [scan_id]) as tx:
            _append(tx, scan_id, decide_startup_file(tx.scan(scan_id), is_there=is_there, waited_s=waited_s))

    async def tokens_ending(self, scan_id: ScanId) -> bool:
        """The tokens of the queues end soon. False: nobody needs them any more, or it is known."""
        async with self._uow.on_scans(context_of(DueKind.TOKENS, scan_id), [scan_id]) as tx:
            return _append(tx, scan_id, decide_tokens_ending(tx.scan(scan_id)))

    async def workforce_seen(self, scan_id: ScanId, workforce: Workforce) -> list[str]:
        """The workers were counted; a change is recorded. Returns the codes of what is wrong with them."""
        async with self._uow.on_scans(context_of(WORKFORCE, scan_id), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is None:
                return []
            _append(tx, scan_id, decide_workforce_changed(scan, workforce))
            return [problem["code"] for problem in reported_problems(scan, workforce)]

    async def workflow_deactivated(self, scan_id: ScanId, workflow_id: str, label: str) -> None:
        """EWMS shows the workflow stopped, by whomever."""
        async with self._uow.on_scans(context_of(DueKind.STOP, scan_id, "deactivated"), [scan_id]) as tx:
            scan = tx.scan(scan_id)
            if scan is None or not _append(tx, scan_id, decide_deactivated(scan, workflow_id, label)):
                return
            after = first_stop_verification(scan)
            tx.due.put(DueKind.STOP_VERIFICATION, scan_id, after=after)
            if may_race_with_activation(scan):
                logger.info("workflow.stopped-early", workflow_id=workflow_id, looked_again_in_s=after.seconds)
            # its workers are watched until they are gone, so that the counts do not stop at those of its last minute
            tx.notifications.append((DUE_CHANNEL, WORKFORCE))

    async def workers_came_back(self, scan_id: ScanId, n_workers: int) -> None:
        """So many workers of the stopped workflow run nevertheless; a change is recorded."""
        async with self._uow.on_scans(context_of(DueKind.STOP_VERIFICATION, scan_id), [scan_id]) as tx:
            _append(tx, scan_id, decide_workers_came_back(tx.scan(scan_id), n_workers))

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
        """A scan was deleted, has failed or has its final result (at `since`): its workflow is to be stopped."""
        scan = await self.scan(scan_id)
        delay = stop_delay(scan, since=since, now=CLOCK.now(), teardown_delay=self._teardown_delay)
        if scan is not None and delay is not None:
            await self._schedule.put(DueKind.STOP, scan_id, after=delay, priority=scan.priority)

    async def note_again(self, scan: Scan, kind: DueKind) -> None:
        """Note due work that the scan's state calls for and that was lost. kind: as `missing_work` names them."""
        now = CLOCK.now()
        if kind == DueKind.ASSIGN:
            await self.scan_launched(scan.scan_id)
        elif kind == DueKind.STOP:
            await self.scan_ends(scan.scan_id, since=over_since(scan, now=now))
        else:
            after = due_in(kind, scan, now=now, startup_limit=self._startup_limit)
            priority = scan.priority if kind == DueKind.QUEUES else 0
            await self._schedule.put(kind, scan.scan_id, after=after, priority=priority)

    def _stop_refused(self, tx: Transaction, scan_id: ScanId, events: list[Event]) -> None:
        _append(tx, scan_id, events)
        if any(isinstance(event, WorkflowRefused) for event in events):
            tx.due.put(DueKind.STOP, scan_id)

    async def _assigned(self, tx: Transaction, scan_id: ScanId, events: list[Event]) -> Scan:
        scan = tx.append(scan_id, events)
        assert scan is not None
        if events:
            assert scan.ewms_workflow_id is not None
            await store.watch(tx.connection, scan_id, scan.ewms_workflow_id, now=tx.now)
            tx.notifications.append((DUE_CHANNEL, WORKFORCE))
            tx.due.put(DueKind.QUEUES, scan_id, priority=scan.priority)
        return scan


def _append(tx: Transaction, scan_id: ScanId, events: Sequence[Event]) -> bool:
    """Append what was decided; false: nothing."""
    if events:
        tx.append(scan_id, events)
    return bool(events)
