"""View queries: typed, bounded, one round trip each."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import zstandard

from skydriver_common.db.pool import Pool, load_statements
from skydriver_common.db.translate import database_faults
from skydriver_common.log.blobs import unpack

_sql = load_statements("skydriver_api", "api.sql")
_NO_WORKFORCE = b'{"statuses":{},"n_running":0,"top_errors":{}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestView:
    """One row of ``manifests``. body: the Manifest as JSON, ready to be sent."""

    scan_id: str
    body: bytes
    is_deleted: bool
    replaced_by: str | None
    event_digest: str
    state: str
    deactivated: str | None
    ewms_workflow_id: str | None
    ewms_address: str | None
    has_final_result: bool
    request_scan_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """What ``status`` and ``workforce`` answer from. workforce: JSON object with statuses, n_running, top_errors."""

    scan_id: str
    is_deleted: bool
    replaced_by: str | None
    state: str
    deactivated: str | None
    ewms_workflow_id: str | None
    workforce: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """A skymap's bytes as the scanner sent them."""

    skyscan_result: bytes
    is_final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogRow:
    """A waiting scan. Times are Unix seconds; taken_at 0.0 = never taken."""

    scan_id: str
    queued_at: float
    priority: int
    taken_at: float
    attempts: int


class Reads:
    """The gateway's questions. Each raises TryLater when the database is away."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def manifest(self, scan_id: str) -> ManifestView | None:
        """The scan, or None when it is unknown."""
        with database_faults():
            row = await _sql.manifest(self.pool, scan_id=scan_id)
        return None if row is None else ManifestView(**dict(row))

    async def status(self, scan_id: str) -> StatusView | None:
        """State and workforce of the scan, or None when it is unknown."""
        with database_faults():
            row = await _sql.status(self.pool, scan_id=scan_id)
        return None if row is None else StatusView(**dict(row) | {"workforce": row["workforce"] or _NO_WORKFORCE})

    async def end_of_chain(self, scan_id: str) -> str:
        """The scan that replaces this one in the end; itself when the chain is a cycle."""
        with database_faults():
            last: str | None = await _sql.end_of_chain(self.pool, scan_id=scan_id)
        return last or scan_id

    async def result(self, scan_id: str) -> StoredResult | None:
        """The stored skymap, or None."""
        with database_faults():
            row = await _sql.result(self.pool, scan_id=scan_id)
        if row is None:
            return None
        content = row["body"] if row["encoding"] == "identity" else await unpack(row["body"], row["size"])
        return StoredResult(skyscan_result=content, is_final=row["is_final"])

    async def scan_request(self, scan_id: str) -> bytes | None:
        """The ScanRequest this scan was made from, as JSON, or None."""
        with database_faults():
            body: bytes | None = await _sql.scan_request(self.pool, scan_id=scan_id)
        return body

    async def i3_event_exists(self, i3_event_id: str) -> bool:
        """Whether an event with this id is stored."""
        with database_faults():
            return bool(await _sql.i3_event_exists(self.pool, i3_event_id=i3_event_id))

    async def backlog(self) -> AsyncIterator[BacklogRow]:
        """Every waiting scan, oldest first."""
        with database_faults():
            async for row in _sql.backlog(self.pool):
                yield BacklogRow(**dict(row))

    async def taskforces(self, scan_id: str) -> bytes | None:
        """``{"taskforces": [...]}`` as EWMS gave them last, or None."""
        with database_faults():
            packed: bytes | None = await _sql.taskforces(self.pool, scan_id=scan_id)
        return None if packed is None else await asyncio.to_thread(_unzipped, packed)

    async def scan_start(self, scan_id: str) -> float | None:
        """When the scanner server began, Unix seconds (REST contract 8.7), or None when the scan is unknown."""
        with database_faults():
            row = await _sql.scan_start(self.pool, scan_id=scan_id)
        if row is None:
            return None
        for told in (row["progress_start"], row["scanner_start"]):
            if (moment := _moment(told)) is not None:
                return moment
        return float(row["requested_at"])


def _moment(text: str | None) -> float | None:
    """Unix seconds of a number or a time as text, None when it is neither."""
    if text is None:
        return None
    with suppress(ValueError, OverflowError):
        return float(text)
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text).timestamp()
    return None


def _unzipped(packed: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(packed)
