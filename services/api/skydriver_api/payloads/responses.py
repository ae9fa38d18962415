"""Bodies of responses: the OpenAPI document is made from these models. Source: REST contract 4, 5.

They describe. A response itself is not validated at run time: most are stored bytes that go out unchanged.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, WithJsonSchema

JsonObject = Annotated[dict[str, Any], WithJsonSchema({"type": "object"})]
"""Any JSON object: its content is the scanner's, the user's or EWMS's."""


class _Response(BaseModel):
    """A closed object; all of its fields are always present unless they are said to be optional."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _all_optional(schema: dict[str, Any]) -> None:
    del schema["required"]


class Empty(_Response):
    """An empty object."""

    model_config = ConfigDict(json_schema_extra={"maxProperties": 0})


class OpenApiDocument(RootModel[JsonObject]):
    """An OpenAPI 3.1 document."""


class Error(_Response):
    """The body of every error response."""

    error: str
    reason: str
    message: str
    code: int


class ManifestProcessingStats(_Response):
    """How the reconstruction goes (REST contract 5.1.2)."""

    start: JsonObject
    runtime: JsonObject
    rate: JsonObject
    end: str
    finished: bool
    predictions: JsonObject


class ManifestProgress(_Response):
    """How far a scan is (REST contract 5.1.2)."""

    summary: str
    epilogue: str
    tallies: JsonObject
    processing_stats: ManifestProcessingStats
    predictive_scanning_threshold: float
    last_updated: str
    start: int | None
    end: int | None


class ManifestEventMetadata(_Response):
    """What the event is (REST contract 5.1.1)."""

    run_id: int
    event_id: int
    event_type: str | None
    mjd: float
    is_real_event: bool


class Manifest(_Response):
    """A scan's manifest. With a projection, only the selected fields are present."""

    model_config = ConfigDict(json_schema_extra=_all_optional)

    scan_id: str
    timestamp: float
    is_deleted: bool
    scanner_server_args: str
    ewms_workflow_id: str | None
    ewms_address: str | None
    ewms_task: str | JsonObject
    priority: int
    classifiers: JsonObject
    i3_event_id: str
    event_i3live_json_dict: str | JsonObject
    event_i3live_json_dict__hash: str | None
    event_metadata: ManifestEventMetadata | None
    scan_metadata: JsonObject | None
    progress: ManifestProgress | None
    replaced_by_scan_id: str | None
    last_updated: float


class ScanSummary(_Response):
    """A scan as a list shows it. What its scanner has not reported yet is null."""

    scan_id: str
    timestamp: float = Field(description="When the scan was requested, Unix seconds.")
    scan_state: str
    is_deleted: bool
    priority: int
    run_id: int | None
    event_id: int | None
    event_type: str | None
    mjd: float | None
    is_real_event: bool | None
    i3_event_id: str
    classifiers: JsonObject
    ewms_workflow_id: str | None
    replaced_by_scan_id: str | None
    progress_summary: str | None = Field(description="The scanner's own words, at most 300 characters.")
    last_updated: float


class ScanSummaries(_Response):
    """A page of scans."""

    scans: list[ScanSummary]
    next: str | None = Field(description="Pass this as `after` to get the next page; null on the last page.")


class NoResult(Empty):
    """There is no result yet."""


class StoredResult(_Response):
    """A skymap as the scanner sent it."""

    scan_id: str
    skyscan_result: JsonObject
    is_final: bool


class Result(RootModel[StoredResult | NoResult]):
    """A skymap, or {} while there is none. It may hold the bare tokens NaN, Infinity and -Infinity."""

    # in this order: generated clients take the first model that fits


class Scan(_Response):
    """A scan's manifest and result."""

    manifest: Manifest
    result: Result


class Manifests(_Response):
    """The scans that a search found."""

    manifests: list[Manifest]


class BacklogEntry(_Response):
    """A scan that is waiting to be launched (REST contract 5.3)."""

    scan_id: str
    timestamp: float
    pickled_k8s_job: None
    priority: int
    pending_timestamp: float
    next_attempt: int


class Backlog(_Response):
    """Scans that are waiting to be launched, oldest first."""

    entries: list[BacklogEntry]


ClusterWorkers = Annotated[
    list[str | int],
    WithJsonSchema(
        {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "minItems": 2, "maxItems": 2}
    ),
]
"""A cluster name and a number of workers."""


class ScanRequest(_Response):
    """A scan's request, in the form that POST /scan accepts (REST contract 5.4)."""

    scan_id: str
    rescan_ids: list[str]
    docker_tag: str
    scanner_server_memory_bytes: int
    reco_algo: str
    nsides: dict[str, int]
    real_or_simulated_event: str
    predictive_scanning_threshold: float
    classifiers: JsonObject
    request_clusters: list[ClusterWorkers]
    worker_memory_bytes: int
    worker_disk_bytes: int
    max_pixel_reco_time: int
    priority: int
    debug_mode: list[str]
    i3_event_id: str
    scanner_server_env_from_user: JsonObject


class I3Event(_Response):
    """A realtime event as it was submitted."""

    i3_event: JsonObject


class LogLink(_Response):
    """Where a log can be seen; null: nowhere."""

    url: str | None


class Logs(_Response):
    """Where a scan's logs can be seen."""

    scanner_server: LogLink


class WorkflowId(_Response):
    """A scan's EWMS workflow."""

    workflow_id: str | None
    requested_ewms_workflow: bool
    eligible_for_ewms: bool
    ewms_address: str | None


class Workforce(_Response):
    """Worker counts over all taskforces of a scan (REST contract 8.6)."""

    workflow_id: str | None
    statuses: dict[str, dict[str, int]]
    n_running: int
    top_errors: dict[str, int]


class Taskforces(_Response):
    """EWMS's taskforces of a scan, with all fields."""

    taskforces: list[JsonObject]


class ScanProblem(_Response):
    """What is wrong with a scan: a code for machines and a text for people."""

    code: str
    text: str


class Status(_Response):
    """A scan's state, problems and worker counts."""

    scan_state: str
    is_deleted: bool
    ewms_deactivated: Literal["ABORTED", "FINISHED"] | None
    scan_complete: bool
    scanner_server_logs: LogLink
    problems: list[ScanProblem]
    ewms_as_of: float | None
    ewms_workforce: Workforce


class AddedWorkers(_Response):
    """A taskforce that was added to a scan."""

    taskforce_uuid: str
    n_workers: int


def _data_sha256_is_optional(schema: dict[str, Any]) -> None:
    schema["required"].remove("data_sha256")


class Event(_Response):
    """An event of a scan's history, with its envelope."""

    model_config = ConfigDict(json_schema_extra=_data_sha256_is_optional)

    position: int
    event_id: str
    scan_id: str
    version: int
    type: str
    schema_version: int
    recorded_at: str
    actor: str
    command_id: str
    correlation_id: str
    data: JsonObject | None
    data_sha256: str = Field(description="SHA-256 of the original data, present when it was compacted; `data` is then null.")


class Events(_Response):
    """A page of a scan's events."""

    events: list[Event]
    next: int | None = Field(description="Pass this as `after` to get the next page; null on the last page.")
