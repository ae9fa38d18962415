"""One transaction per decision: lock, load, append, fold, record the reply; commit or nothing.

Decisions that come while others are being written share the next transaction (``log/together.py``): one way to the disk for all.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from skydriver_common.clock import CLOCK
from skydriver_common.db.errors import database_faults
from skydriver_common.db.notifier import LOG_CHANNEL, Notifier
from skydriver_common.db.pool import Connection, Pool
from skydriver_common.db.schedule import DueChanges
from skydriver_common.log.group_commit import CommitSlot, DeadlinePassed, GroupCommit, OnAppended, OnEnded, PendingDecision
from skydriver_common.log.pending_writes import PendingWrites, RecordedReply, sql
from skydriver_common.model import event_codec
from skydriver_common.model.commands import Context
from skydriver_common.model.events import EVENT_OWNERS, Event
from skydriver_common.model.ids import ScanId, new_uuid7
from skydriver_common.model.rejections import Reply
from skydriver_common.model.scan import Scan, evolve

__all__ = ["DeadlinePassed", "EventNotOwned", "Transaction", "UnitOfWork", "chained", "microseconds", "sql"]


class EventNotOwned(Exception):
    """A service tried to append an event that another service owns: a bug."""


@dataclass(slots=True)
class Transaction:
    """What a use case sees: the loaded scans, and the means to change them."""

    context: Context
    writer: str
    recorded_reply: Reply | None
    now: datetime
    _turn: CommitSlot
    _gathered: PendingWrites = field(default_factory=PendingWrites)
    notifications: list[tuple[str, str]] = field(default_factory=list)

    @property
    def connection(self) -> Connection:
        """For statements of the use case's own, in this transaction. An error after that undoes the whole transaction."""
        self._turn.has_own_statements = True
        return self._turn.connection

    @property
    def due(self) -> DueChanges:
        """Work to be put and dropped with this decision; its loops are woken after the commit."""
        return self._gathered.due

    def needs_blob(self, digest: str) -> None:
        """Commit only if this blob is stored: one put without waiting for the disk may be lost when the database crashes."""
        self._gathered.needed.append(digest)

    def scan(self, scan_id: ScanId) -> Scan | None:
        """The scan as of now, this transaction's events included; None when unknown (or not loaded)."""
        found = self._found(scan_id)
        return found[0] if found else None

    def append(self, scan_id: ScanId, events: Sequence[Event], *, context: Context | None = None) -> Scan | None:
        """Append events to one scan and fold them. context: whose they are, when not the transaction's.

        Raises EventNotOwned, HistoryBroken.
        """
        scan, head_hash = self._found(scan_id) or (None, event_codec.GENESIS)
        if events:
            self._gathered.before.setdefault(scan_id, scan)
        for event in events:
            if event.type not in EVENT_OWNERS[self.writer]:
                raise EventNotOwned(f"{self.writer} may not append {event.type}")
            scan = evolve(scan, event, scan_id=scan_id, recorded_at=self.now.timestamp())
            row = chained(
                event, scan_id=scan_id, version=scan.version, prev_hash=head_hash, now=self.now, context=context or self.context
            )
            head_hash = row[-1]
            self._gathered.events.append(row)
        if scan is not None and events:
            self._gathered.scans[scan_id] = (scan, head_hash)
        return scan

    def record(self, reply: Reply) -> None:
        """Keep the answer under the command's id, refusals too: a redelivery gets the same."""
        self._gathered.replies.append(RecordedReply(self.context.command_id, self.context.fingerprint, reply))

    async def flush(self) -> None:
        """Write what was decided so far, before the end; the unit of work does this by itself at the end."""
        self._turn.has_own_statements = True
        if self._gathered.events:
            self.notifications.append((LOG_CHANNEL, ""))
        self._turn.so_far.take_in(self._gathered)
        self._gathered = PendingWrites()
        await self._turn.so_far.write(self._turn.connection)

    def _found(self, scan_id: ScanId) -> tuple[Scan, bytes] | None:
        return self._gathered.scans.get(scan_id) or self._turn.so_far.scans.get(scan_id)


class UnitOfWork:
    """Makes transactions for one service. The writer's name decides which events it may append."""

    def __init__(
        self, pool: Pool, notifier: Notifier, *, writer: str, on_appended: OnAppended = lambda *_: None,
        on_ended: OnEnded = lambda *_: None,
    ) -> None:  # fmt: skip
        self._group_commit = GroupCommit(pool, notifier, on_appended, on_ended)
        self._writer = writer

    @asynccontextmanager
    async def on_scans(self, context: Context, scan_ids: Sequence[ScanId]) -> AsyncIterator[Transaction]:
        """BEGIN, lock and load these scans (in order of id); COMMIT on leaving, nothing at all on an error.

        Others may share the transaction: their decisions are made one after the other, each sees those before it, and one that
        fails leaves nothing. So what is awaited inside must be short, and nothing but this transaction's own statements.

        When the reply of this command is recorded already, ``recorded_reply`` is set: the use case returns it and changes
        nothing. Raises TryLater (database, in statements of the use case's own too; decided together with one that failed),
        DeadlinePassed.
        """
        member = PendingDecision(context, tuple(scan_ids))
        turn = await self._group_commit.join(member)
        transaction = Transaction(
            context=context,
            writer=self._writer,
            recorded_reply=turn.recorded_reply(context),
            now=CLOCK.now(),
            _turn=turn,
        )
        with database_faults():
            try:
                yield transaction
            except BaseException as error:
                turn.failed(error)
                raise
        turn.decided(transaction._gathered, transaction.notifications)
        await member.settled


def chained(
    event: Event, *, scan_id: ScanId, version: int, prev_hash: bytes, now: datetime, context: Context
) -> tuple[Any, ...]:
    """The event's row of the log, in the order of its columns, tied to the one before it; the hash comes last."""
    event_id, data = new_uuid7(now.timestamp()), event_codec.encode_event(event)
    digest = event_codec.chain_hash(
        prev_hash=prev_hash, event_id=str(event_id), scan_id=scan_id, version=version, type_=event.type,
        schema_version=event.schema_version, recorded_at_us=microseconds(now), actor=context.actor,
        command_id=context.command_id, correlation_id=context.correlation_id, data_digest=sha256(data).digest(),
    )  # fmt: skip
    return (event_id, scan_id, version, event.type, event.schema_version, now, context.actor, context.command_id,
            context.correlation_id, data, prev_hash, digest)  # fmt: skip


def microseconds(moment: datetime) -> int:
    """Unix microseconds of a moment, exact."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
