"""Reading the log: one scan's history, and everything past a cursor in commit-safe order."""

from collections.abc import AsyncIterator
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Connection, Pool
from skydriver_common.log.pending_writes import sql
from skydriver_common.model import event_codec
from skydriver_common.model.events import Event
from skydriver_common.model.ids import ScanId


class LoggedEvent(NamedTuple):
    """One row of the log. data: canonical JSON bytes of the event, or what stays of them (``event_codec.compact_payload``).

    A tuple, since a reader of the whole log makes one per event: a frozen dataclass takes several times as long to make.
    """

    position: int
    event_id: UUID
    scan_id: ScanId
    version: int
    type: str
    schema_version: int
    recorded_at: datetime
    actor: str
    command_id: str
    correlation_id: str
    data: bytes

    @property
    def event(self) -> Event:
        """The parsed event. Raises UnknownEvent."""
        return event_codec.parse_event(self.type, self.schema_version, self.data)

    def as_json(self) -> bytes:
        """The event with its envelope, for the bus and for readers; ``data`` is passed on as it is stored.

        Of data that was compacted the digest remains: ``"data": null, "data_sha256": "…"``.
        """
        head = orjson.dumps(
            {
                "position": self.position, "event_id": str(self.event_id), "scan_id": self.scan_id, "version": self.version,
                "type": self.type, "schema_version": self.schema_version, "recorded_at": self.recorded_at.isoformat(),
                "actor": self.actor, "command_id": self.command_id, "correlation_id": self.correlation_id,
            }
        )  # fmt: skip
        if event_codec.is_compacted(self.data):
            return b'%b,"data":null,"data_sha256":"%b"}' % (head[:-1], event_codec.payload_digest(self.data).hex().encode())
        return b"".join((head[:-1], b',"data":', self.data, b"}"))


_columns = itemgetter(*LoggedEvent._fields)


def logged_event(row: Any) -> LoggedEvent:
    """A row of the log as a value."""
    return LoggedEvent._make(_columns(row))


async def past_cursor(
    connection: Pool | Connection, xid: str, position: int, *, most: int, most_bytes: int
) -> list[tuple[str, LoggedEvent]]:
    """Committed events after the cursor with their xids, in (xid, position) order. Raises TryLater.

    At most ``most``; they end with the one whose data reaches ``most_bytes``.
    """
    with database_faults():
        rows = [
            row async for row in sql.past_cursor(connection, xid=int(xid), position=position, most=most, most_bytes=most_bytes)
        ]
    return [(row["xid"], logged_event(row)) for row in rows]


class Page(NamedTuple):
    """Some events of a scan in order. more: whether there are others after them."""

    events: list[LoggedEvent]
    more: bool


async def page(connection: Pool | Connection, scan_id: ScanId, *, after: int, most: int, most_bytes: int) -> Page:
    """One scan's events after a version, at most ``most``, and no further one once there are ``most_bytes``. Raises TryLater."""
    with database_faults():
        rows = [
            row async for row in sql.history_page(connection, scan_id=scan_id, after=after, most=most, most_bytes=most_bytes)
        ]
    return Page([logged_event(row) for row in rows], bool(rows) and rows[-1]["more"])


async def history(
    connection: Pool | Connection, scan_id: ScanId, *, after: int = 0, most: int = 1000
) -> AsyncIterator[LoggedEvent]:
    """One scan's events after a version, oldest first, at most ``most``. Raises TryLater."""
    with database_faults():
        async for row in sql.history(connection, scan_id=scan_id, after=after, most=most):
            yield logged_event(row)
