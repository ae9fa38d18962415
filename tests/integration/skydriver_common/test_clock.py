"""A machine whose clock is wrong notices it, and reckons by the database's."""

import time

import pytest
from structlog.testing import capture_logs

from skydriver_common.clock import CLOCK, SharedClock
from skydriver_common.db.clock import ClockComparison
from tests.support.histories import Store


@pytest.mark.parametrize("by_s", [-90.0, 3600.0])
async def test_a_difference_is_told_and_corrected(store: Store, by_s: float) -> None:
    clock = SharedClock()
    recorded: list[float] = []
    comparison = ClockComparison(store.pool, clock, on_compared=recorded.append, wall=lambda: time.time() + by_s)
    with capture_logs() as logs:
        await comparison.step()
    assert [line["event"] for line in logs] == ["clock.differs"]
    assert clock.ahead_s == pytest.approx(-by_s, abs=1.5)
    assert recorded == [clock.ahead_s]


async def test_clocks_that_agree_are_left_as_they_are(store: Store) -> None:
    clock = SharedClock()
    with capture_logs() as logs:
        await ClockComparison(store.pool, clock).step()
    assert (logs, clock.ahead_s) == ([], 0.0)


async def test_a_decision_is_recorded_by_the_databases_clock(store: Store) -> None:
    CLOCK.compared(-7200.0)  # as on a machine that is two hours ahead; the test's server is not
    try:
        scan_id = await store.a_scan()
    finally:
        CLOCK.compared(0.0)
    age = await store.pool.fetchval("SELECT now() - recorded_at FROM event_log WHERE scan_id = $1", scan_id)
    assert 7190 < age.total_seconds() < 7320
