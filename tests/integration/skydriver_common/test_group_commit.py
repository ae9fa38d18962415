"""Decisions that share a transaction: one fails, the others stand; the transaction fails, none stands."""

import asyncio
from collections.abc import Callable

import pytest

from skydriver_common.db.notifier import DUE_CHANNEL, LOG_CHANNEL
from skydriver_common.faults import TryLater
from skydriver_common.log import blobs
from skydriver_common.log import group_commit as together
from skydriver_common.log.unit_of_work import DeadlinePassed, Transaction, UnitOfWork
from skydriver_common.model.ids import ScanId, digest_of
from skydriver_common.model.rejections import Reply
from skydriver_ops.eventlog.verify import verify
from tests.support.histories import Store, a_context, a_report
from tests.support.waiting import until

Decide = Callable[[Transaction], object]


async def _decide(uow: UnitOfWork, scan_id: ScanId, decide: Decide, command_id: str | None = None) -> None:
    async with uow.on_scans(a_context(command_id), [scan_id]) as tx:
        decide(tx)


async def _at_once(store: Store, scan_id: ScanId, *decides: Decide) -> list[BaseException | None]:
    """All of them at the same time; how each ended."""
    uow = store.uows["progress"]
    return await asyncio.gather(*(_decide(uow, scan_id, decide) for decide in decides), return_exceptions=True)


def _reporting(scan_id: ScanId, sequence: int) -> Decide:
    return lambda tx: tx.append(scan_id, [a_report(sequence)])


def _raising(_: Transaction) -> None:
    raise ValueError("a bug")


async def _transactions(store: Store) -> int:
    return int(await store.pool.fetchval("SELECT count(DISTINCT xid) FROM event_log WHERE type <> 'scan.requested'"))


async def test_what_comes_at_once_shares_transactions_and_each_sees_those_before_it(store: Store) -> None:
    scan_id = await store.a_scan()
    ends = await _at_once(store, scan_id, *(_reporting(scan_id, n) for n in range(40)))
    assert ends == [None] * 40
    assert await _transactions(store) < 10
    assert await store.pool.fetchval("SELECT version FROM manifests WHERE scan_id = $1", scan_id) == 41
    async with store.pool.acquire() as connection:
        assert (await verify(connection)).breaks == []


async def test_one_that_fails_is_left_out(store: Store) -> None:
    scan_id = await store.a_scan()

    def appending_then_raising(tx: Transaction) -> None:
        tx.append(scan_id, [a_report(7)])
        tx.record(Reply(body=b"{}"))
        tx.due.put("launch", scan_id)
        raise ValueError("a bug")

    ends = await _at_once(store, scan_id, _reporting(scan_id, 1), appending_then_raising, _reporting(scan_id, 2))
    assert [type(end) for end in ends] == [type(None), ValueError, type(None)]
    rows = await store.pool.fetch("SELECT version, data FROM event_log ORDER BY version")
    assert [row["version"] for row in rows] == [1, 2, 3]
    assert not any(b'"sequence":7' in row["data"] for row in rows)
    assert await store.pool.fetchval("SELECT count(*) FROM command_replies") == 0
    assert await store.pool.fetchval("SELECT count(*) FROM due_work") == 0


async def test_a_transaction_that_fails_fails_for_all_and_the_one_to_blame_is_found_alone(store: Store) -> None:
    scan_id = await store.a_scan()

    async def one(decide: Decide) -> None:
        uow = store.uows["progress"]
        for _ in range(50):
            try:
                await _decide(uow, scan_id, decide)
            except TryLater:
                continue
            return
        raise AssertionError("it does not come to rest")

    def storing_what_postgres_refuses(tx: Transaction) -> None:
        tx.record(Reply(body=b"", reason="a character that no text of Postgres holds: \x00"))

    ends = await asyncio.gather(
        one(_reporting(scan_id, 1)), one(storing_what_postgres_refuses), one(_reporting(scan_id, 2)), return_exceptions=True
    )
    assert [ends[0], ends[2]] == [None, None]
    assert ends[1] is not None
    assert type(ends[1]).__module__.startswith("asyncpg")
    assert await store.pool.fetchval("SELECT version FROM manifests WHERE scan_id = $1", scan_id) == 3


async def test_an_error_after_statements_of_ones_own_undoes_the_transaction(store: Store) -> None:
    scan_id, uow = await store.a_scan(), store.uows["progress"]

    async def writes_and_raises() -> None:
        async with uow.on_scans(a_context(), [scan_id]) as tx:
            await tx.connection.execute(
                "INSERT INTO due_work (kind, scan_id, due_at, priority, created_at) VALUES ('mine', 's', now(), 0, now())"
            )
            raise ValueError("a bug")

    ends = await asyncio.gather(
        _decide(uow, scan_id, _reporting(scan_id, 1)),
        writes_and_raises(),
        _decide(uow, scan_id, _raising),
        return_exceptions=True,
    )
    assert isinstance(ends[0], TryLater)
    assert [type(end) for end in ends[1:]] == [ValueError, ValueError]
    assert await store.pool.fetchval("SELECT count(*) FROM due_work WHERE kind = 'mine'") == 0
    assert await store.pool.fetchval("SELECT version FROM manifests WHERE scan_id = $1", scan_id) == 1


async def test_commands_that_come_twice_at_once_take_effect_once(store: Store) -> None:
    scan_id, uow = await store.a_scan(), store.uows["progress"]
    recorded: list[Reply | None] = []

    async def twin() -> None:
        async with uow.on_scans(a_context("k"), [scan_id]) as tx:
            recorded.append(tx.recorded_reply)
            if tx.recorded_reply is None:
                tx.append(scan_id, [a_report(1)])
                tx.record(Reply(body=b"{}"))

    await asyncio.gather(twin(), twin())
    assert recorded == [None, Reply(body=b"{}")]
    assert await store.pool.fetchval("SELECT version FROM manifests WHERE scan_id = $1", scan_id) == 2


async def test_one_whose_time_is_over_and_one_who_has_gone_are_left_out(store: Store) -> None:
    scan_id, uow = await store.a_scan(), store.uows["progress"]
    begun = asyncio.Event()

    async def stays() -> None:
        async with uow.on_scans(a_context(), [scan_id]) as tx:
            begun.set()
            tx.append(scan_id, [a_report(1)])
            await asyncio.Event().wait()  # until it is cancelled

    async def is_late() -> None:
        async with uow.on_scans(a_context(deadline=1.0), [scan_id]) as tx:
            tx.append(scan_id, [a_report(2)])

    goes = asyncio.create_task(stays())
    others = [asyncio.create_task(is_late()), asyncio.create_task(_decide(uow, scan_id, _reporting(scan_id, 3)))]
    await begun.wait()
    goes.cancel()
    ends = await asyncio.gather(goes, *others, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError, DeadlinePassed, type(None)]
    assert await store.pool.fetchval("SELECT version FROM manifests WHERE scan_id = $1", scan_id) == 2


async def test_who_waits_is_rung_after_the_commit(store: Store) -> None:
    notified: list[tuple[str, str]] = []
    for channel in (LOG_CHANNEL, DUE_CHANNEL):
        store.notifier.on_notify(channel, lambda payload, channel=channel: notified.append((channel, payload)))  # type: ignore[misc]
    scan_id = await store.a_scan()
    async with store.uows["progress"].on_scans(a_context(), [scan_id]) as tx:
        tx.due.put("launch", scan_id, priority=3)
        tx.due.drop("stop", scan_id)
    assert notified == [(LOG_CHANNEL, ""), (DUE_CHANNEL, "launch")]
    async with store.uows["progress"].on_scans(a_context(), [scan_id]) as tx:
        tx.due.put("launch", scan_id, priority=5)  # there already: the higher priority counts
        tx.due.put("stop", scan_id)
        tx.due.drop("stop", scan_id)
    assert [tuple(row) for row in await store.pool.fetch("SELECT kind, priority FROM due_work")] == [("launch", 5)]


async def test_a_database_that_is_away_is_told_to_all(store: Store) -> None:
    scan_id = await store.a_scan()
    await store.pool.execute("ALTER TABLE manifests RENAME TO manifests_away")
    ends = await _at_once(store, scan_id, _reporting(scan_id, 1), _reporting(scan_id, 2))
    assert all(isinstance(end, Exception) for end in ends)
    await store.pool.execute("ALTER TABLE manifests_away RENAME TO manifests")
    with pytest.raises(ValueError, match="a bug"):
        await _decide(store.uows["progress"], scan_id, _raising)


async def test_a_decision_waits_for_a_blob_that_a_crash_has_lost_and_holds_up_no_other(store: Store) -> None:
    scan_id = await store.a_scan()
    skymap = b'{"lost": "at first"}'

    def needing(tx: Transaction) -> None:
        tx.needs_blob(digest_of(skymap))
        tx.append(scan_id, [a_report(1)])

    async def again_and_again(decide: Decide) -> None:
        async def is_taken() -> bool:
            await _decide(store.uows["progress"], scan_id, decide)
            return True

        await until(is_taken, poll_s=0.01, not_yet=TryLater)

    waiting = asyncio.create_task(again_and_again(needing))
    await asyncio.wait_for(again_and_again(_reporting(scan_id, 2)), 120)
    assert not waiting.done()
    await blobs.put(store.pool, skymap)
    await asyncio.wait_for(waiting, 120)
    assert await store.pool.fetchval("SELECT version FROM manifests WHERE scan_id = $1", scan_id) == 3


class _Clock:
    """Stands in for the shared clock. now: Unix seconds."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def time_s(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr(together, "CLOCK", made)
    return made


async def _decide_by(uow: UnitOfWork, scan_id: ScanId, deadline: float, decide: Decide) -> None:
    async with uow.on_scans(a_context(deadline=deadline), [scan_id]) as tx:
        decide(tx)


async def test_what_has_hardly_any_time_left_is_not_begun_and_undoes_nothing(store: Store, clock: _Clock) -> None:
    scan_id, uow = await store.a_scan(), store.uows["progress"]
    begun: list[int] = []

    def noted(sequence: int) -> Decide:
        def decide(tx: Transaction) -> None:
            begun.append(sequence)
            tx.append(scan_id, [a_report(sequence)])

        return decide

    ends = await asyncio.gather(
        *(_decide_by(uow, scan_id, clock.now + (0.2 if n % 2 else 5.0), noted(n)) for n in range(20)), return_exceptions=True
    )
    assert [type(end) for end in ends] == [type(None), DeadlinePassed] * 10
    assert begun == list(range(0, 20, 2))
    assert uow._group_commit._alone_until == 0.0


async def test_a_decision_may_be_committed_while_its_sender_still_waits(store: Store, clock: _Clock) -> None:
    scan_id, uow = await store.a_scan(), store.uows["progress"]

    def taking(seconds: float, sequence: int) -> Decide:
        def decide(tx: Transaction) -> None:
            tx.append(scan_id, [a_report(sequence)])
            clock.now += seconds

        return decide

    await _decide_by(uow, scan_id, clock.now + 1.0, taking(1.5, 1))
    ends = await asyncio.gather(
        _decide_by(uow, scan_id, clock.now + 60, _reporting(scan_id, 2)),
        _decide_by(uow, scan_id, clock.now + 1.0, taking(2.5, 3)),
        _decide_by(uow, scan_id, clock.now + 60, _reporting(scan_id, 4)),
        return_exceptions=True,
    )
    assert [type(end) for end in ends] == [type(None), DeadlinePassed, type(None)]
    assert uow._group_commit._alone_until == 0.0


async def test_a_late_decision_with_statements_of_its_own_lets_the_others_go_on_together(store: Store, clock: _Clock) -> None:
    scan_id, uow = await store.a_scan(), store.uows["progress"]

    async def late() -> None:
        async with uow.on_scans(a_context(deadline=clock.now + 1.0), [scan_id]) as tx:
            await tx.connection.execute("SELECT 1")
            clock.now += 2.5

    ends = await asyncio.gather(
        _decide(uow, scan_id, _reporting(scan_id, 1)),
        late(),
        _decide(uow, scan_id, _reporting(scan_id, 2)),
        return_exceptions=True,
    )
    assert [type(end) for end in ends] == [TryLater, DeadlinePassed, type(None)]
    assert uow._group_commit._alone_until == 0.0


async def test_one_that_has_to_wait_after_statements_of_its_own_does_not_send_the_others_one_by_one(store: Store) -> None:
    scan_id, uow = await store.a_scan(), store.uows["progress"]

    async def waits() -> None:
        async with uow.on_scans(a_context(), [scan_id]) as tx:
            await tx.connection.execute("SELECT 1")
            raise TryLater("something is away", 1.0)

    ends = await asyncio.gather(_decide(uow, scan_id, _reporting(scan_id, 1)), waits(), return_exceptions=True)
    assert [type(end) for end in ends] == [TryLater, TryLater]
    assert uow._group_commit._alone_until == 0.0
