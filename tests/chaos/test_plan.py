"""A run can be replayed: its faults follow from the seed alone."""

import pytest

from tests.chaos.fault_injector import plan
from tests.chaos.report import percentile


def test_the_same_seed_gives_the_same_faults() -> None:
    assert plan("7", 50, 100, long=True) == plan("7", 50, 100, long=True)
    assert plan("7", 50, 100, long=True) != plan("8", 50, 100, long=True)


def test_faults_come_in_order_within_the_time_and_short_ones_stay_short() -> None:
    faults = plan("7", 200, 100, long=False)
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    assert all(0 <= fault.at_s <= 100 and fault.length_s <= 6 for fault in faults)
    assert {fault.kind for fault in faults} >= {"kill", "terminate", "freeze", "cut", "stall", "restart fast", "restart killed"}


def test_percentiles_are_of_the_values_themselves() -> None:
    assert percentile([], 50) == 0.0
    assert [percentile([3.0, 1.0, 2.0, 4.0], percent) for percent in (0, 50, 95)] == [1.0, 2.0, 4.0]


def test_a_plan_can_hold_one_kind_alone() -> None:
    assert {fault.kind for fault in plan("7", 20, 100, long=True, only="promote the standby")} == {"promote the standby"}
    with pytest.raises(ValueError, match="no fault called 'flood'"):
        plan("7", 20, 100, long=True, only="flood")
