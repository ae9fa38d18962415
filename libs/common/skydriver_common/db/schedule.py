"""Due work: timers and leases in Postgres, so that nothing that must happen later lives in a process's memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from skydriver_common.db.bell import DUE_CHANNEL, Bell
from skydriver_common.db.pool import Connection, Pool, load_statements
from skydriver_common.db.translate import database_faults
from skydriver_common.model import wire

_sql = load_statements("skydriver_common.db", "schedule.sql")

ANY_PRIORITY = -(2**31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One leased piece of due work. tries counts this one. note: what the last try left for the next."""

    kind: str
    scan_id: str
    priority: int
    created_at: datetime
    due_at: datetime
    tries: int
    note: dict[str, Any]


class Schedule:
    """Put, claim, finish, postpone. ``holder`` names this replica; an expired lease is anyone's."""

    def __init__(self, pool: Pool, bell: Bell, *, holder: str, lease: timedelta = timedelta(seconds=60)) -> None:
        self._pool = pool
        self._bell = bell
        self._holder = holder
        self._lease = lease

    @property
    def holder(self) -> str:
        """Who holds this replica's leases."""
        return self._holder

    @property
    def lease(self) -> timedelta:
        """How long a dead replica can hold work back."""
        return self._lease

    async def put(
        self,
        kind: str,
        scan_id: str,
        *,
        due_at: datetime | None = None,
        priority: int = 0,
        note: dict[str, Any] | None = None,
        hasten: bool = False,
        connection: Connection | None = None,
    ) -> None:
        """Note down work, once per (kind, scan). With ``hasten``, work that is there becomes due by then at the latest.

        connection: join the caller's transaction; then the caller rings the bell after its commit.
        """
        now = datetime.now(UTC)
        statement = _sql.hasten if hasten else _sql.put
        values = {
            "kind": kind, "scan_id": scan_id, "due_at": due_at or now, "priority": priority, "created_at": now,
            "note": wire.encode(note or {}).decode(),
        }  # fmt: skip
        if connection is not None:
            await statement(connection, **values)
            return
        with database_faults():
            await statement(self._pool, **values)
        self._bell.ring(DUE_CHANNEL, kind)

    async def claim(self, kind: str, *, min_priority: int = ANY_PRIORITY) -> Work | None:
        """Lease the most urgent due work of this kind (priority, then age), or None. Raises TryLater."""
        with database_faults():
            row = await _sql.claim(
                self._pool,
                kind=kind,
                now=datetime.now(UTC),
                lease_s=self._lease.total_seconds(),
                holder=self._holder,
                min_priority=min_priority,
            )
        if row is None:
            return None
        return Work(
            kind=kind, scan_id=row["scan_id"], priority=row["priority"], created_at=row["created_at"],
            due_at=row["due_at"], tries=row["tries"], note=wire.decode(row["note"]),
        )  # fmt: skip

    async def finish(self, work: Work, *, connection: Connection | None = None) -> None:
        """The work is done. Raises TryLater."""
        with database_faults():
            await _sql.finish(connection or self._pool, kind=work.kind, scan_id=work.scan_id, holder=self._holder)

    async def drop(self, kind: str, scan_id: str, *, connection: Connection | None = None) -> None:
        """The work is not wanted any more. Raises TryLater."""
        with database_faults():
            await _sql.drop(connection or self._pool, kind=kind, scan_id=scan_id)

    async def postpone(self, work: Work, after: timedelta, *, note: dict[str, Any] | None = None) -> None:
        """Give the lease back; the work is due again after this time. Raises TryLater."""
        with database_faults():
            await _sql.postpone(
                self._pool, kind=work.kind, scan_id=work.scan_id, holder=self._holder, due_at=datetime.now(UTC) + after,
                note=wire.encode(work.note if note is None else note).decode(),
            )  # fmt: skip

    async def release_all(self) -> None:
        """Give back every lease of this replica: another may go on at once. Raises TryLater."""
        with database_faults():
            await _sql.release_all(self._pool, holder=self._holder)

    async def seconds_to_next(self, kinds: Sequence[str]) -> float | None:
        """Seconds until the earliest work of these kinds can be claimed (0 or more), None when there is none."""
        now = datetime.now(UTC)
        with database_faults():
            due = await _sql.next_due(self._pool, kinds=list(kinds))
        return None if due is None else max(0.0, (due - now).total_seconds())
