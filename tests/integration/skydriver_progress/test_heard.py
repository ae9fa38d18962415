"""Other services see whether all that scanners sent has been handled; while somebody may hold a message, it has not."""

from datetime import datetime, timedelta

from skydriver_common.db import heard
from skydriver_common.db.pool import Pool
from skydriver_progress.hearing import HeardNote
from tests.integration.skydriver_progress.conftest import Rig


async def _now(pool: Pool) -> datetime:
    now = await pool.fetchval("SELECT clock_timestamp()")
    assert isinstance(now, datetime)
    return now


async def _time_passes(pool: Pool, seconds: float, *replicas: str) -> None:
    """As if all that is noted had been noted so much earlier; of these replicas as if they had looked on meanwhile."""
    await pool.execute(
        "UPDATE progress_heard SET clear_since = clear_since - make_interval(secs => $1),"
        " looked_at = looked_at - CASE WHEN replica = ANY ($2) THEN interval '0' ELSE make_interval(secs => $1) END",
        seconds,
        list(replicas),
    )


async def test_all_is_heard_when_each_replica_has_been_clear_for_a_while_after_that_time(rig: Rig) -> None:
    pool, is_clear = rig.store.pool, True

    async def look() -> bool:
        return is_clear

    a, b = HeardNote(pool, "a", look), HeardNote(pool, "b", look)
    minute = timedelta(seconds=61)
    assert not await heard.is_all_heard(pool, await _now(pool) - minute)  # nobody listens
    await a.step()
    await a.step()
    assert not await heard.is_all_heard(pool, await _now(pool) - minute)  # only just
    await _time_passes(pool, 90, "a")
    assert await heard.is_all_heard(pool, await _now(pool) - minute)
    assert not await heard.is_all_heard(pool, await _now(pool))
    await b.step()  # has begun, and may hold something
    assert not await heard.is_all_heard(pool, await _now(pool) - minute)
    await b.step()
    await _time_passes(pool, 90, "a", "b")
    assert await heard.is_all_heard(pool, await _now(pool) - minute)
    await _time_passes(pool, 40, "a")  # b stands still, with messages perhaps
    assert not await heard.is_all_heard(pool, await _now(pool) - minute)
    await _time_passes(pool, 300, "a")  # it is gone
    assert await heard.is_all_heard(pool, await _now(pool) - minute)
    is_clear = False
    await a.step()
    assert not await heard.is_all_heard(pool, await _now(pool) - minute)
    is_clear = True
    await a.step()
    assert not await heard.is_all_heard(pool, await _now(pool) - minute)
    await _time_passes(pool, 90)  # an outage: nobody looked
    await a.step()
    assert not await heard.is_all_heard(pool, await _now(pool) - minute)
