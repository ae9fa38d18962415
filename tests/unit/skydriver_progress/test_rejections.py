"""The first rejections of each scan and code are kept, others counted, in bounded memory; those of no scan are recorded hourly."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Code
from skydriver_progress.decide.rejections import (
    MAX_KEPT,
    REPEAT_AFTER_S,
    RejectionCounter,
    decide_rejected_without_scan,
    is_always_kept,
    is_kept,
)
from skydriver_progress.reports import ReportCode, ReportRejection

_GROUPS = st.lists(
    st.tuples(st.one_of(st.none(), st.sampled_from("abcd")), st.sampled_from(["malformed", "token-invalid"])), max_size=80
)


@given(_GROUPS, st.integers(1, 5))
def test_of_each_scan_and_reason_the_first_ones_are_kept(rejections: list[tuple[ScanId | None, str]], max_kept: int) -> None:
    counter, counted = RejectionCounter(), Counter[tuple[ScanId | None, str]]()
    for scan_id, code in rejections:
        counted[scan_id, code] += 1
        number = counter.count(scan_id, code)
        assert number == counted[scan_id, code]
        assert is_kept(number, max_kept=max_kept) == (counted[scan_id, code] <= max_kept)


def test_many_scans_take_bounded_memory() -> None:
    counter = RejectionCounter(max_groups=10)
    for number in range(1000):
        counter.count(ScanId(str(number)), "malformed")
    assert len(counter) == 10


@pytest.mark.parametrize(
    ("code", "is_redriven", "is_always"),
    [
        (ReportCode.FAILED, False, True),
        (ReportCode.MALFORMED, True, True),
        (ReportCode.MALFORMED, False, False),
        (Code.METADATA_IS_SET, False, False),
    ],
)
def test_bugs_and_what_an_operator_has_redriven_are_always_kept(
    code: ReportCode | Code, is_redriven: bool, is_always: bool
) -> None:
    assert is_always_kept(ReportRejection(code, "r"), is_redriven=is_redriven) is is_always
    assert (is_kept(MAX_KEPT), is_kept(MAX_KEPT + 1)) == (True, False)


def test_a_rejection_without_a_scan_has_one_id_in_each_hour_for_each_kind_and_code() -> None:
    hour = 1000 * REPEAT_AFTER_S
    malformed = ReportRejection(ReportCode.MALFORMED, "r")
    command_id, event = decide_rejected_without_scan("progress", malformed, hour)
    assert (command_id, event.kind, event.code, event.reason) == (
        "refused:progress:malformed:1000",
        "progress",
        "malformed",
        "r",
    )
    assert type(event.code) is str
    assert decide_rejected_without_scan("progress", malformed, hour + REPEAT_AFTER_S - 1)[0] == command_id
    others = {
        decide_rejected_without_scan("result", malformed, hour)[0],
        decide_rejected_without_scan("progress", ReportRejection(ReportCode.SCAN_UNKNOWN, "r"), hour)[0],
        decide_rejected_without_scan("progress", malformed, hour + REPEAT_AFTER_S)[0],
    }
    assert len(others - {command_id}) == 3
