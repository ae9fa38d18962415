"""Choosing events: by scan, type, time and place, in commit-safe order, a page in memory at a time."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Connection, Pool, fetch, load_statements
from skydriver_common.log.read import LoggedEvent
from skydriver_common.model.ids import ScanId

sql = load_statements("skydriver_ops.eventlog", "selection.sql")

PAGE = 1000
"""Events in memory at a time; with the largest requests a page is some MB."""


class Cursor(NamedTuple):
    """A place in the log: after the event with this transaction id and position. ``START`` is before the first."""

    xid: str
    position: int


START = Cursor("0", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which events. None: any. since: inclusive, until: exclusive, both by recorded_at."""

    scan_id: ScanId | None = None
    types: tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None

    def parameters(self) -> dict[str, Any]:
        """As the statements take them."""
        return {
            "scan_id": self.scan_id,
            "types": None if self.types is None else list(self.types),
            "since": self.since,
            "until": self.until,
        }


EVERYTHING = Selection()


class ChainedEvent(NamedTuple):
    """An event with the id of its transaction, which orders commits, and its place in its scan's hash chain."""

    event: LoggedEvent
    xid: str
    prev_hash: bytes
    hash: bytes

    @property
    def cursor(self) -> Cursor:
        """The place just after this event."""
        return Cursor(self.xid, self.event.position)


_EVENT = slice(1, 1 + len(LoggedEvent._fields))


def chained_event_of_row(row: Any) -> ChainedEvent:
    """A row of the log with its chain as a value. By position, not by name: whole logs pass here."""
    return ChainedEvent(LoggedEvent._make(row[_EVENT]), row[0], row[-2], row[-1])


async def iter_pages(
    connection: Pool | Connection, selection: Selection = EVERYTHING, *, after: Cursor = START, page: int = PAGE
) -> AsyncIterator[list[ChainedEvent]]:
    """Selected events after a cursor, oldest first, up to what is committed for good; never empty pages. Raises TryLater."""
    statement = "select_past" if selection.scan_id is None else "select_past_of_scan"
    while True:
        with database_faults():
            rows = await fetch(
                sql, statement, connection, xid=after.xid, position=after.position, most=page, **selection.parameters()
            )
        if rows:
            yield [chained_event_of_row(row) for row in rows]
            after = Cursor(rows[-1]["xid"], rows[-1]["position"])
        if len(rows) < page:
            return


async def load_newest(connection: Pool | Connection, selection: Selection, *, up_to: Cursor, most: int) -> list[ChainedEvent]:
    """The ``most`` newest selected events up to a cursor, oldest first. Raises TryLater."""
    parameters = selection.parameters()
    with database_faults():
        rows = [
            row
            async for row in sql.select_newest(
                connection, xid=up_to.xid, position=up_to.position, most=most, **parameters
            )
        ]  # fmt: skip
    return [chained_event_of_row(row) for row in reversed(rows)]


async def load_head(connection: Pool | Connection) -> Cursor:
    """The cursor of the newest event that is committed for good; START for an empty log. Raises TryLater."""
    with database_faults():
        row = await sql.committed_head(connection)
    return START if row is None else Cursor(row["xid"], row["position"])


async def cursor_before(connection: Pool | Connection, position: int) -> Cursor:
    """The cursor from which reading begins with this position; the head when the log ends before it. Raises TryLater."""
    with database_faults():
        row = await sql.cursor_before(connection, position=position)
    return await load_head(connection) if row is None else Cursor(row["xid"], row["position"])


async def load_event(connection: Pool | Connection, position: int) -> ChainedEvent | None:
    """The event at a position, or None. Raises TryLater."""
    with database_faults():
        row = await sql.event_at(connection, position=position)
    return None if row is None else chained_event_of_row(row)
