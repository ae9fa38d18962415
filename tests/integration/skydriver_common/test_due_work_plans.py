"""What due work costs does not depend on how much of it waits for later, or is claimed."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from skydriver_common.db.pool import Connection
from skydriver_common.db.schedule import Schedule
from skydriver_common.model.ids import ScanId
from tests.support.histories import Store, a_store
from tests.support.waiting import until

LATER, CLAIMED, DUE = 30_000, 2_000, 2_000
KIND = "cold"


@pytest.fixture
async def waiting(store: Store) -> Store:
    """Much work of one kind: due in months, claimed, and due now with some priorities."""
    await store.pool.execute(
        "INSERT INTO due_work (kind, scan_id, due_at, priority, created_at, leased_by, leased_until)"
        " SELECT $1, 'later' || g, now() + interval '90 days' + g * interval '1 s', g % 3, now(), NULL, NULL"
        "   FROM generate_series(1, $2::int) g UNION ALL"
        " SELECT $1, 'claimed' || g, now() - interval '1 s', g % 3, now(), 'x', now() + interval '1 h'"
        "   FROM generate_series(1, $3::int) g",
        KIND, LATER, CLAIMED,
    )  # fmt: skip
    await store.pool.execute("VACUUM ANALYZE due_work")
    return store


async def rows_read(connection: Connection, what: Callable[[Connection], Awaitable[object]]) -> int:
    """Rows of due_work and entries of its indexes that are read."""

    async def so_far() -> int:
        await connection.execute("SELECT pg_stat_force_next_flush()")
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        return int(
            await connection.fetchval(
                "SELECT t.seq_tup_read + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes i WHERE i.relname = 'due_work')"
                "  FROM pg_stat_user_tables t WHERE t.relname = 'due_work'"
            )
        )

    before = await so_far()
    await what(connection)
    return await so_far() - before


def of(store: Store, connection: Connection) -> Schedule:
    """A schedule on this one connection, whose statistics are read."""
    return Schedule(connection, store.notifier, holder="one")  # type: ignore[arg-type]


async def test_a_claim_that_finds_nothing_reads_a_handful_of_rows(waiting: Store) -> None:
    async with waiting.pool.acquire() as connection:
        schedule = of(waiting, connection)
        for _ in range(6):  # the plan is made anew up to the fifth time
            assert await schedule.claim(KIND) is None
        assert await rows_read(connection, lambda _: schedule.claim(KIND)) < 20


async def test_all_verbs_read_a_handful_of_rows(waiting: Store) -> None:
    await waiting.pool.execute(
        "INSERT INTO due_work (kind, scan_id, due_at, priority, created_at)"
        " SELECT $1, 'due' || g, now() - g * interval '1 ms', g % 3, now() FROM generate_series(1, $2::int) g", KIND, DUE,
    )  # fmt: skip
    await waiting.pool.execute("ANALYZE due_work")
    async with waiting.pool.acquire() as connection:
        schedule = of(waiting, connection)

        async def claim_and_finish(_: Connection) -> None:
            work = await schedule.claim(KIND)
            assert work is not None
            assert work.scan_id.startswith("due")
            assert work.priority == 2
            await schedule.finish(work)

        async def claim_and_postpone(_: Connection) -> None:
            work = await schedule.claim(KIND)
            assert work is not None
            await schedule.put(KIND, work.scan_id)
            await schedule.postpone(work, schedule.lease)

        for verb in (
            claim_and_finish, claim_and_postpone, lambda _: schedule.seconds_to_next([KIND]), lambda _: schedule.put(KIND, ScanId("due1")),
            lambda _: schedule.drop(KIND, ScanId("due2")),
        ):  # fmt: skip
            for _ in range(6):
                await verb(connection)
            assert await rows_read(connection, verb) < 100, verb
        # what is claimed has to be looked through, what waits has not
        assert await rows_read(connection, lambda _: schedule.release_all()) < CLAIMED + 100


async def test_nobody_is_notified_of_work_that_is_due_long_after_the_next_look(store: Store) -> None:
    notified: list[str] = []
    store.notifier.on_notify("skydriver_due", notified.append)
    schedule = Schedule(store.pool, store.notifier, holder="one")
    await schedule.put("soon", ScanId("s"), after=schedule.lease / 2)
    await schedule.put("months", ScanId("s"), after=schedule.lease * 60 * 24 * 90)
    assert notified == ["soon"]


async def test_tables_that_are_written_all_the_time_are_cleaned_by_what_changes(store: Store) -> None:
    options = {
        row["relname"]: set(row["reloptions"])
        for row in await store.pool.fetch(
            "SELECT relname, reloptions FROM pg_class WHERE relkind = 'r' AND reloptions IS NOT NULL"
        )
    }
    for table in ("due_work", "relay_cursors", "ewms_watch", "launch_throttle", "ewms_outages"):
        assert "autovacuum_vacuum_scale_factor=0" in options[table], table
    for table in ("manifests", "command_replies", "event_log", "blobs"):
        assert any(option.startswith("autovacuum_vacuum_scale_factor=0.0") for option in options[table]), table


async def test_processes_whose_connections_are_closed_are_listened_to_again(store: Store) -> None:
    stopping = asyncio.Event()
    running = asyncio.create_task(store.notifier.run(stopping))
    store.notifier.notify("skydriver_due", "x")

    async def has_rung() -> bool:
        return bool(store.notifier.processes)

    async def is_forgotten() -> bool:
        return not store.notifier.processes

    await until(has_rung)
    async with a_store(store.url) as other:
        await other.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", list(store.notifier.processes)
        )
    await until(is_forgotten)
    stopping.set()
    await running
