"""View queries: typed, bounded, at most one round trip each; frequent ones are batched."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

import zstandard

from skydriver_api.reads.batched import BatchedLookup
from skydriver_api.reads.result_cache import ResultCache, ResultView, envelope_of_result
from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Pool, load_statements
from skydriver_common.log import blobs
from skydriver_common.log import read as log
from skydriver_common.log.group_commit import recorded_reply
from skydriver_common.log.read import LoggedEvent, Page
from skydriver_common.model import event_codec
from skydriver_common.model.ids import ScanId, created_at
from skydriver_common.model.priorities import URGENT_PRIORITY
from skydriver_common.model.rejections import Reply

_sql = load_statements("skydriver_api", "api.sql")
_LOOKUP_TIMEOUT_S = 5.0
_MAX_TRANSACTION_S = 900
_ROWS_PER_FETCH = 500
_LIVE_PAGE_EVENTS = 100
LIVE_PAGE_BYTES = 256 * 1024
"""A page for a live stream ends with the event that has reached this size."""
HISTORY_PAGE_BYTES = 4 * 1024 * 1024
"""The same for a page of ``GET /scan/{id}/events``."""
_NO_WORKFORCE = b'{"statuses":{},"n_running":0,"top_errors":{}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestView:
    """One row of ``manifests``. body: the Manifest as JSON, ready to be sent."""

    scan_id: ScanId
    body: bytes
    is_deleted: bool
    replaced_by: ScanId | None
    event_digest: str
    state: str
    deactivated: str | None
    ewms_workflow_id: str | None
    ewms_address: str | None
    has_final_result: bool
    request_scan_id: ScanId


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """What ``status`` and ``workforce`` are made of.

    workforce: JSON object with statuses, n_running, top_errors. problems: JSON array of ``{"code", "text"}``. ewms_as_of: Unix
    seconds of the last update of worker counts, None before the first. ewms_away_since: Unix seconds, None while EWMS responds.
    bridge_away_since: Unix seconds when the bridge last worked, None while it does. held: what keeps the launch back, a key of
    ``problems.HOLDS``.
    """

    scan_id: ScanId
    is_deleted: bool
    replaced_by: ScanId | None
    state: str
    deactivated: str | None
    ewms_workflow_id: str | None
    problems: bytes
    workforce: bytes
    ewms_as_of: float | None
    ewms_away_since: float | None
    bridge_away_since: float | None = None
    held: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogRow:
    """A waiting scan. Times are Unix seconds; taken_at 0.0 = never taken."""

    scan_id: ScanId
    queued_at: float
    priority: int
    taken_at: float
    attempts: int


@asynccontextmanager
async def _with_query_timeout() -> AsyncIterator[None]:
    """Limit the time of a batched query. Raises TryLater when the database is unavailable or does not respond."""
    with database_faults():
        async with asyncio.timeout(_LOOKUP_TIMEOUT_S):
            yield


class ViewQueries:
    """The gateway's queries. Each raises TryLater when the database is unavailable."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._manifests = BatchedLookup(self._find_manifests)
        self._statuses = BatchedLookup(self._find_statuses)
        self._results = BatchedLookup(self._find_results, max_concurrent=1)
        self._bodies = BatchedLookup(self._find_bodies, max_batch=1)
        self._ends = BatchedLookup(self._find_ends)
        self._events = BatchedLookup(self._find_events, max_batch=1)
        self._result_cache = ResultCache()

    async def manifest(self, scan_id: ScanId) -> ManifestView | None:
        """Return the scan, or None when it is unknown."""
        return await self._manifests(scan_id)

    async def status(self, scan_id: ScanId) -> StatusView | None:
        """State and workforce of the scan, or None when it is unknown."""
        return await self._statuses(scan_id)

    async def result(self, scan_id: ScanId) -> ResultView | None:
        """Which skymap the scan has, or None when the scan is unknown."""
        return await self._results(scan_id)

    async def result_body(self, view: ResultView) -> bytes:
        """The Result (REST contract 5.2) as JSON, ready to be sent; ``{}`` when there is no skymap."""
        if view.digest is None:
            return b"{}"
        # content-addressed: a cached body is never out of date
        body = self._result_cache.get(view) or await self._bodies(view)
        assert body is not None, "a result refers to a blob that is missing"
        return body

    async def packed_result(self, view: ResultView) -> blobs.Packed:
        """The skymap as it is stored. view: of a scan that has one."""
        assert view.digest is not None
        async with _with_query_timeout():
            return await blobs.get_packed(self.pool, view.digest)

    async def chain(self, scan_id: ScanId) -> list[ScanId]:
        """The scan, and those that replaced it, one after the other; a cycle ends where it would begin again."""
        with database_faults():
            return [row["scan_id"] async for row in _sql.chain(self.pool, scan_id=scan_id)] or [scan_id]

    async def end_of_chain(self, scan_id: ScanId) -> ScanId:
        """The scan that replaces this one in the end; itself when the chain is a cycle."""
        with database_faults():
            last: ScanId | None = await _sql.end_of_chain(self.pool, scan_id=scan_id)
        return last or scan_id

    async def recorded_reply(self, command_id: str, fingerprint: str) -> Reply | None:
        """The reply recorded under a command's id, None when there is none."""
        async with _with_query_timeout():
            return await recorded_reply(self.pool, command_id, fingerprint)

    async def ended_at(self, scan_id: ScanId) -> float | None:
        """Return when the scan ended, Unix seconds; None while it has not, or is unknown."""
        return await self._ends(scan_id)

    async def scan_request(self, scan_id: ScanId) -> bytes | None:
        """The ScanRequest this scan was made from, as JSON, or None."""
        with database_faults():
            body: bytes | None = await _sql.scan_request(self.pool, scan_id=scan_id)
        return body

    async def i3_event_exists(self, i3_event_id: str) -> bool:
        """Whether an event with this id is stored."""
        with database_faults():
            return bool(await _sql.i3_event_exists(self.pool, i3_event_id=i3_event_id))

    async def backlog(self, *, after: ScanId | None = None, limit: int | None = None) -> AsyncGenerator[list[BacklogRow], None]:
        """Waiting scans, oldest first, in portions. Holds a connection: close it (``aclosing``) if left early.

        after: only those that stand after this scan. limit: their maximum number, None: all.
        """
        place = {"after": after, "after_at": None if after is None else created_at(after)}
        with database_faults():
            async with self.pool.acquire() as connection, _sql.backlog_cursor(connection, **place, most=limit) as query:
                await _sql.limit_transaction(connection, seconds=_MAX_TRANSACTION_S)
                cursor = await query
                while rows := await cursor.fetch(_ROWS_PER_FETCH):
                    yield [BacklogRow(**dict(row)) for row in rows]

    async def taskforces(self, scan_id: ScanId) -> bytes | None:
        """``{"taskforces": [...]}`` as EWMS gave them last, or None."""
        with database_faults():
            packed: bytes | None = await _sql.taskforces(self.pool, scan_id=scan_id)
        return None if packed is None else await asyncio.to_thread(_decompressed, packed)

    async def scan_start(self, scan_id: ScanId) -> float | None:
        """When the scanner server began, Unix seconds (REST contract 8.7), or None when the scan is unknown."""
        with database_faults():
            row = await _sql.scan_start(self.pool, scan_id=scan_id)
        if row is None:
            return None
        for text in (row["progress_start"], row["scanner_start"]):
            if (moment := _moment(text)) is not None:
                return moment
        return float(row["requested_at"])

    async def events_after(self, scan_id: ScanId, version: int) -> tuple[Sequence[LoggedEvent], bool]:
        """The scan's next events after a version, a page of them, and whether these are the last so far.

        Watchers of the same scan share the query.
        """
        return await self._events((scan_id, version)) or ((), True)

    async def versions(self, scan_ids: Sequence[ScanId]) -> dict[ScanId, int]:
        """The versions of these scans' newest events; unknown scans are left out."""
        async with _with_query_timeout():
            return {row["scan_id"]: row["version"] async for row in _sql.versions(self.pool, scan_ids=list(scan_ids))}

    async def events_page(self, scan_id: ScanId, version: int, limit: int) -> Page:
        """The scan's next events after a version, at most so many."""
        async with _with_query_timeout():
            return await log.page(self.pool, scan_id, after=version, most=limit, most_bytes=HISTORY_PAGE_BYTES)

    async def _find_manifests(self, scan_ids: list[ScanId]) -> dict[ScanId, ManifestView]:
        async with _with_query_timeout():
            return {row["scan_id"]: ManifestView(**row) async for row in _sql.manifests(self.pool, scan_ids=scan_ids)}

    async def _find_statuses(self, scan_ids: list[ScanId]) -> dict[ScanId, StatusView]:
        async with _with_query_timeout():
            return {
                row["scan_id"]: StatusView(**dict(row) | {"workforce": row["workforce"] or _NO_WORKFORCE})
                async for row in _sql.statuses(self.pool, scan_ids=scan_ids, urgent=URGENT_PRIORITY)
            }

    async def _find_results(self, scan_ids: list[ScanId]) -> dict[ScanId, ResultView]:
        async with _with_query_timeout():
            return {row["scan_id"]: ResultView(**row) async for row in _sql.results(self.pool, scan_ids=scan_ids)}

    async def _find_ends(self, scan_ids: list[ScanId]) -> dict[ScanId, float]:
        async with _with_query_timeout():
            rests = {row["scan_id"]: row["rest"] async for row in _sql.ends(self.pool, scan_ids=scan_ids)}
        ends = {scan_id: event_codec.decode(rest).get("scanner", {}).get("ended_at") for scan_id, rest in rests.items()}
        return {scan_id: ended_at for scan_id, ended_at in ends.items() if ended_at is not None}

    async def _find_events(self, cursors: list[tuple[ScanId, int]]) -> dict[tuple[ScanId, int], tuple[list[LoggedEvent], bool]]:
        """Read one page, which can be large."""
        ((scan_id, version),) = cursors
        async with _with_query_timeout():
            rows = _sql.events_after(
                self.pool, scan_id=scan_id, after=version, most=_LIVE_PAGE_EVENTS, most_bytes=LIVE_PAGE_BYTES
            )
            page = [log.logged_event(row) async for row in rows]
        is_last = len(page) < _LIVE_PAGE_EVENTS and sum(len(event.data) for event in page) < LIVE_PAGE_BYTES
        return {(scan_id, version): (page, is_last)}

    async def _find_bodies(self, views: list[ResultView]) -> dict[ResultView, bytes]:
        """Read one body, which can be large."""
        (view,) = views
        body = self._result_cache.get(view)
        if body is None:
            assert view.digest is not None
            skymap = await blobs.get(self.pool, view.digest)
            before, after = envelope_of_result(view)
            body = b"".join((before, skymap, after))
            self._result_cache.put(view, body)
        return {view: body}


def _moment(text: str | None) -> float | None:
    """Unix seconds of a number or a time as text, None when it is neither."""
    if text is None:
        return None
    with suppress(ValueError, OverflowError):
        return float(text)
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text).timestamp()
    return None


def _decompressed(packed: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(packed)
