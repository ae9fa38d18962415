"""One transaction per decision: lock, load, append, fold, record the reply; commit or nothing."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import asyncpg

from skydriver_common.db.bell import LOG_CHANNEL, Bell
from skydriver_common.db.pool import Connection, Pool, load_statements
from skydriver_common.db.translate import database_faults
from skydriver_common.faults import TryLater
from skydriver_common.log.views import ManifestRows, scan_of_row, write_side_views
from skydriver_common.model import wire
from skydriver_common.model.commands import Context
from skydriver_common.model.events import WRITERS, Event
from skydriver_common.model.ids import new_uuid7
from skydriver_common.model.rejections import Code, Rejection, Reply
from skydriver_common.model.scan import Scan, evolve

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


class AlreadyHandled(Exception):
    """The event was handled before: nothing is left to do."""


class DeadlinePassed(Exception):
    """The one who asked has stopped waiting: the decision must not take effect any more."""


class ForeignEvent(Exception):
    """A service tried to append an event that another service owns: a bug."""


@dataclass(slots=True)
class Transaction:
    """What a use case sees: the loaded scans, and the means to change them."""

    connection: Connection
    context: Context
    writer: str
    recorded_reply: Reply | None
    now: datetime
    _scans: dict[str, tuple[Scan, bytes]]
    _before: dict[str, Scan | None] = field(default_factory=dict)
    _events: list[tuple[Any, ...]] = field(default_factory=list)
    _replies: list[tuple[Any, ...]] = field(default_factory=list)
    rings: list[tuple[str, str]] = field(default_factory=list)

    def scan(self, scan_id: str) -> Scan | None:
        """The scan as of now, this transaction's events included; None when unknown (or not loaded)."""
        found = self._scans.get(scan_id)
        return found[0] if found else None

    def append(self, scan_id: str, events: Sequence[Event]) -> Scan | None:
        """Append events to one scan and fold them. Raises ForeignEvent, HistoryBroken."""
        scan, head_hash = self._scans.get(scan_id, (None, wire.GENESIS))
        if events:
            self._before.setdefault(scan_id, scan)
        for event in events:
            if event.type not in WRITERS[self.writer]:
                raise ForeignEvent(f"{self.writer} may not append {event.type}")
            scan = evolve(scan, event, scan_id=scan_id, recorded_at=self.now.timestamp())
            row = chained(event, scan_id=scan_id, version=scan.version, prev_hash=head_hash, now=self.now, context=self.context)
            head_hash = row[-1]
            self._events.append(row)
        if scan is not None:
            self._scans[scan_id] = (scan, head_hash)
        return scan

    def record(self, reply: Reply) -> None:
        """Keep the answer under the command's id, refusals too: a redelivery gets the same."""
        self._replies.append((self.context.command_id, self.context.fingerprint, reply.code, reply.reason, reply.body))

    async def flush(self) -> None:
        """Write everything; the unit of work calls this before the commit."""
        if not self._events and not self._replies:
            return
        rows = ManifestRows(columns={name: [] for name in _MANIFEST_COLUMNS})
        for scan_id in self._before:
            rows.add(*self._scans[scan_id])
        await sql.record_decision(
            self.connection,
            **dict(zip(_EVENT_COLUMNS, _columns(self._events, len(_EVENT_COLUMNS)), strict=True)),
            **rows.columns,
            **dict(zip(_REPLY_COLUMNS, _columns(self._replies, len(_REPLY_COLUMNS)), strict=True)),
        )
        for scan_id, before in self._before.items():
            await write_side_views(sql, self.connection, before, self._scans[scan_id][0])

    @property
    def has_events(self) -> bool:
        """Whether anything was appended."""
        return bool(self._events)


class UnitOfWork:
    """Makes transactions for one service. The writer's name decides which events it may append."""

    def __init__(self, pool: Pool, bell: Bell, *, writer: str) -> None:
        self._pool = pool
        self._bell = bell
        self._writer = writer

    @asynccontextmanager
    async def on_scans(
        self, context: Context, scan_ids: Sequence[str], *, consumes: tuple[str, UUID] | None = None
    ) -> AsyncIterator[Transaction]:
        """BEGIN, lock and load these scans (in order of id); COMMIT on leaving, nothing at all on an error.

        consumes: (consumer, event id), noted in the same transaction. When the reply of this command is recorded already,
        ``recorded_reply`` is set: the use case returns it and changes nothing.
        Raises TryLater (database), DeadlinePassed, AlreadyHandled.
        """
        with database_faults():
            async with self._pool.acquire() as connection:
                try:
                    async with connection.transaction():
                        rows = await _load(connection, context.command_id, scan_ids)
                        transaction = Transaction(
                            connection=connection,
                            context=context,
                            writer=self._writer,
                            recorded_reply=_recorded(rows[0], context),
                            now=datetime.now(UTC),
                            _scans={
                                row["scan_id"]: (scan_of_row(row), row["head_hash"])
                                for row in rows
                                if row["scan_id"] is not None
                            },
                        )
                        if consumes is not None:
                            await sql.consume_event(connection, consumer=consumes[0], event_id=consumes[1])
                        yield transaction
                        await transaction.flush()
                        if context.deadline is not None and time.time() > context.deadline:
                            raise DeadlinePassed
                except asyncpg.UniqueViolationError as error:
                    raise _meaning(error) from error
        if transaction.has_events:
            self._bell.ring(LOG_CHANNEL)
        for channel, payload in transaction.rings:
            self._bell.ring(channel, payload)


def chained(event: Event, *, scan_id: str, version: int, prev_hash: bytes, now: datetime, context: Context) -> tuple[Any, ...]:
    """The event's row of the log, in the order of its columns, tied to the one before it; the hash comes last."""
    event_id, data = new_uuid7(now.timestamp()), wire.encode_event(event)
    digest = wire.chain_hash(
        prev_hash=prev_hash, event_id=str(event_id), scan_id=scan_id, version=version, type_=event.type,
        schema_version=event.schema_version, recorded_at_us=microseconds(now), actor=context.actor,
        command_id=context.command_id, correlation_id=context.correlation_id, data_digest=sha256(data).digest(),
    )  # fmt: skip
    return (event_id, scan_id, version, event.type, event.schema_version, now, context.actor, context.command_id,
            context.correlation_id, data, prev_hash, digest)  # fmt: skip


async def _load(connection: Connection, command_id: str, scan_ids: Sequence[str]) -> list[Any]:
    return [row async for row in sql.load(connection, command_id=command_id, scan_ids=list(scan_ids))]


def _recorded(row: Any, context: Context) -> Reply | None:
    if row["command_id"] is None:
        return None
    if row["fingerprint"] != context.fingerprint:
        return Reply.refused(
            Rejection(Code.KEY_WAS_USED, "This Idempotency-Key was used before, for a request with another content")
        )
    return Reply(body=row["reply_body"], code=row["code"] and Code(row["code"]), reason=row["reason"])


def _meaning(error: asyncpg.UniqueViolationError) -> Exception:
    """What a duplicate key means: a twin of this command or event got there first."""
    if error.constraint_name == "consumed_events_pkey":
        return AlreadyHandled()
    if error.constraint_name in ("command_replies_pkey", "event_log_scan_version_key", "manifests_pkey"):
        return TryLater("the same command is being handled elsewhere", 0.02)
    return error


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Rows to columns, also for no rows at all."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def microseconds(moment: datetime) -> int:
    """Unix microseconds of a moment, exact."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
