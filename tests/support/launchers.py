"""Launchers for tests, and scans to launch."""

from dataclasses import replace
from functools import partial
from typing import Any

from kubernetes_asyncio.client import ApiClient

from skydriver_common.model.ids import ScanId, new_scan_id
from skydriver_common.model.scan import Launch, Scan, evolve
from skydriver_common.model.stages import LaunchState
from skydriver_dispatcher.adapters.kubernetes.launcher import KubernetesLauncher
from skydriver_dispatcher.jobspec import WORKING_DIR, JobSettings
from skydriver_dispatcher.pending_events import PendingEvents
from skydriver_dispatcher.scanner_environment import scanner_environment
from tests.support.histories import a_request
from tests.support.kmock_cluster import NAMESPACE

JOBS = JobSettings(namespace=NAMESPACE, instance="skydriver-test", upload_image="skydriver:1")
NEEDED: dict[str, Any] = {
    "scanner_server_memory_bytes": 1_024_000_000,
    "scanner_server_env_from_user": {},
}


def a_queued_scan(scan_id: ScanId | None = None, **request: Any) -> Scan:
    """A scan that waits for its launch."""
    scan_id = scan_id or new_scan_id()
    return evolve(None, a_request(scan_id, **NEEDED | request), scan_id=scan_id, recorded_at=0.0)


def a_launched_scan(**launch: Any) -> Scan:
    """A scan with a Job."""
    return replace(a_queued_scan(), launch=Launch(state=LaunchState.LAUNCHED, launcher="kubernetes", job="j", **launch))


def kubernetes_launcher(
    client: ApiClient, events: PendingEvents, settings: JobSettings = JOBS, *, timeout_s: float = 15.0
) -> KubernetesLauncher:
    """A launcher whose tokens can be read."""
    environment = partial(
        scanner_environment,
        address="http://skydriver",
        profile_path="/common-space/ewms.json",
        working_dir=WORKING_DIR,
        bus={},
        forwarded={},
    )
    return KubernetesLauncher(
        client, settings, environment=environment, token=lambda scan_id: f"token-of-{scan_id}", events=events, timeout_s=timeout_s
    )  # fmt: skip
