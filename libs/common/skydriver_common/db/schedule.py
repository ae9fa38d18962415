"""Due work: timers and leases in Postgres, so that nothing that must happen later lives in a process's memory.

There is one row per (kind, scan). The verbs, and what each does to a row that is free, claimed or expired, stand in
``docs/developers/due-work.md``. Two rules hold over all replicas, whatever their clocks show:

* ``put`` means: this has to be done by somebody who begins after now. A row that is claimed just now is due again after its claim.
* Each claim has a token. ``finish`` and ``postpone`` have an effect only as long as the row is claimed under that token, so a holder
  whose lease has ended changes nothing that is another's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from skydriver_common.db.errors import database_faults
from skydriver_common.db.jsonb import jsonb_text
from skydriver_common.db.notifier import DUE_CHANNEL, Notifier
from skydriver_common.db.pool import Connection, Pool, load_statements
from skydriver_common.model import event_codec
from skydriver_common.model.ids import ScanId
from skydriver_common.model.priorities import rank

_sql = load_statements("skydriver_common.db", "schedule.sql")

ANY_PRIORITY = -(2**31)
NOW = timedelta(0)
MAX_IDLE = timedelta(seconds=60)
"""Every loop looks at the database at least so often. Nobody is notified of work that is due only then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueWork:
    """One claimed piece of due work.

    claim: token to be shown when it is finished or postponed. age_s: seconds since it was put first. tries counts this claim.
    note: what the last try, or who put it, left for the next.
    """

    kind: str
    scan_id: ScanId
    claim: str
    priority: int
    age_s: float
    tries: int
    note: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Put:
    after_s: float
    waited_s: float
    priority: int
    note: dict[str, Any]

    def and_then(self, later: "_Put") -> "_Put":
        """One put instead of two."""
        return _Put(
            min(self.after_s, later.after_s), max(self.waited_s, later.waited_s), max(self.priority, later.priority),
            later.note or self.note,
        )  # fmt: skip


@dataclass(slots=True)
class DueChanges:
    """Work put, finished and dropped in the course of a transaction, written at its end in a few statements for all."""

    _dropped: set[tuple[str, ScanId]] = field(default_factory=set)
    _finished: set[tuple[str, ScanId, str]] = field(default_factory=set)
    _put: dict[tuple[str, ScanId], _Put] = field(default_factory=dict)

    def put(
        self, kind: str, scan_id: ScanId, *, after: timedelta = NOW, waited: timedelta = NOW, priority: int = 0,
        note: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Note down work; see `Schedule.put`. waited: how long it has waited already."""
        self._add((kind, scan_id), _Put(after.total_seconds(), waited.total_seconds(), priority, note or {}))

    def finish(self, work: DueWork) -> None:
        """The work is done; see `Schedule.finish`."""
        self._finished.add((work.kind, work.scan_id, work.claim))

    def drop(self, kind: str, scan_id: ScanId) -> None:
        """The work is not wanted any more."""
        self._put.pop((kind, scan_id), None)
        self._dropped.add((kind, scan_id))

    def take_in(self, later: "DueChanges") -> None:
        """Add what was changed after this."""
        for key in later._dropped:
            self.drop(*key)
        self._finished |= later._finished
        for key, put in later._put.items():
            self._add(key, put)

    @property
    def kinds(self) -> set[str]:
        """Kinds of work that was put and is due before their loops look by themselves: these have to be woken after the commit."""
        return {kind for (kind, _), put in self._put.items() if put.after_s < MAX_IDLE.total_seconds()}

    async def write(self, connection: Connection) -> None:
        """Write the changes, within the caller's transaction, and forget them. Raises what asyncpg raises."""
        if self._dropped:
            kinds, scan_ids = zip(*sorted(self._dropped), strict=True)
            await _sql.drop_all(connection, kinds=list(kinds), scan_ids=list(scan_ids))
        await _finish(connection, self._finished)
        if self._put:
            await _put_all(connection, self._put)
        self._dropped.clear()
        self._finished.clear()
        self._put.clear()

    def _add(self, key: tuple[str, ScanId], put: _Put) -> None:
        before = self._put.get(key)
        self._put[key] = put if before is None else before.and_then(put)


class Schedule:
    """Put, claim, finish, postpone. ``holder`` names this replica; an expired lease is anyone's."""

    def __init__(self, pool: Pool, notifier: Notifier, *, holder: str, lease: timedelta = timedelta(seconds=60)) -> None:
        self._pool = pool
        self._notifier = notifier
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

    def notify(self, kind: str) -> None:
        """Wake the loops that do this kind of work, in every process."""
        self._notifier.notify(DUE_CHANNEL, kind)

    async def put(
        self, kind: str, scan_id: ScanId, *, after: timedelta = NOW, priority: int = 0, note: dict[str, Any] | None = None
    ) -> None:
        """Note down work: it has to be done by somebody who begins after now, when ``after`` is over at the latest.

        There is one row per (kind, scan). Work that waits already is due at the earlier of both times, so it may be begun before
        ``after`` is over: whoever does it says when it is too early. Work that is claimed just now stays claimed, and is due again
        after its claim. The higher priority counts, and the newer note, unless it is empty. Raises TryLater.

        Within a decision use ``tx.due``, which writes with the decision and notifies after it.
        """
        put = _Put(after.total_seconds(), 0.0, priority, note or {})
        with database_faults():
            await _put_all(self._pool, {(kind, scan_id): put})
        if after < MAX_IDLE:
            self.notify(kind)

    async def claim(self, kind: str, *, min_priority: int = ANY_PRIORITY) -> DueWork | None:
        """Lease the most urgent due work of this kind (priority, then due time), or None. Raises TryLater."""
        with database_faults():
            row = await _sql.claim(
                self._pool, kind=kind, holder=self._holder, lease_s=self._lease.total_seconds(), min_priority=min_priority
            )
        return None if row is None else DueWork(kind=kind, **{**row, "note": event_codec.decode(row["note"])})

    async def finish(self, work: DueWork) -> None:
        """The work is done. What was put again since the claim stays, and is due as put. Raises TryLater."""
        with database_faults():
            await _finish(self._pool, {(work.kind, work.scan_id, work.claim)})

    async def drop(self, kind: str, scan_id: ScanId) -> None:
        """The work is not wanted any more, whoever has claimed it. Raises TryLater."""
        with database_faults():
            await _sql.drop_all(self._pool, kinds=[kind], scan_ids=[scan_id])

    async def postpone(self, work: DueWork, after: timedelta, *, note: dict[str, Any] | None = None) -> None:
        """Give the lease back; the work is due again after this time, or as put since the claim, if that is earlier.

        note: None leaves the one that is there. Raises TryLater.
        """
        with database_faults():
            await _sql.postpone(
                self._pool, kind=work.kind, scan_id=work.scan_id, claim=work.claim, after_s=after.total_seconds(),
                note=jsonb_text(work.note if note is None else note),
            )  # fmt: skip

    async def release_all(self) -> None:
        """Give back every lease of this replica: another may go on at once. Raises TryLater."""
        with database_faults():
            await _sql.release_all(self._pool, holder=self._holder)

    async def seconds_to_next(self, kinds: Sequence[str]) -> float | None:
        """Seconds until the earliest work of these kinds can be claimed (0 or more), None when there is none. Raises TryLater."""
        with database_faults():
            seconds: float | None = await _sql.seconds_to_next(self._pool, kinds=list(kinds))
        return None if seconds is None else max(0.0, seconds)


async def _put_all(connection: Pool | Connection, work: dict[tuple[str, ScanId], _Put]) -> None:
    rows = sorted(
        (kind, scan_id, put.after_s, put.waited_s, rank(put.priority), jsonb_text(put.note))
        for (kind, scan_id), put in work.items()
    )
    columns = map(list, zip(*rows, strict=True))
    await _sql.put_all(connection, **dict(zip(_PUT_COLUMNS, columns, strict=True)))


async def _finish(connection: Pool | Connection, finished: set[tuple[str, ScanId, str]]) -> None:
    """A claim that was put again in between the two statements is freed by the second."""
    if not finished:
        return
    kinds, scan_ids, claims = (list(column) for column in zip(*sorted(finished), strict=True))
    done = await _sql.finish_all(connection, kinds=kinds, scan_ids=scan_ids, claims=claims)
    if done != f"DELETE {len(finished)}":
        await _sql.free_all(connection, kinds=kinds, scan_ids=scan_ids, claims=claims)


_PUT_COLUMNS = ("kinds", "scan_ids", "afters", "waiteds", "priorities", "notes")
