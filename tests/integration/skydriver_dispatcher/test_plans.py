"""The hot statements look at as many rows as they need, however long the backlog is."""

from datetime import timedelta

import pytest

from skydriver_common.db.pool import Connection
from skydriver_common.db.schedule import DueWork
from skydriver_dispatcher import store as statements
from tests.support.dispatchers import set_throttle
from tests.support.histories import Store

BACKLOG = 20_000


@pytest.mark.parametrize("max_running", [None, 1_000_000])
async def test_a_claim_reads_a_handful_of_rows_of_a_long_backlog(store: Store, max_running: int | None) -> None:
    await set_throttle(store, max_running=max_running)
    await store.pool.execute(
        "INSERT INTO due_work (kind, scan_id, due_at, priority, created_at)"
        " SELECT 'launch', 's' || g, now(), g % 150 - 50, now() - g * interval '1 second' FROM generate_series(1, $1::integer) g",
        BACKLOG,
    )
    await store.pool.execute("ANALYZE due_work")
    async with store.pool.acquire() as connection:  # one session, whose statistics are flushed together
        before = await touched_by(connection)
        for _ in range(50):
            await connection.fetchrow("SELECT * FROM claim_launch_v1(now(), 60, 'x')")
        assert (await touched_by(connection) - before) / 50 < 60
    assert isinstance(await statements.claim_launch(store.pool, holder="x", lease=timedelta(seconds=60)), DueWork)


async def touched_by(connection: Connection) -> int:
    """Rows of due_work read so far, by any way."""
    await connection.execute("SELECT pg_stat_force_next_flush()")
    await connection.execute("SELECT 1")
    return int(
        await connection.fetchval(
            "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 'due_work'"
        )
    )
