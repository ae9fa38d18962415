"""How much the log holds, what it weighs, and how far behind its readers are."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Connection, Pool
from skydriver_ops.eventlog.selection import sql

_POSITIONS_PER_BATCH = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Rows as dictionaries: counts (day, type, events, bytes), relays (relay, position, moved_at, events_behind, lag_s), due
    work (kind, pieces, overdue, oldest_s). sizes: table to bytes on disk."""

    counts: list[dict[str, Any]]
    sizes: dict[str, int]
    relays: list[dict[str, Any]]
    due_work: list[dict[str, Any]]

    @property
    def events(self) -> int:
        """How many events the log holds."""
        return sum(int(row["events"]) for row in self.counts)


async def statistics(connection: Pool | Connection) -> Statistics:
    """Numbers as of now. Raises TryLater."""
    with database_faults():
        return Statistics(
            relays=[_plain(row) async for row in sql.relay_lag(connection)],
            due_work=[_plain(row) async for row in sql.due_work_by_kind(connection)],
            sizes={row["name"]: row["bytes"] async for row in sql.sizes(connection)},
            counts=await _counts(connection),
        )


async def _counts(connection: Pool | Connection) -> list[dict[str, Any]]:
    """Part of the log after part: no statement takes long, whatever the log's length."""
    events, sizes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    last: int = await sql.last_position(connection)
    for after in range(0, last, _POSITIONS_PER_BATCH):
        async for row in sql.counts_by_type_and_day(connection, after=after, up_to=after + _POSITIONS_PER_BATCH):
            events[row["day"], row["type"]] += row["events"]
            sizes[row["day"], row["type"]] += int(row["bytes"])
    return [
        {"day": day, "type": type_, "events": events[day, type_], "bytes": sizes[day, type_]} for day, type_ in sorted(events)
    ]


def _plain(row: Any) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else _number(value) for name, value in row.items()}


def _number(value: Any) -> Any:
    """Postgres sums integers as numeric."""
    return int(value) if type(value).__name__ == "Decimal" else value
