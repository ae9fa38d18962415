"""What the database and the launcher know differently."""

from skydriver_common.model.ids import ScanId
from skydriver_common.model.stages import ScannerStage
from skydriver_dispatcher.decide.reconciliation import (
    MAX_STARTING,
    UNSETTLED_RETRY_S,
    ExpectedScan,
    compare,
    next_comparison_s,
    unknown_for_long,
    unknown_since,
)

A, B = ScanId("a"), ScanId("b")


def expected(*scan_ids: str, stage: ScannerStage = ScannerStage.RUNNING) -> dict[ScanId, ExpectedScan]:
    return {ScanId(scan_id): ExpectedScan(scan_id=ScanId(scan_id), version=1, stage=stage, code="") for scan_id in scan_ids}


def test_what_has_ended_and_is_not_handled_yet_is_neither_missing_nor_unexpected() -> None:
    comparison = compare(
        expected("a", "b", "c"), {ScanId(name): runs for name, runs in {"a": True, "b": False, "x": True, "y": False}.items()}
    )
    assert comparison.missing == {"c"}
    assert comparison.unexpected == {"x"}
    assert comparison.starting == ()


def test_of_those_that_wait_for_their_container_a_bounded_number_is_checked() -> None:
    ids = [ScanId(f"{n:04}") for n in range(MAX_STARTING + 2)]
    comparison = compare(expected(*ids, stage=ScannerStage.SCHEDULED), dict.fromkeys(ids, True))
    assert comparison.starting == tuple(ids[:MAX_STARTING])


def test_a_scan_has_been_unknown_for_long_only_without_a_break() -> None:
    since = unknown_since({}, {A, B}, now=0.0)
    since = unknown_since(since, {B}, now=300.0)
    since = unknown_since(since, {A, B}, now=600.0)
    assert since == {"a": 600.0, "b": 0.0}
    assert unknown_for_long(since, now=600.0, limit_s=600.0) == {"b"}


def test_the_next_comparison_is_when_the_first_of_all_reasons_asks_for_it() -> None:
    assert next_comparison_s([None, None], is_settled=True) is None
    assert next_comparison_s([60.0, None], is_settled=True) == 60.0
    assert next_comparison_s([60.0, 30.0], is_settled=False) == UNSETTLED_RETRY_S
