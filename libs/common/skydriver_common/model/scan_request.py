"""The request of a scan, as it is stored and served. Source: REST contract 5.4."""

from typing import Any, TypedDict


class ScanRequest(TypedDict):
    """Checked by the gateway; what was stored once is never checked again. nsides: in the order posted. Sizes are in bytes.

    Events and commands hold it as plain data, since what a later release adds must get through.
    """

    docker_tag: str
    scanner_server_memory_bytes: int
    reco_algo: str
    nsides: dict[str, int]
    real_or_simulated_event: str
    predictive_scanning_threshold: float
    classifiers: dict[str, Any]
    request_clusters: list[tuple[str, int]]
    worker_memory_bytes: int
    worker_disk_bytes: int
    max_pixel_reco_time: int
    priority: int
    debug_mode: list[str]
    i3_event_id: str
    scanner_server_env_from_user: dict[str, Any]
