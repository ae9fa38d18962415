"""The scan: its state, and ``evolve``, the one fold from which every view comes, live and in a rebuild."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from skydriver_common.model import events as ev
from skydriver_common.model.ids import NOT_YET_REQUESTED, ScanId
from skydriver_common.model.progress_report import ProgressReport, has_reconstructed
from skydriver_common.model.scan_request import ScanRequest
from skydriver_common.model.stages import LaunchState, ScannerStage

USE_WORKFLOW_ID = "use 'ewms_workflow_id'"
USE_I3_EVENT_ID = "use 'i3_event_id'"
STATE_VERSION = 2
"""Of what ``evolve`` makes of a history. A release in which the same events give another state, or a state with more fields, raises
it once; replicas of the release before work beside it, and the rows of both tell who wrote them (``log/stored_state.py``)."""
_TICK_S = 1e-6
_PAST_LIVES = 16
KUBERNETES = "kubernetes"
"""The launcher whose scanner servers may have to wait for a place to run after their launch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How far the launch is. taken_at: Unix seconds, 0.0 = never.

    failures: attempts that failed by the scan's own doing. is_deferred: waits for room or an answer, see reason. stage: of the
    scanner server, see ``ScannerStageChanged``; trouble: ``{"code", "text"}`` of what holds it up, empty while all is well.
    """

    state: LaunchState = LaunchState.QUEUED
    attempts: int = 0
    taken_at: float = 0.0
    launcher: str = ""
    job: str = ""
    restarts: int = 0
    reason: str = ""
    log_tail: str = ""
    failures: int = 0
    is_deferred: bool = False
    stage: ScannerStage = ScannerStage.UNKNOWN
    trouble: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def has_node(self) -> bool:
        """Whether the launched scanner server has a machine to run on; a process of the launcher `local` always has."""
        return self.state == LaunchState.LAUNCHED and (
            self.launcher != KUBERNETES or self.stage in (ScannerStage.SCHEDULED, ScannerStage.RUNNING)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRef:
    """Where the newest skymap lies: its blob, its size, and whether it ends the scan."""

    digest: str
    size_bytes: int
    is_final: bool
    producer: str = ""
    sequence: int = 0

    def is_same_as(self, other: "ResultRef | None") -> bool:
        """Whether it is the same skymap in the same role, whoever sent it."""
        return other is not None and (self.digest, self.is_final) == (other.digest, other.is_final)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """What is known of the scanner server beside its reports. Times are Unix seconds, 0.0 = never.

    heard_at: its last word, or its launch. silent_since: while it says nothing for too long. failure: why, in its own words,
    this process failed. producer: the process that speaks on the bus, since took_over_at; past_producers: those before it.
    refusals: code to when a refused report was last told. ended_at: when the scan had its end, and its token with it.
    """

    heard_at: float = 0.0
    silent_since: float | None = None
    failure: str = ""
    log_tail: str = ""
    failure_producer: str = ""
    failure_sequence: int = 0
    producer: str = ""
    took_over_at: float = 0.0
    past_producers: list[str] = field(default_factory=list)
    refusals: dict[str, float] = field(default_factory=dict)
    ended_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ewms:
    """What EWMS told of the scan's workflow. deactivated: ``ABORTED``, ``FINISHED`` or None.

    place_in_line: while queues are awaited. n_top_ups, topped_up_at: additions without a user's request, and the last one's time.
    n_came_back: workers of the stopped workflow that run nevertheless. tokens_end_at: Unix seconds. problems: of the workers,
    ``{"code", "text"}`` each. idle_since: when workers had run and none did any more, Unix seconds; None while one runs, or before.
    refused_so_far: why EWMS has not made a workflow yet; asked_until: Unix seconds until when it is asked again, 0.0: not refused.
    """

    deactivated: str | None = None
    refused: str = ""
    queues: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, dict[str, int]] = field(default_factory=dict)
    n_running: int = 0
    top_errors: dict[str, int] = field(default_factory=dict)
    taskforces_added: int = 0
    n_top_ups: int = 0
    topped_up_at: float = 0.0
    n_came_back: int = 0
    place_in_line: int | None = None
    tokens_end_at: float | None = None
    are_tokens_ending: bool = False
    is_startup_file_missing: bool = False
    problems: list[dict[str, str]] = field(default_factory=list)
    idle_since: float | None = None
    refused_so_far: str = ""
    asked_until: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Everything known of one scan, as of ``version`` events.

    The manifest fields (REST contract 5.1) come first; the rest is ours. Times are Unix seconds. A field added later, here and in
    the parts, has a default. unknown: what a newer release stored with the scan, kept for it. written_by: the ``STATE_VERSION``
    that wrote the row.
    """

    scan_id: ScanId
    version: int
    timestamp: float
    last_updated: float
    scanner_server_args: str
    priority: int
    classifiers: dict[str, Any]
    i3_event_id: str
    request: ScanRequest
    request_scan_id: ScanId
    event_digest: str
    is_deleted: bool = False
    ewms_workflow_id: str | None = NOT_YET_REQUESTED
    ewms_address: str | None = None
    event_metadata: dict[str, Any] | None = None
    scan_metadata: dict[str, Any] | None = None
    progress: ProgressReport | None = None
    replaced_by_scan_id: ScanId | None = None
    rescan_ids: tuple[ScanId, ...] = ()
    launch: Launch = field(default_factory=Launch)
    result: ResultRef | None = None
    ewms: Ewms = field(default_factory=Ewms)
    producer: str = ""
    sequence: int = 0
    scanner: Scanner = field(default_factory=Scanner)
    unknown: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False, repr=False)
    written_by: int = field(default=STATE_VERSION, compare=False, repr=False)

    @property
    def has_workflow(self) -> bool:
        """Whether a real EWMS workflow is assigned."""
        return self.ewms_workflow_id is not None and self.ewms_workflow_id != NOT_YET_REQUESTED

    @property
    def has_final_result(self) -> bool:
        """Whether the skymap that ends the scan is stored."""
        return self.result is not None and self.result.is_final

    # The four properties that follow, and can_end of the dispatcher, as a truth table: docs/developers/scan-states.md

    @property
    def is_waiting(self) -> bool:
        """Whether the scan stands on the backlog. One that has its final result does not, though its launch was never recorded."""
        return self.launch.state == LaunchState.QUEUED and not self.is_deleted and not self.has_final_result

    @property
    def is_over(self) -> bool:
        """Whether the scan was deleted, given up or has failed: no scanner server may be left."""
        return self.is_deleted or self.launch.state in (LaunchState.ABANDONED, LaunchState.FAILED)

    @property
    def may_run(self) -> bool:
        """Whether a scanner server and workers have anything left to do here."""
        return (
            not self.is_deleted
            and not self.has_final_result
            and self.launch.state in (LaunchState.QUEUED, LaunchState.LAUNCHED)
        )

    @property
    def outcome(self) -> str:
        """How the scan ended: ``final``, ``deleted``, ``failed`` or ``abandoned``; ``open`` while it may run."""
        if self.has_final_result:
            return "final"
        if self.is_deleted:
            return "deleted"
        ends = {LaunchState.ABANDONED: "abandoned", LaunchState.FAILED: "failed"}
        return ends.get(self.launch.state, "open")

    def manifest(self) -> dict[str, Any]:
        """The Manifest of the REST contract, 5.1, in its order of fields."""
        return {
            "scan_id": self.scan_id,
            "timestamp": self.timestamp,
            "is_deleted": self.is_deleted,
            "scanner_server_args": self.scanner_server_args,
            "ewms_workflow_id": self.ewms_workflow_id,
            "ewms_address": self.ewms_address,
            "ewms_task": USE_WORKFLOW_ID,
            "priority": self.priority,
            "classifiers": self.classifiers,
            "i3_event_id": self.i3_event_id,
            "event_i3live_json_dict": USE_I3_EVENT_ID,
            "event_i3live_json_dict__hash": None,
            "event_metadata": self.event_metadata,
            "scan_metadata": self.scan_metadata,
            "progress": self.progress,
            "replaced_by_scan_id": self.replaced_by_scan_id,
            "last_updated": self.last_updated,
        }

    @property
    def state(self) -> str:
        """``scan_state`` of the REST contract, section 7: derived, never stored."""
        if self.has_final_result:
            return "SCAN_HAS_FINAL_RESULT"
        if not self.has_workflow:
            stage, running = "PRESTARTUP", "PENDING"
        elif self.progress is None:
            stage, running = "WAITING_ON_SCANNER_SERVER_STARTUP", "PENDING"
        elif not has_reconstructed(self.progress):
            stage, running = "WAITING_ON_FIRST_PIXEL_RECO", "IN_PROGRESS"
        else:
            stage, running = "PARTIAL_RESULT_GENERATED", "IN_PROGRESS"
        if self.ewms.deactivated:
            prefix = self.ewms.deactivated
        elif not self.has_workflow and self.is_deleted:
            prefix = "ABORTED"
        elif not self.has_workflow and (self.launch.state in (LaunchState.ABANDONED, LaunchState.FAILED) or self.ewms.refused):
            prefix = "STOPPED"
        else:
            prefix = running
        return f"{prefix}__{stage}"


class HistoryBroken(Exception):
    """An event does not fit the state it is folded into: the log is damaged or an event was appended past ``decide``."""


def evolve(scan: Scan | None, event: ev.Event, *, scan_id: ScanId, recorded_at: float) -> Scan:
    """The scan after one more event. recorded_at: Unix seconds. Raises HistoryBroken for an impossible order."""
    if isinstance(event, ev.ScanRequested):
        if scan is not None:
            raise HistoryBroken(f"scan {scan_id} was requested twice")
        return _requested(event, scan_id)
    if scan is None:
        raise HistoryBroken(f"scan {scan_id} has the event {event.type} before it was requested")
    changes = _manifest_changes(event)
    if changes is not None:
        # strictly rising, whatever clock wrote the event (contract 5.1, last_updated)
        changes = {**changes, "last_updated": max(recorded_at, scan.last_updated + _TICK_S)}
    else:
        changes = _other_changes(scan, event, recorded_at)
    return replace(scan, version=scan.version + 1, scanner=evolve_scanner(scan, event, recorded_at), **changes)


def _other_changes(scan: Scan, event: ev.Event, recorded_at: float) -> dict[str, Any]:
    """What an event changes beside the manifest."""
    match event:
        case ev.RescanRecorded():
            return {"rescan_ids": (*scan.rescan_ids, event.rescan_id)}
        case (
            ev.ProgressCompacted()
            | ev.ResultsCompacted()
            | ev.FailureReported()
            | ev.ScannerTookOver()
            | ev.ScannerSilent()
            | ev.ReportRefused()
        ):
            return {}
        case ev.ResultReceived():
            stored = ResultRef(
                digest=event.digest, size_bytes=event.size_bytes, is_final=event.is_final,
                producer=event.producer, sequence=event.sequence,
            )  # fmt: skip
            return {"result": stored}
        case _:
            launch = _evolve_launch(scan.launch, event, recorded_at)
            return {"ewms": _evolve_ewms(scan.ewms, event, recorded_at)} if launch is None else {"launch": launch}


def evolve_scanner(scan: Scan, event: ev.Event, recorded_at: float) -> Scanner:
    """What is known of the scanner server after one more event of its scan."""
    scanner = scan.scanner
    match event:
        case ev.ProgressReported() | ev.CompactedPayload() | ev.ResultReceived():
            scanner = replace(scanner, heard_at=recorded_at, silent_since=None)
            if isinstance(event, ev.ResultReceived) and event.is_final and scanner.ended_at is None:
                scanner = replace(scanner, ended_at=recorded_at)
        case ev.FailureReported():
            scanner = replace(
                scanner, heard_at=recorded_at, silent_since=None, failure=event.reason, log_tail=event.log_tail,
                failure_producer=event.producer, failure_sequence=event.sequence,
            )  # fmt: skip
        case ev.ScannerTookOver():
            past = [each for each in (*scanner.past_producers, scanner.producer) if each and each != event.producer]
            scanner = replace(
                scanner, producer=event.producer, took_over_at=recorded_at, past_producers=past[-_PAST_LIVES:]
            )  # fmt: skip
            if event.producer != scanner.failure_producer:  # what it said of its own end, on another queue, may come first
                scanner = replace(scanner, failure="", log_tail="")
        case ev.ScannerSilent():
            scanner = replace(scanner, silent_since=event.since)
        case ev.ReportRefused():
            scanner = replace(scanner, refusals=scanner.refusals | {event.code: recorded_at})
        case ev.ScanLaunched() | ev.ScannerRestarted():
            ended_at = scanner.ended_at if scan.is_deleted or scan.has_final_result else None
            scanner = replace(
                scanner, heard_at=recorded_at, silent_since=None, ended_at=ended_at, failure="", log_tail=""
            )  # fmt: skip
        case ev.ScanDeleted() | ev.ScannerFailed() | ev.LaunchAbandoned() if scanner.ended_at is None:
            scanner = replace(scanner, ended_at=recorded_at)
        case _:
            pass
    return scanner


def fold(history: Iterable[tuple[ev.Event, float]], scan_id: ScanId) -> Scan | None:
    """The scan after a whole history of (event, recorded_at in Unix seconds), oldest first."""
    scan: Scan | None = None
    for event, recorded_at in history:
        scan = evolve(scan, event, scan_id=scan_id, recorded_at=recorded_at)
    return scan


def _requested(event: ev.ScanRequested, scan_id: ScanId) -> Scan:
    return Scan(
        scan_id=scan_id,
        version=1,
        timestamp=event.requested_at,
        last_updated=event.requested_at + _TICK_S,
        scanner_server_args=event.scanner_server_args,
        priority=event.request["priority"],
        classifiers=event.classifiers,
        i3_event_id=event.request["i3_event_id"],
        request=cast(ScanRequest, event.request),
        request_scan_id=event.request_scan_id,
        event_digest=event.event_digest,
    )


def _manifest_changes(event: ev.Event) -> dict[str, Any] | None:
    """What an event changes in the manifest; None: nothing."""
    match event:
        case ev.ProgressReported():
            return {"progress": event.progress, "producer": event.producer, "sequence": event.sequence}
        case ev.CompactedPayload():
            return {}  # a report changed the manifest; what it said is superseded
        case ev.ScanDeleted():
            return {"is_deleted": True}
        case ev.ScanReplaced():
            return {"replaced_by_scan_id": event.by_scan_id}
        case ev.EventMetadataSet():
            return {"event_metadata": event.event_metadata}
        case ev.ScanMetadataSet():
            return {"scan_metadata": event.scan_metadata}
        case ev.WorkflowAssigned():
            return {"ewms_workflow_id": event.workflow_id, "ewms_address": event.ewms_address}
        case _:
            return None


def _evolve_launch(launch: Launch, event: ev.Event, recorded_at: float) -> Launch | None:
    match event:
        case ev.LaunchAttempted():
            return replace(launch, attempts=event.attempt, taken_at=recorded_at)
        case ev.ScanLaunched():
            return replace(
                launch, state=LaunchState.LAUNCHED, launcher=event.launcher, job=event.job, reason="", is_deferred=False
            )
        case ev.LaunchFailed():
            return replace(launch, reason=event.reason, failures=launch.failures + 1, is_deferred=False)
        case ev.LaunchDeferred():
            attempts = launch.attempts if launch.is_deferred else max(0, launch.attempts - 1)
            return replace(launch, reason=event.reason, attempts=attempts, is_deferred=True)
        case ev.LaunchAbandoned():
            return replace(launch, state=LaunchState.ABANDONED, reason=event.reason)
        case ev.ScannerStageChanged():
            trouble = {"code": event.code, "text": event.text} if event.code else {}
            return replace(launch, stage=event.stage, trouble=trouble)
        case ev.ScannerLost():
            return replace(launch, reason=event.reason, log_tail=event.log_tail, exit_code=event.exit_code, trouble={})
        case ev.ScannerRestarted():
            return replace(launch, restarts=event.restarts, reason=event.reason)
        case ev.ScannerFailed():
            return replace(
                launch,
                state=LaunchState.FAILED,
                reason=event.reason,
                log_tail=event.log_tail,
                exit_code=event.exit_code,
                trouble={},
            )
        case _:
            return None


def _evolve_ewms(ewms: Ewms, event: ev.Event, recorded_at: float) -> Ewms:
    match event:
        case ev.WorkflowRefused():
            return replace(ewms, refused=event.reason)
        case ev.WorkflowAwaited():
            return replace(ewms, refused_so_far=event.reason, asked_until=event.until)
        case ev.QueuesActivated():
            return replace(ewms, queues=event.queues, tokens_end_at=event.tokens_end_at, place_in_line=None)
        case ev.QueuesAwaited():
            return replace(ewms, place_in_line=event.place_in_line)
        case ev.QueueTokensEnding():
            return replace(ewms, are_tokens_ending=True)
        case ev.StartupFileMissing():
            return replace(ewms, is_startup_file_missing=True)
        case ev.StartupFileFound():
            return replace(ewms, is_startup_file_missing=False)
        case ev.WorkforceChanged():
            idle_since = None if event.n_running else recorded_at if ewms.n_running else ewms.idle_since
            return replace(
                ewms, statuses=event.statuses, n_running=event.n_running, top_errors=event.top_errors, problems=event.problems,
                idle_since=idle_since,
            )  # fmt: skip
        case ev.WorkersAdded(is_automatic=True):
            return replace(ewms, n_top_ups=ewms.n_top_ups + 1, topped_up_at=recorded_at)
        case ev.WorkersCameBack():
            return replace(ewms, n_came_back=event.n_workers)
        case ev.WorkersAdded():
            return replace(ewms, taskforces_added=ewms.taskforces_added + 1)
        case ev.WorkflowDeactivated():
            return replace(ewms, deactivated=event.label)
        case _:
            raise HistoryBroken(f"no rule folds the event {event.type}")
