"""The log folded into view rows in memory, by the functions that also write the live views: for checks and rebuilds."""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from skydriver_common.db.pool import Connection
from skydriver_common.log.views import ManifestRows, write_side_views
from skydriver_common.model.events import SYSTEM_CHAIN
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan, evolve
from skydriver_ops.eventlog.chains import chains
from skydriver_ops.eventlog.selection import ChainedEvent

VIEWS: dict[str, tuple[str, ...]] = {
    "manifests": (
        "scan_id", "version", "head_hash", "body", "rest", "is_deleted", "replaced_by", "ewms_workflow_id", "ewms_address",
        "event_digest", "priority", "state", "launch_state", "deactivated", "request_scan_id", "has_final_result",
        "problems",
    ),
    "scan_requests": ("scan_id", "body", "rescan_ids"),
    "results": ("scan_id", "digest", "size", "is_final"),
    "backlog": ("scan_id", "priority", "queued_at", "taken_at", "attempts"),
    "workforces": ("scan_id", "body"),
    "i3_events": ("i3_event_id", "digest"),
}  # fmt: skip
"""Every view and its columns (generated ones left out); the first column is its key."""

_BATCH = 500


@dataclass(slots=True)
class ViewRows:
    """View name to rows, as tuples in the order of ``VIEWS``. Stands in for the statements that write the side views."""

    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: {name: [] for name in VIEWS})
    scan_ids: list[ScanId] = field(default_factory=list)
    events: int = 0

    async def write_i3_event(self, _: Any, **values: Any) -> None:
        self._add("i3_events", values)

    async def write_scan_request(self, _: Any, **values: Any) -> None:
        self._add("scan_requests", values)

    async def write_result(self, _: Any, **values: Any) -> None:
        self._add("results", values)

    async def write_backlog(self, _: Any, **values: Any) -> None:
        self._add("backlog", values)

    async def write_workforce(self, _: Any, **values: Any) -> None:
        self._add("workforces", values)

    def _add(self, view: str, values: dict[str, Any]) -> None:
        self.rows[view].append(tuple(values[name] for name in VIEWS[view]))

    async def add(self, scan: Scan, head_hash: bytes, connection: Connection) -> None:
        """Add the rows of one scan."""
        manifest = ManifestRows()
        manifest.add(scan, head_hash)
        self.rows["manifests"].append(tuple(column[0] for column in manifest.columns.values()))
        self.scan_ids.append(scan.scan_id)
        await write_side_views(self, connection, None, scan)


class ViewFolder:
    """Folds links that come ordered by scan and version; holds one scan's state.

    known: states of scans whose links do not come from the first on, but from the one after.
    """

    def __init__(self, connection: Connection, known: Mapping[str, Scan] | None = None) -> None:
        self._connection = connection
        self._known = known or {}
        self._scan: Scan | None = None
        self._hash = b""
        self.rows = ViewRows()

    async def step(self, one: ChainedEvent) -> None:
        """One more link. Raises HistoryBroken, UnknownEvent."""
        if self._scan is not None and self._scan.scan_id != one.event.scan_id:
            await self.finish_scan()
        self.rows.events += 1
        if one.event.scan_id == SYSTEM_CHAIN:  # of no scan, so of no view
            return
        before = self._scan or self._known.get(one.event.scan_id)
        self._scan = evolve(before, one.event.event, scan_id=one.event.scan_id, recorded_at=one.event.recorded_at.timestamp())
        self._hash = one.hash

    async def finish_scan(self) -> None:
        """No more links of this scan will come."""
        if self._scan is not None:
            await self.rows.add(self._scan, self._hash, self._connection)
        self._scan = None

    def take(self) -> ViewRows:
        """The rows so far; the next ones are collected anew."""
        rows, self.rows = self.rows, ViewRows()
        return rows


async def iter_folded(connection: Connection, *, batch: int = _BATCH) -> AsyncIterator[ViewRows]:
    """The rows of all scans in order of scan, some hundred scans at a time. Raises TryLater, HistoryBroken, UnknownEvent."""
    folding = ViewFolder(connection)
    async for page in chains(connection):
        for one in page:
            await folding.step(one)
        if len(folding.rows.scan_ids) >= batch:
            yield folding.take()
    await folding.finish_scan()
    yield folding.take()


async def fold_links(connection: Connection, links: Iterable[ChainedEvent], known: Mapping[str, Scan]) -> ViewRows:
    """The rows of the scans that these links, on top of the known states, have made. Raises HistoryBroken, UnknownEvent."""
    folding = ViewFolder(connection, known)
    for one in links:
        await folding.step(one)
    await folding.finish_scan()
    return folding.take()
