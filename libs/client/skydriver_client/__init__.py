"""SkyDriver for Python: request scans, find them, follow them, fetch results.

``SkyDriver`` blocks, ``AsyncSkyDriver`` is for asyncio; both have the same methods. It installs alone, with httpx2.

    from skydriver_client import SkyDriver

    with SkyDriver() as skydriver:
        scan = skydriver.scans.create(request)
        scan.wait()
        print(scan.result().best_fit)
"""

from skydriver_client.async_client import AsyncPages, AsyncScan, AsyncScans, AsyncSkyDriver
from skydriver_client.errors import (
    BadProfile,
    BadRequest,
    Conflict,
    ConnectionFailed,
    Forbidden,
    NoCredentials,
    NotFound,
    RateLimited,
    ScanFailed,
    ServerError,
    SkyDriverError,
    StatusError,
    Unauthorized,
    Unavailable,
    WaitTimedOut,
)
from skydriver_client.sync_client import Pages, Scan, Scans, SkyDriver
from skydriver_client.values import (
    AddedWorkers,
    BacklogEntry,
    BestFit,
    Event,
    Manifest,
    Page,
    Problem,
    Result,
    ScanSummary,
    Status,
)
from skydriver_client.waiting import Update

__all__ = [
    "AddedWorkers", "AsyncPages", "AsyncScan", "AsyncScans", "AsyncSkyDriver", "BacklogEntry", "BadProfile", "BadRequest", "BestFit",
    "Conflict", "ConnectionFailed", "Event", "Forbidden", "Manifest", "NoCredentials", "NoResult", "NotFound", "Page", "Pages", "Problem",
    "RateLimited", "Result", "Scan", "ScanFailed", "ScanSummary", "Scans", "ServerError", "SkyDriver", "SkyDriverError", "Status",
    "StatusError", "Unauthorized", "Unavailable", "Update", "WaitTimedOut",
]  # fmt: skip
