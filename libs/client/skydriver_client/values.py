"""What the server says, as frozen values. Each keeps the whole JSON in ``raw``, so that a newer server's fields are not lost."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypeVar

Json = Mapping[str, Any]
T = TypeVar("T")
FINAL = "SCAN_HAS_FINAL_RESULT"
_ACTIVE = ("PENDING__", "IN_PROGRESS__")


def is_over(scan_state: str) -> bool:
    """Whether a scan in this state does not go on."""
    return not scan_state.startswith(_ACTIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanSummary:
    """A scan as a list shows it. What its scanner has not reported yet is None."""

    scan_id: str
    scan_state: str
    requested_at: datetime
    priority: int
    is_deleted: bool
    run_id: int | None
    event_id: int | None
    event_type: str | None
    classifiers: Json
    replaced_by_scan_id: str | None
    progress_summary: str | None
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """Read a summary of ``GET /scans``."""
        return cls(
            scan_id=raw["scan_id"], scan_state=raw.get("scan_state", ""), requested_at=_moment(raw.get("timestamp")),
            priority=raw.get("priority", 0), is_deleted=raw.get("is_deleted", False), run_id=raw.get("run_id"),
            event_id=raw.get("event_id"), event_type=raw.get("event_type"), classifiers=raw.get("classifiers") or {},
            replaced_by_scan_id=raw.get("replaced_by_scan_id"), progress_summary=raw.get("progress_summary"), raw=raw,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A scan's manifest. progress, event_metadata, scan_metadata: as the scanner reported them, None before."""

    scan_id: str
    requested_at: datetime
    is_deleted: bool
    priority: int
    classifiers: Json
    i3_event_id: str | None
    ewms_workflow_id: str | None
    replaced_by_scan_id: str | None
    event_metadata: Json | None
    scan_metadata: Json | None
    progress: Json | None
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """Read a manifest."""
        return cls(
            scan_id=raw["scan_id"], requested_at=_moment(raw.get("timestamp")), is_deleted=raw.get("is_deleted", False),
            priority=raw.get("priority", 0), classifiers=raw.get("classifiers") or {}, i3_event_id=raw.get("i3_event_id"),
            ewms_workflow_id=raw.get("ewms_workflow_id"), replaced_by_scan_id=raw.get("replaced_by_scan_id"),
            event_metadata=raw.get("event_metadata"), scan_metadata=raw.get("scan_metadata"), progress=raw.get("progress"), raw=raw,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a scan waits or failed. code: for programs. text: for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A scan's state, problems and number of running workers."""

    scan_state: str
    is_deleted: bool
    is_complete: bool
    problems: tuple[Problem, ...]
    n_running_workers: int
    raw: Json = field(repr=False, compare=False)

    @property
    def is_over(self) -> bool:
        """Whether the scan does not go on: complete, failed or deleted."""
        return self.is_complete or self.is_deleted or is_over(self.scan_state)

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """Read a status."""
        return cls(
            scan_state=raw["scan_state"], is_deleted=raw.get("is_deleted", False), is_complete=raw.get("scan_complete", False),
            problems=tuple(Problem(each.get("code", ""), each.get("text", "")) for each in raw.get("problems") or ()),
            n_running_workers=(raw.get("ewms_workforce") or {}).get("n_running", 0), raw=raw,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BestFit:
    """The pixel of the smallest llh. pixel: number in the ring or nested order of the scanner's own choice."""

    nside: int
    pixel: int
    llh: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A skymap. skymap: as the scanner sent it, one table per nside. content: the response, byte for byte."""

    scan_id: str
    is_final: bool
    skymap: Json = field(repr=False)
    content: bytes = field(repr=False)

    @classmethod
    def from_content(cls, content: bytes) -> Self | None:
        """Read a response; None while there is no result. NaN and Infinity are read as they stand."""
        raw = json.loads(content)
        if not raw:
            return None
        return cls(scan_id=raw["scan_id"], is_final=raw["is_final"], skymap=raw["skyscan_result"], content=content)

    @property
    def n_pixels(self) -> dict[int, int]:
        """How many pixels there are, by nside, the coarsest first."""
        return {nside: len(rows) for nside, _, rows in self._tables()}

    @property
    def best_fit(self) -> BestFit | None:
        """The best pixel of all, None when no pixel has a finite llh."""
        best: BestFit | None = None
        for nside, columns, rows in self._tables():
            index, llh = columns.index("index"), columns.index("llh")
            for row in rows:
                value = row[llh]
                if isinstance(value, int | float) and math.isfinite(value) and (best is None or value < best.llh):
                    best = BestFit(nside=nside, pixel=int(row[index]), llh=float(value))
        return best

    def _tables(self) -> list[tuple[int, list[str], list[list[Any]]]]:
        tables = []
        for name, table in self.skymap.items():
            digits = name.removeprefix("nside-")
            if digits.isdecimal() and isinstance(table, dict) and {"index", "llh"} <= set(table.get("columns", ())):
                tables.append((int(digits), list(table["columns"]), table.get("data", [])))
        return sorted(tables, key=lambda each: each[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of a scan's history. version: its place in it, from 1. data: None when it was compacted."""

    version: int
    type: str
    recorded_at: datetime
    actor: str
    data: Json | None
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """Read an event."""
        return cls(
            version=raw["version"], type=raw["type"], recorded_at=datetime.fromisoformat(raw["recorded_at"]), actor=raw.get("actor", ""),
            data=raw.get("data"), raw=raw,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogEntry:
    """A scan that waits to be launched."""

    scan_id: str
    priority: int
    waiting_since: datetime
    attempts: int
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """Read an entry of the backlog."""
        return cls(
            scan_id=raw["scan_id"], priority=raw.get("priority", 0), waiting_since=_moment(raw.get("timestamp")),
            attempts=raw.get("next_attempt", 0), raw=raw,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedWorkers:
    """Workers that were added to a scan."""

    taskforce_uuid: str
    n_workers: int
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """Read the response to add-workers."""
        return cls(taskforce_uuid=raw["taskforce_uuid"], n_workers=raw["n_workers"], raw=raw)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. next: what ``after`` of the next page is, None on the last one."""

    items: tuple[T, ...]
    next: str | None


def _moment(timestamp: float | None) -> datetime:
    return datetime.fromtimestamp(timestamp or 0.0, UTC)
