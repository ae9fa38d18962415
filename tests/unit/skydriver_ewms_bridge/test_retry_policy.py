"""How long the bridge waits."""

from datetime import timedelta

import pytest

from skydriver_ewms_bridge.retry_policy import (
    ADD_WORKERS_TIMEOUT_S,
    MAX_STOP_CONFIRMATION,
    REPLY_TIME_S,
    add_workers_timeout_s,
    queue_poll_s,
    refused_workflow_pause_s,
    stop_confirmation,
)


def test_queues_are_polled_fast_at_first_and_never_more_slowly_than_the_setting() -> None:
    pauses = [queue_poll_s(tries, longest_s=10.0) for tries in range(40)]
    assert pauses[:3] == [0.5, 0.75, 1.125]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 10.0


def test_a_stop_is_looked_after_with_growing_pauses() -> None:
    assert [stop_confirmation(tries).total_seconds() for tries in (1, 2, 15, 16)] == [2.0, 4.0, 30.0, 30.0]
    assert stop_confirmation(1000) == MAX_STOP_CONFIRMATION


@pytest.mark.parametrize("tries", [1, 3, 50])
def test_a_refused_workflow_waits_as_long_as_ewms_asks_or_longer(tries: int) -> None:
    assert refused_workflow_pause_s(tries, after_s=500.0) == 500.0
    assert 0.0 < refused_workflow_pause_s(tries, after_s=0.0) <= timedelta(minutes=1).total_seconds()


def test_a_request_for_workers_leaves_time_for_the_reply() -> None:
    assert add_workers_timeout_s(20.0) == 20.0 - REPLY_TIME_S
    assert add_workers_timeout_s(1e6) == ADD_WORKERS_TIMEOUT_S
