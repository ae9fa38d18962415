"""Commands: what is asked of a service. Imperative; each has its routing key on ``skydriver.commands``.

All fields are JSON-native, so that a command is its own wire form. Large payloads are referred to by digest (claim check).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from skydriver_common.model.ids import ScanId, storable

REPLY_GRACE_S = 2.0
"""How much longer than a command's deadline its sender waits for the reply: what was committed just in time is told."""
MAX_CORRELATION_ID_BYTES = 255
"""Of UTF-8: a property of a message holds no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What comes with every command, whatever it asks.

    actor: token subject or service. deadline: Unix seconds after which the command must not take effect, or None.
    fingerprint: of the request's content; the same command id with another one is refused.

    The texts stand in the log, and go out with the events: so each is made such that the database takes it, and the correlation id
    such that a message can bear it.
    """

    command_id: str
    correlation_id: str
    actor: str
    deadline: float | None = None
    fingerprint: str = ""

    def __post_init__(self) -> None:
        """See above."""
        object.__setattr__(self, "command_id", storable(self.command_id))
        object.__setattr__(self, "correlation_id", storable(self.correlation_id, most_bytes=MAX_CORRELATION_ID_BYTES))
        object.__setattr__(self, "actor", storable(self.actor))
        object.__setattr__(self, "fingerprint", storable(self.fingerprint))


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Base of all commands."""

    key: ClassVar[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestScan(Command):
    """Store a scan request and put the scan on the backlog.

    request: the normalised ScanRequest (REST contract 5.4) without ``scan_id`` and ``rescan_ids``; its ``i3_event_id``
    is final already. event_digest: blob of a new i3 event, or None when ``i3_event_id`` names a stored one.
    """

    key: ClassVar[str] = "scan.request"
    scan_id: ScanId
    request: dict[str, Any]
    event_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RescanScan(Command):
    """Start a new scan from the request of an old one. Source: REST contract 4.6."""

    key: ClassVar[str] = "scan.rescan"
    scan_id: ScanId
    new_scan_id: ScanId
    abort_first: bool = False
    replace_scan: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteScan(Command):
    """Stop a scan and hide it; asking twice gives the same answer. Source: REST contract 4.8."""

    key: ClassVar[str] = "scan.delete"
    scan_id: ScanId
    delete_completed_scan: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchManifest(Command):
    """Take a scanner's progress and metadata. Source: REST contract 4.10.

    None and empty parts mean: leave alone. producer, sequence: set by scanners on the bus; the newest report wins.
    """

    key: ClassVar[str] = "scan.patch-manifest"
    scan_id: ScanId
    progress: dict[str, Any] | None = None
    event_metadata: dict[str, Any] | None = None
    scan_metadata: dict[str, Any] = field(default_factory=dict)
    producer: str = ""
    sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PutResult(Command):
    """Store a skymap, partial or final. Source: REST contract 4.12. digest, size_bytes: of the skymap's own bytes.

    producer, sequence: set by scanners on the bus; the newest wins.
    """

    key: ClassVar[str] = "scan.put-result"
    scan_id: ScanId
    digest: str
    size_bytes: int
    is_final: bool
    producer: str = ""
    sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignWorkflow(Command):
    """Set the EWMS workflow of a scan, once. Source: REST contract 4.16."""

    key: ClassVar[str] = "ewms.assign-workflow"
    scan_id: ScanId
    workflow_id: str
    ewms_address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddWorkers(Command):
    """Ask EWMS for more workers. Source: REST contract 4.7. debug_cap: most workers with client logs there, None: no cap."""

    key: ClassVar[str] = "ewms.add-workers"
    scan_id: ScanId
    n_workers: int
    cluster_location: str
    debug_cap: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshTaskforces(Command):
    """See to it that ``ewms_taskforces`` holds the scan's taskforces, at most a minute old if EWMS answers. REST contract 4.17.

    Changes nothing of the scan and is not recorded; the reply is ``{}``, the taskforces are read from the table.
    """

    key: ClassVar[str] = "ewms.refresh-taskforces"
    scan_id: ScanId


COMMAND_TYPES: dict[str, type[Command]] = {
    command.key: command
    for command in (
        RequestScan,
        RescanScan,
        DeleteScan,
        PatchManifest,
        PutResult,
        AssignWorkflow,
        AddWorkers,
        RefreshTaskforces,
    )
}
