"""What one transaction writes: events, manifests, side views, replies, due work; gathered first, then a few statements for all.

Rows are sorted by their key, so that two transactions that touch the same rows wait for each other instead of dead-locking.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from skydriver_common.db.pool import Connection, load_statements
from skydriver_common.db.schedule import DueChanges
from skydriver_common.log.scan_state_cache import size_in_memory
from skydriver_common.log.views import ManifestRows, write_side_views
from skydriver_common.model import event_codec
from skydriver_common.model.rejections import Reply
from skydriver_common.model.scan import Scan

sql = load_statements("skydriver_common.log", "log.sql")

_EVENT_COLUMNS = (
    "event_ids", "scan_ids", "versions", "types", "schema_versions", "recorded_ats", "actors", "command_ids",
    "correlation_ids", "datas", "prev_hashes", "hashes",
)  # fmt: skip
_REPLY_COLUMNS = ("r_command_ids", "r_fingerprints", "r_codes", "r_reasons", "r_bodies")
_MANIFEST_COLUMNS = (
    "m_scan_ids", "m_versions", "m_head_hashes", "m_bodies", "m_rests", "m_is_deleteds", "m_replaced_bys", "m_workflow_ids",
    "m_ewms_addresses", "m_event_digests", "m_priorities", "m_states", "m_launch_states", "m_deactivateds",
    "m_request_scan_ids", "m_has_final_results", "m_problems",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RecordedReply:
    """The answer under a command's id. fingerprint: of the request it answers."""

    command_id: str
    fingerprint: str
    reply: Reply


class BlobLost(Exception):
    """A decision refers to a blob that is not stored: it was put just before a crash of the database and has to be put again."""


@dataclass(slots=True)
class PendingWrites:
    """What is to be written. scans: all that are loaded, with the hash of their newest event; before: the changed ones.

    needed: digests of blobs without which nothing of this may be committed. appended: types of the events that were written.
    written: scans whose states were written, with what each takes in memory (bytes).
    """

    scans: dict[str, tuple[Scan, bytes]] = field(default_factory=dict)
    before: dict[str, Scan | None] = field(default_factory=dict)
    events: list[tuple[Any, ...]] = field(default_factory=list)
    replies: list[RecordedReply] = field(default_factory=list)
    due: DueChanges = field(default_factory=DueChanges)
    needed: list[str] = field(default_factory=list)
    appended: Counter[str] = field(default_factory=Counter)
    written: dict[str, int] = field(default_factory=dict)

    def take_in(self, other: "PendingWrites") -> None:
        """Add what another gathered after us."""
        for scan_id, scan in other.before.items():
            self.before.setdefault(scan_id, scan)
        self.scans |= other.scans
        self.events += other.events
        self.replies += other.replies
        self.needed += other.needed
        self.due.take_in(other.due)

    async def write(self, connection: Connection) -> None:
        """Write everything, within the caller's transaction, and forget it. Raises BlobLost, what asyncpg raises."""
        if self.needed and (lost := [row["digest"] async for row in sql.missing_blobs(connection, digests=self.needed)]):
            raise BlobLost(f"blobs were lost in a crash of the database: {len(lost)}")
        self.appended.update(row[_EVENT_COLUMNS.index("types")] for row in self.events)
        if self.events or self.replies:
            manifests = ManifestRows(columns={name: [] for name in _MANIFEST_COLUMNS})
            for scan_id in sorted(self.before):
                manifests.add(*self.scans[scan_id])
                self.written[scan_id] = size_in_memory(manifests.columns["m_bodies"][-1], manifests.columns["m_rests"][-1])
            replies = [
                (each.command_id, each.fingerprint, each.reply.code, each.reply.reason, each.reply.body)
                for each in sorted(self.replies, key=lambda each: each.command_id)
            ]
            await sql.record_decision(
                connection,
                **dict(zip(_EVENT_COLUMNS, _columns(self.events, len(_EVENT_COLUMNS)), strict=True)),
                **manifests.columns,
                m_is_news=[self.before[scan_id] is None for scan_id in sorted(self.before)],
                **dict(zip(_REPLY_COLUMNS, _columns(replies, len(_REPLY_COLUMNS)), strict=True)),
            )
        side = ViewRowCollector()
        for scan_id in sorted(self.before):
            await write_side_views(side, connection, self.before[scan_id], self.scans[scan_id][0])
        await side.write(connection)
        await self.due.write(connection)
        for written in (self.before, self.events, self.replies, self.needed):
            written.clear()


class ViewRowCollector:
    """Stands in for the statements that write the side views, gathers their rows and writes those of a view in one statement."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Mapping[str, Any]]] = {}

    def __getattr__(self, statement: str) -> Any:
        async def gather(_: Any, **row: Any) -> None:
            self._rows.setdefault(statement, []).append(row)

        return gather

    async def write(self, connection: Connection) -> None:
        """One statement for each kind of row."""
        for statement, rows in self._rows.items():
            await getattr(sql, statement)(connection, **{name: [_element(row[name]) for row in rows] for name in rows[0]})


def _element(value: Any) -> Any:
    """A value as an element of an array; Postgres has no arrays of arrays of different lengths, so lists go as JSON."""
    return event_codec.encode(value).decode() if isinstance(value, list) else value


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Rows to columns, also for no rows at all."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
