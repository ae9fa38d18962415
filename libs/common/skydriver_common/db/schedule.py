"""Due work: timers and leases in Postgres, so that nothing that must happen later lives in a process's memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from skydriver_common.db.bell import DUE_CHANNEL, Bell
from skydriver_common.db.pool import Connection, Pool, load_statements
from skydriver_common.db.translate import database_faults
from skydriver_common.model import wire

_sql = load_statements("skydriver_common.db", "schedule.sql")

ANY_PRIORITY = -(2**31)
_WORK_COLUMNS = ("kinds", "scan_ids", "due_ats", "priorities", "created_ats", "notes")


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


@dataclass(slots=True)
class DueChanges:
    """Work put and dropped in the course of a transaction, written at its end in two statements for all."""

    _dropped: set[tuple[str, str]] = field(default_factory=set)
    _put: dict[tuple[str, str], tuple[datetime, int, datetime, str]] = field(default_factory=dict)

    def put(
        self, kind: str, scan_id: str, *, now: datetime, due_at: datetime | None = None, priority: int = 0,
        note: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Note down work, once per (kind, scan): what is there already stays as it is."""
        self._put.setdefault((kind, scan_id), (due_at or now, priority, now, wire.encode(note or {}).decode()))

    def drop(self, kind: str, scan_id: str) -> None:
        """The work is not wanted any more."""
        self._put.pop((kind, scan_id), None)
        self._dropped.add((kind, scan_id))

    def take_in(self, later: "DueChanges") -> None:
        """Add what was changed after this."""
        for key in later._dropped:
            self.drop(*key)
        for key, work in later._put.items():
            self._put.setdefault(key, work)

    @property
    def kinds(self) -> set[str]:
        """Kinds of work that were put: their loops have to be woken after the commit."""
        return {kind for kind, _ in self._put}

    async def write(self, connection: Connection) -> None:
        """Write the changes, within the caller's transaction, and forget them. Raises what asyncpg raises."""
        if self._dropped:
            kinds, scan_ids = zip(*sorted(self._dropped), strict=True)
            await _sql.drop_all(connection, kinds=list(kinds), scan_ids=list(scan_ids))
        if self._put:
            rows = sorted((*key, *work) for key, work in self._put.items())
            await _sql.put_all(connection, **dict(zip(_WORK_COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))
        self._dropped.clear()
        self._put.clear()


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

    def ring(self, kind: str) -> None:
        """Wake the loops that do this kind of work, in every process."""
        self._bell.ring(DUE_CHANNEL, kind)

    async def put(
        self,
        kind: str,
        scan_id: str,
        *,
        due_at: datetime | None = None,
        priority: int = 0,
        note: dict[str, Any] | None = None,
        hasten: bool = False,
        anew: bool = False,
        connection: Connection | None = None,
    ) -> None:
        """Note down work, once per (kind, scan). With ``hasten``, work that is there becomes due by then at the latest.

        With ``anew`` it has to be done after this, even if somebody is at it just now.

        connection: join the caller's transaction; then the caller rings the bell after its commit.
        """
        now = datetime.now(UTC)
        statement = _sql.put_anew if anew else _sql.hasten if hasten else _sql.put
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
