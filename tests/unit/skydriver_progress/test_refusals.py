"""The first refusals of each scan and reason are kept, others counted, in bounded memory."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from skydriver_progress.refusals import KeptRefusals

_GROUPS = st.lists(
    st.tuples(st.one_of(st.none(), st.sampled_from("abcd")), st.sampled_from(["malformed", "token-invalid"])), max_size=80
)


@given(_GROUPS, st.integers(1, 5))
def test_of_each_scan_and_reason_the_first_ones_are_kept(refusals: list[tuple[str | None, str]], max_kept: int) -> None:
    kept, counted = KeptRefusals(max_kept=max_kept), Counter[tuple[str | None, str]]()
    for scan_id, code in refusals:
        counted[scan_id, code] += 1
        number = kept.count(scan_id, code)
        assert number == counted[scan_id, code]
        assert kept.keeps(number) == (counted[scan_id, code] <= max_kept)


def test_many_scans_take_bounded_memory() -> None:
    kept = KeptRefusals(max_groups=10)
    for number in range(1000):
        kept.count(str(number), "malformed")
    assert len(kept._counts) == 10
