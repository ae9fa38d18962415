"""What is old and of no use goes; what any event refers to stays, and so does what a decision is about to refer to."""

import uuid
from datetime import UTC, datetime, timedelta

import asyncpg

from skydriver_common.db.schedule import Schedule
from skydriver_common.log import blobs, housekeeping
from skydriver_common.model import events as ev
from skydriver_common.model.ids import command_id_for_key, digest_of
from skydriver_common.model.rejections import Reply
from skydriver_ops.db.roles import apply_roles
from skydriver_progress.due_kinds import DueKind
from skydriver_progress.housekeeping import Housekeeping, ShortReplies
from tests.support.histories import Store, a_context, a_request

_BEFORE = timedelta(days=30)


async def _digests(store: Store) -> set[str]:
    return {row["digest"] for row in await store.pool.fetch("SELECT digest FROM blobs")}


async def _age(store: Store, table: str, column: str, days: int) -> None:
    await store.pool.execute(f"UPDATE {table} SET {column} = {column} - make_interval(days => {days})")


async def test_old_blobs_that_no_event_refers_to_are_dropped(store: Store) -> None:
    partial, final, event, orphan = [await blobs.put(store.pool, name) for name in (b"partial", b"final", b"event", b"orphan")]
    scan_id = await store.a_scan()
    for digest, is_final in ((partial, False), (final, True)):
        await store.append("progress", scan_id, ev.ResultReceived(digest=digest, size_bytes=1, is_final=is_final))
    await store.pool.execute("UPDATE i3_events SET digest = $1", event)
    assert a_request(scan_id).event_digest != event
    before = datetime.now(UTC) - _BEFORE
    assert (await housekeeping.delete_expired(store.pool, before=before)).blobs == 0
    await _age(store, "blobs", "stored_at", 31)
    again = await blobs.put(store.pool, b"put again")
    await _age(store, "blobs", "stored_at", 31)
    assert again == await blobs.put(store.pool, b"put again"), "a decision will refer to it"
    done = await housekeeping.delete_expired(store.pool, before=before)
    assert (done.blobs, done.has_more) == (1, False)
    assert await _digests(store) == {partial, final, event, again}
    assert orphan == digest_of(b"orphan")


async def test_blobs_are_looked_at_a_few_at_a_time(store: Store) -> None:
    for number in range(2 * housekeeping.MAX_BLOBS + 1):
        await store.pool.execute(
            "INSERT INTO blobs VALUES ($1, 'identity', 0, '', now() - interval '40 days')", f"sha256:{number}"
        )
    after, rounds = "", 0
    while rounds == 0 or after:
        done = await housekeeping.delete_expired(store.pool, before=datetime.now(UTC) - _BEFORE, after=after)
        after, rounds = done.after, rounds + 1
    assert rounds == 3
    assert await _digests(store) == set()


async def test_old_replies_are_forgotten(store: Store) -> None:
    scan_id = await store.a_scan()
    for command in ("old", "young"):
        async with store.uows["progress"].on_scans(a_context(command), [scan_id]) as tx:
            tx.record(Reply())
        if command == "old":
            await _age(store, "command_replies", "recorded_at", 31)
    assert (await housekeeping.delete_expired(store.pool, before=datetime.now(UTC) - _BEFORE)).replies == 1
    assert [row["command_id"] for row in await store.pool.fetch("SELECT command_id FROM command_replies")] == ["young"]
    assert (await housekeeping.delete_expired(store.pool, before=datetime.now(UTC) + _BEFORE)).replies == 0, (
        "never those of the last day"
    )


async def test_the_service_does_so_once_a_day_with_the_rights_of_its_role(store: Store) -> None:
    apply_roles(store.url)
    await store.pool.execute("INSERT INTO blobs VALUES ('sha256:0', 'identity', 0, '', now() - interval '40 days')")
    await store.a_scan()

    async def as_progress(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        await connection.execute("SET ROLE skydriver_progress")

    async def no_reset(_: object) -> None:
        return

    pool = await asyncpg.create_pool(store.url, min_size=1, max_size=2, init=as_progress, reset=no_reset)
    assert pool is not None
    async with pool:
        schedule = Schedule(pool, store.notifier, holder="test")
        step = Housekeeping(pool, schedule, keep=_BEFORE).step
        assert await step() is not True, "not due yet"
        await store.pool.execute("UPDATE due_work SET due_at = now() WHERE kind = $1", DueKind.HOUSEKEEPING)
        await store.pool.execute("UPDATE i3_events SET digest = 'sha256:other'")
        assert await step() is True
        assert await step() is not True
    assert await _digests(store) == set()
    assert await store.pool.fetchval(
        "SELECT due_at > now() + interval '23 hours' FROM due_work WHERE kind = $1", DueKind.HOUSEKEEPING
    )


async def test_replies_without_a_key_are_forgotten_after_minutes(store: Store) -> None:
    """Each report over REST leaves one as large as the manifest; nobody can ask for it once its request has ended."""
    scan_id = await store.a_scan()
    keyed, old, young = command_id_for_key("user", "POST /scan", "key"), str(uuid.uuid4()), str(uuid.uuid4())
    for command in (keyed, old, young):
        async with store.uows["progress"].on_scans(a_context(command), [scan_id]) as tx:
            tx.record(Reply(body=b"{}"))
    await store.pool.execute(
        "UPDATE command_replies SET recorded_at = recorded_at - interval '16 minutes' WHERE command_id <> $1", young
    )
    schedule = Schedule(store.pool, store.notifier, holder="test")
    step = ShortReplies(store.pool, schedule).step
    assert await step() is True
    assert await step() is not True
    kept = {row["command_id"] for row in await store.pool.fetch("SELECT command_id FROM command_replies WHERE body = '{}'")}
    assert kept == {keyed, young}
    assert await store.pool.fetchval(
        "SELECT due_at > now() + interval '2 minutes' FROM due_work WHERE kind = $1", DueKind.SHORT_REPLIES
    )
