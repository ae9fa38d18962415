"""Decisions that share a transaction: what comes while others are being written goes into the next one.

One load, one write and one way to the disk for up to ``_MOST`` decisions. They are made one after the other on the states that
those before them left, as if each had its own transaction. A decision that fails is left out. If the transaction itself fails,
all of it fails, and its decisions are told to try again, each on its own for a while: so the one that is to blame shows itself.
Where it is known which one failed, or that one was late, the others try again together. docs/developers/group-commit.md has diagrams.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg

from skydriver_common.clock import CLOCK
from skydriver_common.db.errors import database_faults
from skydriver_common.db.notifier import DUE_CHANNEL, LOG_CHANNEL, Notifier
from skydriver_common.db.on_demand_workers import OnDemandWorkers
from skydriver_common.db.pool import Connection, Pool
from skydriver_common.faults import TryLater
from skydriver_common.log.pending_writes import BlobLost, PendingWrites, RecordedReply, sql
from skydriver_common.log.scan_state_cache import PROCESS_STATES, ScanStateCache, size_in_memory
from skydriver_common.log.state_at import state_at
from skydriver_common.log.stored_state import WrittenByNewer, is_older
from skydriver_common.model.commands import REPLY_GRACE_S, Context
from skydriver_common.model.event_codec import UnknownEvent
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Code, Rejection, Reply, code_of
from skydriver_common.model.scan import HistoryBroken, Scan

MAX_BATCH = 32
MAX_CONCURRENT = 2
"""Transactions under way: while one is on its way to the disk, the next is decided."""
ISOLATION_S = 1.0
DUPLICATE_KEYS = ("command_replies_pkey", "event_log_scan_version_key", "manifests_pkey")
_DECISION_TIMEOUT_S = 20.0
_LEAST_LEFT_S = 0.25
"""A decision with less time left is not begun: it would be late before it is written, and take the others' transaction with it."""
_COMMITTED_WITHIN_S = REPLY_GRACE_S / 2
"""So long after the deadline a decision may still be committed: whoever asked waits a little longer, and is told."""


OnAppended = Callable[[str, int], None]
"""Called with (event type, number) once they are committed, for metrics."""


OnEnded = Callable[[str, float], None]
"""Called with (outcome, seconds since the request) of a scan whose end was committed, for metrics."""


class DeadlinePassed(Exception):
    """The one who asked has stopped waiting: the decision must not take effect any more."""


@dataclass(slots=True, eq=False)
class PendingDecision:
    """One decision to be made. settled: done once it is committed, or with the error for which it is not."""

    context: Context
    scan_ids: tuple[ScanId, ...]
    turn: "asyncio.Future[CommitSlot]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    settled: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True)
class CommitSlot:
    """A member's time to decide. so_far: what was loaded and what those before it decided."""

    connection: Connection
    so_far: PendingWrites
    recorded: dict[str, RecordedReply]
    has_own_statements: bool = False
    decision: PendingWrites = field(default_factory=PendingWrites)
    notifications: list[tuple[str, str]] = field(default_factory=list)
    over: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def recorded_reply(self, context: Context) -> Reply | None:
        """The reply this command was given before."""
        recorded = self.recorded.get(context.command_id)
        return None if recorded is None else _reply_to(context.fingerprint, recorded)

    def decided(self, decision: PendingWrites, notifications: list[tuple[str, str]]) -> None:
        """The decision is made."""
        self.decision, self.notifications = decision, notifications
        if not self.over.done():
            self.over.set_result(None)

    def failed(self, error: BaseException) -> None:
        """There will be no decision."""
        if not self.over.done():
            self.over.set_exception(_Failed(repr(error)))


class GroupCommit:
    """Lets members decide, as many in one transaction as there are."""

    def __init__(self, pool: Pool, notifier: Notifier, on_appended: OnAppended, on_ended: OnEnded = lambda *_: None) -> None:
        self._pool = pool
        self._notifier = notifier
        self._on_appended = on_appended
        self._on_ended = on_ended
        self._waiting: deque[PendingDecision] = deque()
        self._drain = OnDemandWorkers(self._take, at_once=MAX_CONCURRENT)
        self._alone_until = 0.0
        self._states = PROCESS_STATES

    async def join(self, member: PendingDecision) -> CommitSlot:
        """Wait for the member's turn. Raises TryLater."""
        self._waiting.append(member)
        self._drain.wake()
        try:
            return await member.turn
        except asyncio.CancelledError:
            if member.turn.done() and not member.turn.cancelled() and member.turn.exception() is None:
                member.turn.result().failed(asyncio.CancelledError())
            raise

    async def _take(self) -> bool:
        if not self._waiting:
            return False
        most = 1 if time.monotonic() < self._alone_until else MAX_BATCH
        members = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        for member in members:
            if _is_short_of_time(member):
                _settle(member, DeadlinePassed())
        members = [member for member in members if not member.turn.done()]
        if members:
            await self._decide(members)
        return True

    async def _decide(self, members: Sequence[PendingDecision]) -> None:
        decided: list[tuple[PendingDecision, CommitSlot]] = []
        try:
            with database_faults():
                async with self._pool.acquire() as connection:
                    async with connection.transaction():
                        written, ended = await self._take_turns(connection, members, decided)
                        if any(_is_late(member) for member, _ in decided):
                            raise DeadlinePassed  # nothing can be taken out of what is written
                    # not after the connection is given back: nobody needs to wait for that
                    self._notify([turn for _, turn in decided])
                    for event_type, number in written.items():
                        self._on_appended(event_type, number)
                    for outcome, seconds in ended:
                        self._on_ended(outcome, seconds)
                    for member in members:
                        _settle(member, None)
        except BaseException as error:
            if len(members) > 1 and not isinstance(error, TryLater):
                if not isinstance(error, DeadlinePassed | _Failed):  # it is not known which one is to blame
                    self._alone_until = time.monotonic() + ISOLATION_S
                self._waiting.extendleft(member for member in reversed(members) if not member.turn.done())
            for member in members:
                if member not in self._waiting:
                    _settle(member, _fault_for(error, member, is_alone=len(members) == 1))
            if not isinstance(error, Exception):
                raise

    async def _take_turns(
        self, connection: Connection, members: Sequence[PendingDecision], decided: list[tuple[PendingDecision, CommitSlot]]
    ) -> tuple[Mapping[str, int], list[tuple[str, float]]]:
        """Let each member decide, then write it all; how many events of each type, and which scans have ended.

        Raises what the database raises, _Failed.
        """
        so_far, recorded, unreadable = await _load(connection, members, self._states)
        for member in members:
            if _is_short_of_time(member):
                _settle(member, DeadlinePassed())
            if member.turn.done():
                continue
            if faults := [unreadable[key] for key in (member.context.command_id, *member.scan_ids) if key in unreadable]:
                _settle(member, faults[0])
                continue
            turn = CommitSlot(connection, so_far, recorded)
            member.turn.set_result(turn)
            try:
                await _within_the_limit(turn)
            except _Failed:
                if turn.has_own_statements:
                    raise
                continue
            if _is_late(member):
                if turn.has_own_statements:
                    raise DeadlinePassed
                _settle(member, DeadlinePassed())
                continue
            decided.append((member, turn))
            so_far.take_in(turn.decision)
            recorded.update((reply.command_id, reply) for reply in turn.decision.replies)
        before = dict(so_far.before)
        await so_far.write(connection)
        for scan_id, size in so_far.written.items():
            scan, head_hash = so_far.scans[scan_id]
            self._states.keep(head_hash, scan, size)
        return so_far.appended, _ended(before, so_far)

    def _notify(self, turns: Sequence[CommitSlot]) -> None:
        if any(turn.decision.events for turn in turns):
            self._notifier.notify(LOG_CHANNEL)
        for notification in {each for turn in turns for each in turn.notifications}:
            self._notifier.notify(*notification)
        for kind in {kind for turn in turns for kind in turn.decision.due.kinds}:
            self._notifier.notify(DUE_CHANNEL, kind)


def _ended(before: Mapping[str, Scan | None], written: PendingWrites) -> list[tuple[str, float]]:
    """Outcome and duration of the scans that could go on before, and can't now."""
    scans = ((earlier, written.scans[scan_id][0]) for scan_id, earlier in before.items() if scan_id in written.written)
    return [
        (scan.outcome, (scan.scanner.ended_at or scan.last_updated) - scan.timestamp)
        for earlier, scan in scans
        if earlier is not None and earlier.may_run and not scan.may_run
    ]


async def recorded_reply(pool: Pool | Connection, command_id: str, fingerprint: str) -> Reply | None:
    """The reply recorded under a command's id, None when the command has not taken effect so far. Raises TryLater."""
    with database_faults():
        row = await sql.recorded_reply(pool, command_id=command_id)
    if row is None:
        return None
    reply = Reply(body=row["body"], code=code_of(row["code"]), reason=row["reason"])
    return _reply_to(fingerprint, RecordedReply(command_id, row["fingerprint"], reply))


def _reply_to(fingerprint: str, recorded: RecordedReply) -> Reply:
    if recorded.fingerprint != fingerprint:
        return Reply.refused(Rejection(Code.KEY_WAS_USED, "Idempotency-Key: already used for a different request"))
    return recorded.reply


class _Failed(Exception):
    """A member came to no decision."""


async def _within_the_limit(turn: CommitSlot) -> None:
    """Wait until the member has decided. Raises _Failed."""
    try:
        async with asyncio.timeout(_DECISION_TIMEOUT_S):
            await turn.over
    except TimeoutError as error:
        turn.has_own_statements = True  # it may still be at it: nothing of this can be kept
        raise _Failed("the decision took too long") from error


def _is_short_of_time(member: PendingDecision) -> bool:
    """Whether a decision that is begun now would hardly be written in time."""
    return member.context.deadline is not None and CLOCK.time_s() > member.context.deadline - _LEAST_LEFT_S


def _is_late(member: PendingDecision) -> bool:
    """Whether a decision must not be committed any more: whoever asked will not see it."""
    return member.context.deadline is not None and CLOCK.time_s() > member.context.deadline + _COMMITTED_WITHIN_S


def _settle(member: PendingDecision, error: Exception | None) -> None:
    """Tell the member how it ended, unless it knows."""
    for future in (member.turn, member.settled):
        if future.done():
            continue
        if error is None:
            member.settled.set_result(None)
        else:
            future.set_exception(error)
            future.exception()  # whoever failed by itself does not ask


def _fault_for(error: BaseException, member: PendingDecision, *, is_alone: bool) -> Exception:
    """What the end of the transaction means for one of its members."""
    if isinstance(error, TryLater):
        return error
    if isinstance(error, DeadlinePassed) and _is_late(member):
        return error
    if isinstance(error, BlobLost) and is_alone:
        return TryLater("the uploaded content was lost when the database crashed; send the request again", 1.0)
    if not is_alone:
        return TryLater("the shared transaction was rolled back", 0.0)
    if not isinstance(error, Exception):
        return TryLater("the service is stopping", 0.0)
    # a twin of this command got there first
    if isinstance(error, asyncpg.UniqueViolationError) and error.constraint_name in DUPLICATE_KEYS:
        return TryLater("another replica is processing the same command", 0.02)
    return error


async def _load(
    connection: Connection, members: Sequence[PendingDecision], states: ScanStateCache
) -> tuple[PendingWrites, dict[str, RecordedReply], dict[str, Exception]]:
    """Lock and load what the members ask for: scans, recorded replies by command, and why a scan or a reply can't be read."""
    loaded, recorded, unreadable = PendingWrites(), dict[str, RecordedReply](), dict[str, Exception]()
    rows = sql.load(
        connection,
        command_ids=[member.context.command_id for member in members],
        scan_ids=sorted({scan_id for member in members for scan_id in member.scan_ids}),
    )
    for row in [row async for row in rows]:
        if row["kind"] == "s":
            try:
                loaded.scans[row["scan_id"]] = (await _state_of(row, connection, states), row["head_hash"])
            except (WrittenByNewer, HistoryBroken) as error:
                unreadable[row["scan_id"]] = error
        else:
            try:
                reply = Reply(body=row["body"], code=code_of(row["code"]), reason=row["reason"])
            except TryLater as fault:
                unreadable[row["scan_id"]] = fault
                continue
            recorded[row["scan_id"]] = RecordedReply(row["scan_id"], row["fingerprint"], reply)
    return loaded, recorded, unreadable


async def _state_of(row: Any, connection: Connection, states: ScanStateCache) -> Scan:
    """The state in a row. One that an older release wrote last lacks what only this one folds: it is folded from the log.

    Raises TryLater (database), WrittenByNewer, HistoryBroken.
    """
    scan = states.load(row)
    if is_older(scan):
        try:
            folded = await state_at(connection, scan.scan_id, version=scan.version)
        except UnknownEvent as error:
            raise WrittenByNewer from error
        if folded is None:
            raise HistoryBroken(f"scan {scan.scan_id} has a manifest and no events")
        scan = replace(folded, unknown=scan.unknown)
        states.keep(row["head_hash"], scan, size_in_memory(row["body"], row["rest"]))
    return scan
