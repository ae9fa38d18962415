"""What to ask EWMS for, and which of several answers to keep.

Source: REST contract 9.4, EWMS contract 3, 7, 12.
"""

import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.ewms_types import (
    FROM_CLIENT,
    INSTANCE_MARK,
    SCAN_MARK,
    TO_CLIENT,
    Json,
    TaskDirective,
    Taskforce,
    Workflow,
    WorkflowOrder,
    WorkflowSpec,
)

MAX_WORKER_RUNTIME_S = 86_400
FETCH_LIMIT_S = 1_800
FETCH_PAUSE_S = 10
CONDOR_REQUIREMENTS = "HAS_CVMFS_icecube_opensciencegrid_org && has_avx && has_avx2"
LEAST_WORKFLOW_PRIORITY = 100
CLOCK_SKEW_S = 300.0

_STARTUP_PATH = "{{DATA_HUB}}/startup.json"
_TASK_ARGS = "python -m skymap_scanner.client --infile {{INFILE}} --outfile {{OUTFILE}} --client-startup-json " + _STARTUP_PATH


def startup_object_key(scan_id: ScanId) -> str:
    """The object store's key for a scan's `startup.json`. Source: REST contract 6."""
    return f"{scan_id}-s3-object"


def merged_clusters(clusters: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """Each cluster once, in the order first named, with the sum of its workers.

    EWMS refuses a request with two equal tasks, and a name may come twice in ours. Source: EWMS contract 3.5.
    """
    totals: dict[str, int] = {}
    for name, n_workers in clusters:
        totals[name] = totals.get(name, 0) + n_workers
    return tuple(totals.items())


def workflow_spec(order: WorkflowOrder) -> WorkflowSpec:
    """The body of `POST /v1/workflows` for a scan: one task per cluster, each with its own number of workers.

    Every task bears the marker by which the workflow is found again after a lost answer.
    Raises ValueError if the order names no cluster (requests without one are refused long before).
    """
    clusters = merged_clusters(order.clusters)
    if not clusters:
        raise ValueError("an order names at least one cluster")
    spec: dict[str, Json] = {
        "public_queue_aliases": [TO_CLIENT, FROM_CLIENT],
        "tasks": [_task(order, name, n_workers) for name, n_workers in clusters],
    }
    if order.priority > LEAST_WORKFLOW_PRIORITY:
        # EWMS raises lower values to 100; higher ones put an alert ahead in the line for queue activation.
        spec["priority"] = order.priority
    return WorkflowSpec(spec)


def _task(order: WorkflowOrder, cluster: str, n_workers: int) -> Json:
    return {
        "cluster_locations": [cluster],
        "input_queue_aliases": [TO_CLIENT],
        "output_queue_aliases": [FROM_CLIENT],
        "task_image": order.worker_image,
        "task_args": _TASK_ARGS,
        "task_env": {SCAN_MARK: order.scan_id, INSTANCE_MARK: order.instance},
        "init_image": order.worker_image,
        "init_args": _fetch_startup(order.startup_url),
        "n_workers": n_workers,
        "pilot_config": {
            "tag": "latest",
            "image_source": "auto",
            "environment": dict(_pilot_environment(order)),
            "input_files": [],
        },
        "worker_config": {
            "do_transfer_worker_stdouterr": True,
            "max_worker_runtime": MAX_WORKER_RUNTIME_S,
            "n_cores": 1,
            "priority": order.priority,
            "worker_disk": order.worker_disk_bytes,
            "worker_memory": order.worker_memory_bytes,
            "condor_requirements": CONDOR_REQUIREMENTS,
        },
    }


def _fetch_startup(url: str) -> str:
    # A worker can start before the scanner has uploaded the file: it asks again instead of dying at the first 404.
    retries = FETCH_LIMIT_S // FETCH_PAUSE_S
    return (
        f"curl --fail --silent --show-error --max-time {FETCH_LIMIT_S} "
        f"--retry {retries} --retry-delay {FETCH_PAUSE_S} --retry-max-time {FETCH_LIMIT_S} --retry-all-errors "
        f"--output {_STARTUP_PATH} {shlex.quote(url)}"
    )


def _pilot_environment(order: WorkflowOrder) -> Iterable[tuple[str, str]]:
    """Strings only: EWMS refuses booleans, and what is left out has the pilot's default. Source: EWMS contract 3.1, 11."""
    yield "EWMS_PILOT_TASK_TIMEOUT", str(order.max_pixel_reco_time_s)
    yield "EWMS_PILOT_QUARANTINE_TIME", str(order.max_pixel_reco_time_s)
    if order.is_client_logs:
        yield "EWMS_PILOT_DUMP_TASK_OUTPUT", "True"
    # The pilot's default is 1 s: the workers would leave during the first pause between two rounds of pixels.
    yield "EWMS_PILOT_TIMEOUT_QUEUE_INCOMING", str(order.queue_idle_s)
    yield "EWMS_PILOT_INIT_TIMEOUT", str(FETCH_LIMIT_S + 1)
    yield "EWMS_PILOT_CONTAINER_DEBUG", "True"
    yield "EWMS_PILOT_INFILE_EXT", ".json"
    yield "EWMS_PILOT_OUTFILE_EXT", ".json"


@dataclass(frozen=True, slots=True)
class WorkflowChoice:
    """Of the workflows found for one scan: the one to keep (None: there is none alive) and those to abort."""

    keep: Workflow | None
    abort: tuple[Workflow, ...] = ()


def choose_workflow(candidates: Iterable[Workflow], assigned: str | None = None) -> WorkflowChoice:
    """Keep one live workflow: the assigned one if any, else the one with the smallest (timestamp, workflow_id).

    Every replica comes to the same choice from the same candidates, so two of them never abort each other's.
    Deactivated ones are neither kept nor aborted again. assigned: the id already recorded for the scan, if any; once
    recorded, it is never traded for another, so that with it gone nothing is kept and all others are aborted.
    """
    live = sorted((w for w in candidates if w.deactivated is None), key=lambda w: (w.timestamp, w.workflow_id))
    keep = next((w for w in live if assigned in (None, w.workflow_id)), None)
    return WorkflowChoice(keep, tuple(w for w in live if w is not keep))


def task_for_cluster(directives: Sequence[TaskDirective], cluster: str) -> TaskDirective | None:
    """The task to add workers to: the oldest that names the cluster, else the oldest of all; None without any.

    EWMS takes locations that no task names, so a cluster new to the scan is served by any task. Source: EWMS contract 7.
    """
    in_order = sorted(directives, key=lambda d: (d.timestamp, d.task_id))
    named = (d for d in in_order if cluster in d.cluster_locations)
    return next(named, in_order[0] if in_order else None)


def added_taskforce(
    now_there: Iterable[Taskforce], *, before: Collection[str], task_id: str, n_workers: int, since: float
) -> Taskforce | None:
    """The batch that an add-workers call of unclear outcome has made after all, or None.

    before: the uuids listed before the call. since: Unix seconds of the call on our clock; EWMS's may differ by minutes.
    Source: EWMS contract 12.
    """
    new = (
        t
        for t in now_there
        if t.taskforce_uuid not in before
        and t.task_id == task_id
        and t.n_workers == n_workers
        and t.timestamp >= since - CLOCK_SKEW_S
    )
    return min(new, key=lambda t: (t.timestamp, t.taskforce_uuid), default=None)
