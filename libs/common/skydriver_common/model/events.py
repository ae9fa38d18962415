"""Events: what has become so, one fact about one scan each. Past tense; the stored type is chosen once and never derived.

All fields are JSON-native; a field added later has a default. ``WRITERS`` says which service may append which type.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from skydriver_common.model.ids import ScanId
from skydriver_common.model.stages import ScannerStage


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events."""

    type: ClassVar[str]
    schema_version: ClassVar[int] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRequested(Event):
    """A scan exists and waits on the backlog.

    request: ScanRequest without its two id fields. request_scan_id: the scan that holds the request (its own id, or
    the original's for a rescan). requested_at: Unix seconds. event_digest: blob of the i3 event.
    """

    type: ClassVar[str] = "scan.requested"
    requested_at: float
    request: dict[str, Any]
    request_scan_id: ScanId
    event_digest: str
    classifiers: dict[str, Any]
    scanner_server_args: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RescanRecorded(Event):
    """The scan's request was used again for a new scan."""

    type: ClassVar[str] = "scan.rescan-recorded"
    rescan_id: ScanId


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReplaced(Event):
    """Readers of this scan are sent to another one."""

    type: ClassVar[str] = "scan.replaced"
    by_scan_id: ScanId


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanDeleted(Event):
    """The scan is hidden and must not run (repeated when asked for again)."""

    type: ClassVar[str] = "scan.deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchAttempted(Event):
    """A launcher took the scan from the backlog."""

    type: ClassVar[str] = "scan.launch-attempted"
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanLaunched(Event):
    """The scanner server was started. launcher: ``local`` or ``kubernetes``; job: the launcher's name for it."""

    type: ClassVar[str] = "scan.launched"
    launcher: str
    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchFailed(Event):
    """Starting the scanner server failed; it will be tried again unless the launch is abandoned."""

    type: ClassVar[str] = "scan.launch-failed"
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchDeferred(Event):
    """The scanner server cannot be started for now (no room, no answer); it will be tried again, and no attempt is used up.

    Told when the reason changes, not at every try.
    """

    type: ClassVar[str] = "scan.launch-deferred"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchAbandoned(Event):
    """The launcher has given up; the scan ends here."""

    type: ClassVar[str] = "scan.launch-abandoned"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannerStageChanged(Event):
    """The scanner server reached another stage, or something holds it up.

    code: a ``ProblemCode``; text: what holds it up. Both are empty while nothing does.
    """

    type: ClassVar[str] = "scan.scanner-stage-changed"
    stage: ScannerStage
    code: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannerLost(Event):
    """The scanner server was taken away from outside (killed, evicted, deleted). exit_code: None when unknown."""

    type: ClassVar[str] = "scan.scanner-lost"
    reason: str
    exit_code: int | None = None
    log_tail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannerRestarted(Event):
    """A scanner server that had gone was started again for the same scan.

    restarts: how many times since its last progress; one that ended with the whole system is not counted.
    """

    type: ClassVar[str] = "scan.scanner-restarted"
    reason: str
    restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannerFailed(Event):
    """The scanner server ended without a final result and will not be started again. exit_code: None when unknown."""

    type: ClassVar[str] = "scan.scanner-failed"
    reason: str
    exit_code: int | None = None
    log_tail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressReported(Event):
    """The scanner told how far it is. progress: REST contract 5.1.2, defaults filled in.

    producer, sequence: its place among the reports on the bus; of one that came over REST, the place of the last before it.
    """

    type: ClassVar[str] = "scan.progress-reported"
    progress: dict[str, Any]
    producer: str = ""
    sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressCompacted(Event):
    """Payloads of the scan's old progress reports were removed, their digests kept: of ``payloads`` reports before a version."""

    type: ClassVar[str] = "scan.progress-compacted"
    before_version: int
    payloads: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsCompacted(Event):
    """Skymaps of superseded partial results were dropped, their digests kept: of ``results`` results before a version.

    The scan's first result, final ones, and the newest are never among them.
    """

    type: ClassVar[str] = "scan.results-compacted"
    before_version: int
    results: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactedPayload(Event):
    """Stands for a logged event whose payload was compacted; never stored itself. of: its type."""

    type: ClassVar[str] = "payload-let-go"
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventMetadataSet(Event):
    """What the scanner read in the i3 event, put once. REST contract 5.1.1."""

    type: ClassVar[str] = "scan.event-metadata-set"
    event_metadata: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanMetadataSet(Event):
    """The scanner's own metadata, put once, free-form."""

    type: ClassVar[str] = "scan.scan-metadata-set"
    scan_metadata: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultReceived(Event):
    """A skymap was stored. digest: its blob; size_bytes: of the skymap's own bytes."""

    type: ClassVar[str] = "scan.result-received"
    digest: str
    size_bytes: int
    is_final: bool
    producer: str = ""
    sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReported(Event):
    """The scanner itself reported that it failed. Whether the scan has failed is decided by its launcher."""

    type: ClassVar[str] = "scan.failure-reported"
    reason: str
    log_tail: str = ""
    producer: str = ""
    sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannerTookOver(Event):
    """Another process of the scanner server speaks for the scan on the bus from now on: the first one, or after a restart."""

    type: ClassVar[str] = "scan.scanner-took-over"
    producer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannerSilent(Event):
    """The scanner has not reported for longer than it should, while its job is running. since: Unix seconds of its last report."""

    type: ClassVar[str] = "scan.scanner-silent"
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRefused(Event):
    """A message on the bus in the name of this scan was refused and changed nothing; it lies with the dead letters.

    kind: ``progress``, ``result``, ``failure``; code: why, for programs. Repeated ones of a code are told once an hour.
    """

    type: ClassVar[str] = "scan.report-refused"
    kind: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowAssigned(Event):
    """The scan has its EWMS workflow."""

    type: ClassVar[str] = "scan.workflow-assigned"
    workflow_id: str
    ewms_address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRefused(Event):
    """EWMS will not make a workflow for this scan, and asking again would not help."""

    type: ClassVar[str] = "scan.workflow-refused"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowAwaited(Event):
    """EWMS refuses to make a workflow for now, for a reason that time may change. until: Unix seconds; it is asked again till then."""

    type: ClassVar[str] = "scan.workflow-awaited"
    reason: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuesAwaited(Event):
    """The workflow's queues are not active yet. place_in_line: how many workflows, of all users, EWMS takes before it."""

    type: ClassVar[str] = "scan.queues-awaited"
    place_in_line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuesActivated(Event):
    """The workflow's queues are active and the scanner has their credentials.

    queues: alias to queue id (no tokens). tokens_end_at: Unix seconds when the first of their tokens expires, None: never.
    """

    type: ClassVar[str] = "scan.queues-activated"
    queues: dict[str, str]
    tokens_end_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTokensEnding(Event):
    """The tokens of the scan's queues expire soon and EWMS cannot renew them: workers that start later cannot connect."""

    type: ClassVar[str] = "scan.queue-tokens-ending"
    ends_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupFileMissing(Event):
    """The scanner has not uploaded what its workers need to begin. waited_s: since its credentials were delivered."""

    type: ClassVar[str] = "scan.startup-file-missing"
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupFileFound(Event):
    """What the workers need to begin has been uploaded."""

    type: ClassVar[str] = "scan.startup-file-found"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkforceChanged(Event):
    """EWMS reported other worker counts. Shapes: REST contract 8.6.

    problems: what is wrong with the workers, ``{"code", "text"}`` each; empty while all is well.
    """

    type: ClassVar[str] = "scan.workforce-changed"
    statuses: dict[str, dict[str, int]]
    n_running: int
    top_errors: dict[str, int] = field(default_factory=dict)
    problems: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersAdded(Event):
    """EWMS accepted more workers for this scan. is_automatic: nobody asked; they replace workers that have ended."""

    type: ClassVar[str] = "scan.workers-added"
    taskforce_uuid: str
    n_workers: int
    cluster_location: str
    is_automatic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowDeactivated(Event):
    """EWMS shows the workflow stopped. label: EWMS' word, ``ABORTED`` or ``FINISHED``."""

    type: ClassVar[str] = "scan.workflow-deactivated"
    workflow_id: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemEvent(Event):
    """Base of facts that belong to no scan. They form a history of their own, under ``SYSTEM_CHAIN`` in place of a scan id, and fold
    into no view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterRedriven(SystemEvent):
    """An operator sent a dead letter back to the queue it had come from. The times are Unix seconds, 0.0: unknown."""

    type: ClassVar[str] = "system.dead-letter-redriven"
    letter_id: str
    message_id: str
    queue: str
    reason: str
    first_failed_at: float
    last_failed_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterDiscarded(SystemEvent):
    """An operator discarded a dead letter. why: in the operator's words; body_sha256: hex, of its body."""

    type: ClassVar[str] = "system.dead-letter-discarded"
    letter_id: str
    message_id: str
    queue: str
    reason: str
    first_failed_at: float
    last_failed_at: float
    body_sha256: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownScanReportRefused(SystemEvent):
    """A message on the scanners' exchange was refused that belongs to no scan we know; told once an hour for each code."""

    type: ClassVar[str] = "system.strange-report-refused"
    kind: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakGlassUsed(SystemEvent):
    """Somebody opened the log for changes, for one transaction. database_role: who was logged in to the database."""

    type: ClassVar[str] = "system.break-glass-used"
    reason: str
    database_role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleChanged(SystemEvent):
    """An operator changed how fast scans below priority 100 start; what holds from now on. max_running None: no limit."""

    type: ClassVar[str] = "system.throttle-changed"
    interval_s: float
    max_running: int | None


SYSTEM_CHAIN = ScanId("system")
"""Stands in place of a scan id for facts that belong to no scan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersCameBack(Event):
    """Workers of a stopped workflow are starting or running, and no call of EWMS stops them. n_workers: 0 when they are gone."""

    type: ClassVar[str] = "scan.workers-came-back"
    workflow_id: str
    n_workers: int


_LIFECYCLE = (
    ScanRequested, RescanRecorded, ScanReplaced, ScanDeleted, LaunchAttempted, ScanLaunched, LaunchFailed,
    LaunchDeferred, LaunchAbandoned, ScannerStageChanged, ScannerLost, ScannerRestarted, ScannerFailed,
)  # fmt: skip
_PROGRESS = (
    ProgressReported, ProgressCompacted, ResultsCompacted, EventMetadataSet, ScanMetadataSet, ResultReceived, FailureReported,
    ScannerTookOver,
    ScannerSilent, ReportRefused, UnknownScanReportRefused,
)  # fmt: skip
_EWMS = (
    WorkflowAssigned, WorkflowAwaited, WorkflowRefused, QueuesAwaited, QueuesActivated, QueueTokensEnding, StartupFileMissing,
    StartupFileFound, WorkforceChanged, WorkersAdded, WorkflowDeactivated,
    WorkersCameBack,
)  # fmt: skip

COMPACTABLE = frozenset({ProgressReported.type})
"""Types whose payloads may be compacted once a later event of the same type has superseded them."""

_OPERATOR = (DeadLetterRedriven, DeadLetterDiscarded, ThrottleChanged)
_DATABASE = (BreakGlassUsed,)

EVENT_TYPES: dict[str, type[Event]] = {event.type: event for event in (*_LIFECYCLE, *_PROGRESS, *_EWMS, *_OPERATOR, *_DATABASE)}

EVENT_OWNERS: dict[str, frozenset[str]] = {
    "dispatcher": frozenset(event.type for event in _LIFECYCLE),
    "progress": frozenset(event.type for event in _PROGRESS),
    "ewms_bridge": frozenset(event.type for event in _EWMS),
    "operator": frozenset(event.type for event in _OPERATOR),
    "database": frozenset(event.type for event in _DATABASE),
}
"""Service name to the event types it may append: each fact has one owner. operator: the command line; database: its own
functions."""
