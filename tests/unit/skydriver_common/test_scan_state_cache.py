"""The memory of states: bounded by bytes, one state of each scan, and never an old one."""

from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_common.log import scan_state_cache as states
from skydriver_common.log.group_commit import GroupCommit
from skydriver_common.log.scan_state_cache import PROCESS_STATES, ScanStateCache, size_in_memory
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan

MIB = 1024 * 1024


def _scan(scan_id: ScanId) -> Scan:
    return cast(Scan, SimpleNamespace(scan_id=scan_id))


@pytest.fixture(autouse=True)
def rows_are_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "scan_of_row", lambda row: _scan(row["scan_id"]))


def _row(scan_id: ScanId, head_hash: bytes, body: bytes = b"{}") -> dict[str, Any]:
    return {"scan_id": scan_id, "head_hash": head_hash, "body": body, "rest": b"{}"}


def test_reports_of_a_mebibyte_of_empty_lists_are_not_remembered() -> None:
    memory = ScanStateCache()
    hostile = b"[" + b"[]," * (MIB // 3) + b"[]]"
    for number in range(45):
        memory.load(_row(ScanId("s"), b"%d" % number, hostile))
    assert memory.kept_bytes == 0
    assert size_in_memory(hostile, b"") > 20 * MIB


def test_each_scan_has_one_state_however_many_versions_come() -> None:
    memory = ScanStateCache()
    for number in range(1000):
        memory.keep(b"%d" % number, _scan(ScanId("s")), 1000)
    assert (len(memory), memory.kept_bytes) == (1, 1000)


def test_a_known_state_is_not_read_again_and_another_hash_is() -> None:
    memory = ScanStateCache()
    first = memory.load(_row(ScanId("s"), b"1"))
    assert memory.load(_row(ScanId("s"), b"1")) is first
    second = memory.load(_row(ScanId("s"), b"2"))
    assert second is not first
    assert memory.load(_row(ScanId("s"), b"2")) is second


def test_a_state_that_has_grown_too_large_takes_the_place_of_none() -> None:
    memory = ScanStateCache(max_bytes=10, max_state_bytes=5)
    memory.keep(b"1", _scan(ScanId("s")), 5)
    memory.keep(b"2", _scan(ScanId("s")), 6)
    assert (len(memory), memory.kept_bytes) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=60))
def test_the_budget_holds_whatever_comes(kept: list[tuple[int, int]]) -> None:
    memory = ScanStateCache(max_bytes=100, max_state_bytes=30)
    newest: dict[str, int] = {}
    for number, (scan, size) in enumerate(kept):
        memory.keep(b"%d" % number, _scan(ScanId(str(scan))), size)
        newest[str(scan)] = size
        assert memory.kept_bytes <= 100
        assert memory.kept_bytes == sum(state.size for state in memory._states.values())
        assert all(newest[name] == state.size for name, state in memory._states.items())


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner, max_size=8),
        max_leaves=100,
    )
)
def test_the_estimate_is_not_below_what_python_takes(value: object) -> None:
    assert size_in_memory(orjson.dumps(value), b"") + 200 >= _deep_size(value)


def _deep_size(value: object) -> int:
    """What lists and dicts take, and one small object for each value."""
    match value:
        case dict():
            return value.__sizeof__() + sum(_deep_size(each) for each in value.values())
        case list():
            return value.__sizeof__() + sum(_deep_size(each) for each in value)
        case _:
            return 32


def test_all_units_of_work_of_a_process_share_one_memory() -> None:
    made = [GroupCommit(cast(Any, None), cast(Any, None), lambda *_: None) for _ in range(2)]
    assert all(each._states is PROCESS_STATES for each in made)
