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
    """Whether the progress report of this state of the scan was compacted since, so that the state does not hold it. Raises TryLater."""
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
            return f"rescanned as {event.rescan_id}"
        case ev.ScanReplaced():
            return f"replaced by scan {event.by_scan_id}"
        case ev.ScanDeleted():
            return "deleted"
        case ev.LaunchAttempted():
            return f"launch attempt {event.attempt} started"
        case ev.ScanLaunched():
            return f"scanner server launched ({event.launcher}: {event.job})"
        case ev.LaunchFailed():
            return f"launch attempt {event.attempt} failed: {event.reason}"
        case ev.LaunchDeferred():
            return f"launch deferred: {event.reason}"
        case ev.LaunchAbandoned():
            return f"launch given up: {event.reason}"
        case ev.ScannerStageChanged():
            return f"scanner server {event.stage}{': ' if event.text else ''}{event.text}"
        case ev.ScannerLost():
            return event.reason
        case ev.ScannerRestarted():
            count = f" (restart {event.restarts} since its last progress)" if event.restarts else ""
            return f"scanner server restarted{count}: {event.reason}"
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
            return f"scanner reported a failure: {event.reason}"
        case ev.ScannerTookOver():
            return f"scanner process {event.producer} started reporting over the bus"
        case ev.ScannerSilent():
            return f"no report from the scanner since {datetime.fromtimestamp(event.since, UTC):%Y-%m-%d %H:%M:%S} UTC"
        case ev.ReportRefused():
            return f"{event.kind} message rejected: {event.reason}"
        case ev.CompactedPayload():
            return "progress report (content compacted)"
        case ev.ProgressCompacted():
            return f"{event.payloads} progress reports before version {event.before_version} compacted"
        case ev.ResultsCompacted():
            return f"skymaps of {event.results} superseded partial results before version {event.before_version} removed"
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
            return f"EWMS rejected the workflow: {event.reason}"
        case ev.WorkflowAwaited():
            until = f"{datetime.fromtimestamp(event.until, UTC):%Y-%m-%d %H:%M:%S} UTC"
            return f"EWMS has not accepted the workflow yet, retried until {until}: {event.reason}"
        case ev.QueuesAwaited():
            return f"waiting for queues, {event.place_in_line} workflows ahead (0: next in line)"
        case ev.QueuesActivated():
            return f"queues active: {', '.join(event.queues)}"
        case ev.QueueTokensEnding():
            return "queue tokens expire soon"
        case ev.StartupFileMissing():
            return f"no startup file after {event.waited_s:.0f} s"
        case ev.StartupFileFound():
            return "startup file uploaded"
        case ev.WorkforceChanged():
            return f"workers: {event.n_running} running, {sum(event.top_errors.values())} errors"
        case ev.WorkersAdded():
            return f"{event.n_workers} workers added on {event.cluster_location}{' (automatic replacement)' if event.is_automatic else ''}"
        case ev.WorkersCameBack():
            return (
                f"{event.n_workers} workers still running after the workflow was stopped"
                if event.n_workers
                else "no workers of the stopped workflow remain"
            )
        case ev.WorkflowDeactivated():
            return f"EWMS workflow {event.label.lower()}"
        case _:
            return ""


def _of_the_system(event: ev.Event) -> str:
    match event:
        case ev.DeadLetterRedriven():
            return f"dead letter {event.letter_id} redriven to {event.queue}; reason: {event.reason}"
        case ev.DeadLetterDiscarded():
            return f"dead letter {event.letter_id} of {event.queue} discarded: {event.why}; reason: {event.reason}"
        case ev.ThrottleChanged():
            cap = "no limit on running scans" if event.max_running is None else f"at most {event.max_running} running scans"
            return f"throttle set: one launch per {event.interval_s:g} s, {cap}"
        case ev.UnknownScanReportRefused():
            return f"scanner message for an unknown scan rejected ({event.kind}): {event.reason}"
        case ev.BreakGlassUsed():
            return f"the log was opened for changes by {event.database_role}: {event.reason}"
        case _:
            return ""
