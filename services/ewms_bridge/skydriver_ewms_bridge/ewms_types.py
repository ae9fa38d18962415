"""What the bridge says and hears in EWMS's words, as checked values.

Pure: the ports and the decisions share these; how they travel over HTTP is the adapter's business.
Source: EWMS contract 3, 4, 8, 9.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

from typing_extensions import TypeAliasType

from skydriver_common.model.ids import ScanId

Json = TypeAliasType("Json", "bool | int | float | str | list[Json] | dict[str, Json] | None")

Statuses = Mapping[str, Mapping[str, int]]
"""Job status → pilot status → number of jobs; unknown keys are data. Source: EWMS contract 10."""

WorkflowSpec = NewType("WorkflowSpec", dict[str, Json])
"""The complete body of `POST /v1/workflows`. Made by `decide.workflow_spec` alone."""

TO_CLIENT = "to-client-queue"
FROM_CLIENT = "from-client-queue"

SCAN_MARK = "SKYDRIVER_SCAN_ID"
INSTANCE_MARK = "SKYDRIVER_INSTANCE"


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow as EWMS knows it.

    timestamp: creation, Unix seconds, EWMS's clock. deactivated: None, "ABORTED" or "FINISHED"; the first label stays.
    """

    workflow_id: str
    timestamp: float
    priority: int = 100
    deactivated: str | None = None


@dataclass(frozen=True, slots=True)
class TaskDirective:
    """One task of a workflow; ours name exactly one cluster each. It never changes."""

    task_id: str
    workflow_id: str
    timestamp: float
    cluster_locations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QueueProfile:
    """How to reach one queue. Before activation the last three are None.

    auth_token is a credential (for RabbitMQ the password): kept out of every repr, log line and event.
    """

    mqid: str
    alias: str
    is_activated: bool
    auth_token: str | None = field(default=None, repr=False)
    broker_type: str | None = None
    broker_address: str | None = None


@dataclass(frozen=True, slots=True)
class PhaseChange:
    """One line of a taskforce's history; not every line is a success, and they may be out of order."""

    target_phase: str
    timestamp: float
    was_successful: bool


@dataclass(frozen=True, slots=True)
class Taskforce:
    """One batch of identical workers. It has no cluster name: only the task it belongs to knows that.

    n_workers: as asked for, then overwritten by EWMS with the real count. cluster_id: None until submitted.
    statuses, top_errors: empty until the first report.
    """

    taskforce_uuid: str
    task_id: str
    workflow_id: str
    timestamp: float
    n_workers: int
    phase: str
    priority: int = 100
    cluster_id: int | None = None
    statuses: Statuses = field(default_factory=dict)
    top_errors: Mapping[str, int] = field(default_factory=dict)
    phase_changes: tuple[PhaseChange, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkflowOrder:
    """Everything a scan asks of EWMS.

    instance: name of this installation, since EWMS is shared. clusters: (name, workers) as posted, a name may come twice.
    startup_url: presigned GET of `startup.json`; a credential. queue_idle_s: how long a worker waits for the next pixel.
    """

    scan_id: ScanId
    instance: str
    worker_image: str
    clusters: tuple[tuple[str, int], ...]
    max_pixel_reco_time_s: int
    priority: int
    worker_memory_bytes: int
    worker_disk_bytes: int
    startup_url: str = field(repr=False)
    is_client_logs: bool = False
    queue_idle_s: int = 3600


@dataclass(frozen=True, slots=True)
class StartupUpload:
    """Where the scanner puts `startup.json`: one request without further credentials. `url` is a credential itself."""

    url: str = field(repr=False)
    method: str = "PUT"
