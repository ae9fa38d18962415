"""How long the dispatcher waits before it tries something again."""

from hypothesis import given
from hypothesis import strategies as st

from skydriver_dispatcher import retry_policy
from skydriver_dispatcher.retry_policy import Deferral


def test_each_failed_launch_quadruples_the_pause_up_to_five_minutes() -> None:
    assert [retry_policy.launch_backoff_s(failures) for failures in (1, 2, 3, 4, 5, 1000)] == [4, 16, 64, 256, 300, 300]


def test_something_unavailable_is_tried_again_after_at_most_half_a_minute_or_when_it_says() -> None:
    assert [retry_policy.unavailable_backoff_s(tries, after_s=0.0) for tries in (1, 2, 6, 50)] == [1, 2, 30, 30]
    assert retry_policy.unavailable_backoff_s(1, after_s=120.0) == 120.0


def test_an_urgent_scan_is_tried_often_and_holds_up_no_other() -> None:
    assert retry_policy.urgent_deferral(1, after_s=40.0, has_no_capacity=True) == Deferral(1.0, None)
    assert retry_policy.urgent_deferral(9, after_s=0.0, has_no_capacity=True) == Deferral(15.0, None)
    assert retry_policy.urgent_deferral(1, after_s=40.0, has_no_capacity=False) == Deferral(40.0, None)


def test_without_capacity_a_scan_lets_the_others_try_first() -> None:
    assert retry_policy.deferral(1, after_s=40.0, has_no_capacity=True) == Deferral(300.0, 1.0)
    assert retry_policy.deferral(9, after_s=0.0, has_no_capacity=True) == Deferral(300.0, 60.0)


def test_in_an_outage_all_wait_equally_long_and_not_for_long() -> None:
    assert retry_policy.deferral(1, after_s=0.0, has_no_capacity=False) == Deferral(1.0, 1.0)
    assert retry_policy.deferral(9, after_s=0.0, has_no_capacity=False) == Deferral(5.0, 5.0)
    assert retry_policy.deferral(1, after_s=30.0, has_no_capacity=False) == Deferral(30.0, 30.0)


def test_the_first_restart_is_immediate() -> None:
    assert [retry_policy.restart_pause_s(restarts, was_planned=False) for restarts in (1, 2, 3)] == [0, 3, 15]
    assert retry_policy.restart_pause_s(3, was_planned=True) == 0.0


@given(times=st.integers(0, 10**6), after_s=st.floats(0, 3600), has_no_capacity=st.booleans())
def test_every_pause_is_bounded(times: int, after_s: float, has_no_capacity: bool) -> None:
    pauses = retry_policy.deferral(times, after_s=after_s, has_no_capacity=has_no_capacity)
    assert pauses.others_s is not None
    assert 0 < pauses.others_s <= max(60.0, after_s)
    assert 0 < pauses.scan_s <= max(300.0, after_s)
