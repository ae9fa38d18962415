"""Looking back: a scan as it was then, and its story in words."""

from datetime import UTC, datetime

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Connection, Pool
from skydriver_common.log.pending_writes import sql
from skydriver_common.log.read import LoggedEvent
from skydriver_common.model import events as ev
from skydriver_common.model.scan import Scan

_PAGE = 1000


async def is_progress_compacted(connection: Pool | Connection, scan: Scan) -> bool:
    """Whether what the scan's progress was in this state of it was let go since: the state does not hold it. Raises TryLater."""
    with database_faults():
        found: bool | None = await sql.is_progress_compacted(connection, scan_id=scan.scan_id, version=scan.version)
    return bool(found)


def describe(logged: LoggedEvent) -> str:
    """What the event changed, in one line for a person. Raises UnknownEvent."""
    return sentence(logged.event)


def sentence(event: ev.Event) -> str:
    """One line that says what became so."""
    return _of_the_launch(event) or _of_the_scanner(event) or _of_ewms(event) or _of_the_system(event) or event.type


def _of_the_launch(event: ev.Event) -> str:
    match event:
        case ev.ScanRequested():
            return f"requested: event {event.request['i3_event_id']}, priority {event.request['priority']}"
        case ev.RescanRecorded():
            return f"its request was used again for scan {event.rescan_id}"
        case ev.ScanReplaced():
            return f"replaced by scan {event.by_scan_id}"
        case ev.ScanDeleted():
            return "deleted"
        case ev.LaunchAttempted():
            return f"taken from the backlog, attempt {event.attempt}"
        case ev.ScanLaunched():
            return f"scanner server launched ({event.launcher}: {event.job})"
        case ev.LaunchFailed():
            return f"launch attempt {event.attempt} failed: {event.reason}"
        case ev.LaunchDeferred():
            return f"waits to be launched: {event.reason}"
        case ev.LaunchAbandoned():
            return f"launch given up: {event.reason}"
        case ev.ScannerStageChanged():
            return f"scanner server {event.stage}{': ' if event.text else ''}{event.text}"
        case ev.ScannerLost():
            return event.reason
        case ev.ScannerRestarted():
            count = f" (time {event.restarts} since its last progress)" if event.restarts else ""
            return f"scanner server started again{count}: {event.reason}"
        case ev.ScannerFailed():
            return f"scanner server failed: {event.reason}"
        case _:
            return ""


def _of_the_scanner(event: ev.Event) -> str:
    match event:
        case ev.ProgressReported():
            summary = event.progress.get("summary")
            stats = event.progress.get("processing_stats")
            end = ", finished" if isinstance(stats, dict) and stats.get("finished") else ""
            return f"progress: {summary or 'a report'}{end}"
        case ev.FailureReported():
            return f"the scanner told that it failed: {event.reason}"
        case ev.ScannerTookOver():
            return f"the scanner reports on the bus as {event.producer}"
        case ev.ScannerSilent():
            return f"the scanner has been silent since {datetime.fromtimestamp(event.since, UTC):%Y-%m-%d %H:%M:%S} UTC"
        case ev.ReportRefused():
            return f"a message in its name was refused ({event.kind}): {event.reason}"
        case ev.PayloadLetGo():
            return "progress: a report whose content was let go"
        case ev.ProgressCompacted():
            return f"the content of {event.payloads} progress reports before version {event.before_version} was let go"
        case ev.ResultsCompacted():
            return (
                f"the skymaps of {event.results} superseded partial results before version {event.before_version} were removed"
            )
        case ev.EventMetadataSet():
            return f"event metadata: run {event.event_metadata.get('run_id')}, event {event.event_metadata.get('event_id')}"
        case ev.ScanMetadataSet():
            return f"scan metadata: {len(event.scan_metadata)} fields"
        case ev.ResultReceived():
            return f"{'final' if event.is_final else 'partial'} result, {event.size_bytes} bytes ({event.digest[:19]}…)"
        case _:
            return ""


def _of_ewms(event: ev.Event) -> str:
    match event:
        case ev.WorkflowAssigned():
            return f"EWMS workflow {event.workflow_id} at {event.ewms_address}"
        case ev.WorkflowRefused():
            return f"EWMS refused a workflow: {event.reason}"
        case ev.WorkflowAwaited():
            until = f"{datetime.fromtimestamp(event.until, UTC):%Y-%m-%d %H:%M:%S} UTC"
            return f"EWMS refuses a workflow so far and is asked again until {until}: {event.reason}"
        case ev.QueuesAwaited():
            return f"waits for its queues, place {event.place_in_line} in line"
        case ev.QueuesActivated():
            return f"queues work: {', '.join(event.queues)}"
        case ev.QueueTokensEnding():
            return "the tokens of its queues end soon"
        case ev.StartupFileMissing():
            return f"no startup file after {event.waited_s:.0f} s"
        case ev.StartupFileFound():
            return "the startup file is there"
        case ev.WorkforceChanged():
            return f"workers: {event.n_running} running, {sum(event.top_errors.values())} errors"
        case ev.WorkersAdded():
            return f"{event.n_workers} workers added at {event.cluster_location}{', by itself' if event.is_automatic else ''}"
        case ev.WorkersCameBack():
            return (
                f"{event.n_workers} workers run on although their workflow is stopped" if event.n_workers else "they are gone"
            )
        case ev.WorkflowDeactivated():
            return f"EWMS workflow {event.label.lower()}"
        case _:
            return ""


def _of_the_system(event: ev.Event) -> str:
    match event:
        case ev.DeadLetterRedriven():
            return f"dead letter {event.letter_id} sent back to {event.queue}; it had died of: {event.reason}"
        case ev.DeadLetterDiscarded():
            return f"dead letter {event.letter_id} of {event.queue} thrown away: {event.why}; it had died of: {event.reason}"
        case ev.ThrottleChanged():
            cap = "any number" if event.max_running is None else str(event.max_running)
            return f"throttle: {event.interval_s:g} s between two launches, {cap} running at once"
        case ev.UnknownScanReportRefused():
            return f"a scanner's message was refused that belongs to no scan ({event.kind}): {event.reason}"
        case ev.BreakGlassUsed():
            return f"the log was opened for changes by {event.database_role}: {event.reason}"
        case _:
            return ""
