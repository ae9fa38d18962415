"""A message on the bus is judged as the same body over REST is; on the bus alone, fields that are not known are ignored."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_api.payloads.requests import parse_patch
from skydriver_common.model.commands import PatchManifest
from skydriver_common.model.ids import ScanId
from skydriver_common.payloads.field_errors import InvalidBody
from skydriver_progress import messages
from skydriver_progress.messages import Envelope
from skydriver_progress.reports import ReportRejection
from tests.support.scanner_bus import a_progress

_PATHS = [
    ("progress",), ("event_metadata",), ("scan_metadata",), ("progress", "summary"), ("progress", "tallies"), ("progress", "start"),
    ("progress", "predictive_scanning_threshold"), ("progress", "processing_stats"), ("progress", "processing_stats", "rate"),
    ("progress", "processing_stats", "finished"), ("event_metadata", "run_id"), ("event_metadata", "event_type"),
    ("event_metadata", "mjd"), ("event_metadata", "is_real_event"),
]  # fmt: skip
_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5), st.builds(dict), st.builds(list),
    st.builds(lambda: {"a": "\0"}), st.builds(lambda: {"\ud800": 1}), st.just("MISSING"),
)  # fmt: skip


def _envelope(plain: bytes) -> Envelope:
    return Envelope("progress", ScanId("s"), "p", 1, plain, "t")


def _bus(plain: bytes) -> tuple[Any, Any, Any] | str:
    parsed = messages.parse(_envelope(plain))
    if isinstance(parsed, ReportRejection):
        return parsed.reason
    assert isinstance(parsed, PatchManifest)
    return parsed.progress, parsed.event_metadata, parsed.scan_metadata


def _rest(plain: bytes) -> tuple[Any, Any, Any] | str:
    try:
        parsed = parse_patch(plain)
    except InvalidBody as error:
        return error.reason
    return parsed.progress, parsed.event_metadata, parsed.scan_metadata


@given(st.lists(st.tuples(st.sampled_from(_PATHS), _VALUES), max_size=3))
def test_both_doors_judge_alike_and_give_the_same_reasons(changes: list[tuple[tuple[str, ...], Any]]) -> None:
    content = copy.deepcopy(a_progress(1))
    for path, value in changes:
        place: Any = content
        for name in path[:-1]:
            place = place.get(name) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            continue
        if value == "MISSING":
            place.pop(path[-1], None)
        else:
            place[path[-1]] = value
    plain = json.dumps(content).encode()
    assert repr(_bus(plain)) == repr(_rest(plain))


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"[]",
        b"{",
        b'{"progress": NaN}',
        b"\xff",
        b'{"progress": ' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 300 + b"]" * 300 + b"}",
    ],
)
def test_what_is_no_json_object_is_refused_with_the_words_of_rest(plain: bytes) -> None:
    assert _bus(plain) == _rest(plain)
    assert isinstance(_bus(plain), str)


def test_unknown_fields_are_ignored_on_the_bus() -> None:
    content = a_progress(1) | {"of the future": 1}
    assert _bus(json.dumps(content).encode()) == _bus(json.dumps(a_progress(1)).encode())
    assert "of the future" in str(_rest(json.dumps(content).encode()))


def test_a_deep_nesting_is_never_an_error_of_ours() -> None:
    for depth in (100, 197, 250, 1100, 50_000):
        plain = b'{"scan_metadata":{"a":' + b"[" * depth + b"]" * depth + b"}}"
        assert isinstance(messages.parse(_envelope(plain)), ReportRejection if depth > 197 else PatchManifest), depth
