"""What a row keeps of a scan's state: read and written by replicas of two releases at the same time."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_common.faults import TryLater
from skydriver_common.log import stored_state
from skydriver_common.log.stored_state import scan_of_row
from skydriver_common.model import event_codec
from skydriver_common.model import events as ev
from skydriver_common.model import scan as states
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import STATE_VERSION, Scan, evolve, fold
from skydriver_common.model.stages import ScannerStage
from tests.support import previous_release
from tests.support.histories import a_report, a_request

_SCAN = ScanId("18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c")
_PARTS = {"launch": "Launch", "result": "ResultRef", "ewms": "Ewms", "scanner": "Scanner"}
_HISTORY = (
    a_request(_SCAN),
    ev.LaunchAttempted(attempt=1),
    ev.ScanLaunched(launcher="local", job="j"),
    ev.ScannerStageChanged(stage=ScannerStage.SCHEDULED, code="c", text="t"),
    ev.WorkflowAssigned(workflow_id="w", ewms_address="http://ewms"),
    ev.WorkforceChanged(statuses={"RUNNING": {"osg": 1}}, n_running=1, top_errors={"x": 2}),
    a_report(1),
    ev.ScanMetadataSet(scan_metadata={"n": 2**70}),
    ev.ResultReceived(digest="sha256:1", size_bytes=10, is_final=False),
)


def _folded(events: int = len(_HISTORY)) -> Scan:
    scan = fold(((event, 1.5 + n) for n, event in enumerate(_HISTORY[:events])), _SCAN)
    assert scan is not None
    return scan


def _row(scan: Scan) -> dict[str, Any]:
    return {
        "scan_id": scan.scan_id, "version": scan.version, "body": stored_state.body(scan), "rest": stored_state.rest(scan)
    }  # fmt: skip


def _altered(row: dict[str, Any], column: str, **changes: Any) -> dict[str, Any]:
    return row | {column: event_codec.encode(event_codec.decode(row[column]) | changes)}


def _as_the_previous_release_reads(rest: bytes) -> None:
    """Its reader gives each part's keys to a class that knows just these, and asks for the rest by name."""
    content = event_codec.decode(rest)
    for name, cls in _PARTS.items():
        if content[name] is not None:
            assert content[name].keys() == previous_release.STATE_FIELDS[cls], "the release before can't read this part"
    assert {"request", "request_scan_id", "event_digest", "rescan_ids", "producer", "sequence"} <= content.keys()


@pytest.mark.parametrize("events", range(1, len(_HISTORY) + 1))
def test_a_state_comes_back_from_its_row_and_the_previous_release_can_read_it(events: int) -> None:
    scan = _folded(events)
    row = _row(scan)
    assert scan_of_row(row) == scan
    assert _row(scan_of_row(row)) == row
    _as_the_previous_release_reads(row["rest"])


@given(
    place=st.sampled_from(["body", "rest", *_PARTS, "added"]),
    value=st.none() | st.integers() | st.text() | st.lists(st.integers()),
)
def test_what_a_newer_release_stored_is_carried_over(place: str, value: Any) -> None:
    row = _row(_folded())
    if place in ("body", "rest"):
        row = _altered(row, place, newer=value)
    elif place == "added":
        row = _altered(row, "rest", added={"launch": {"newer": value}, "a_part": {}})
    else:
        rest = event_codec.decode(row["rest"])
        row = _altered(row, "rest", **{place: rest[place] | {"newer": value}})
    scan = scan_of_row(row)
    assert scan == _folded()
    after = evolve(scan, a_report(2), scan_id=_SCAN, recorded_at=99.0)
    assert after == evolve(_folded(), a_report(2), scan_id=_SCAN, recorded_at=99.0)
    again = _row(after)
    _as_the_previous_release_reads(again["rest"])
    kept = event_codec.decode(again["body" if place == "body" else "rest"])
    part = "launch" if place == "added" else place
    assert (kept if place in ("body", "rest") else kept["added"][part])["newer"] == value
    assert _row(scan_of_row(again)) == again


def test_what_an_older_row_lacks_has_its_default() -> None:
    scan = replace(_folded(2), launch=states.Launch(), ewms=states.Ewms(), scanner=states.Scanner())
    row = _row(scan)
    rest = event_codec.decode(row["rest"])
    for name in ("launch", "ewms", "scanner"):
        rest[name] = {}
    for name in ("scanner", "producer", "sequence", "written"):
        del rest[name]
    body = event_codec.decode(row["body"])
    for name in ("replaced_by_scan_id", "scan_metadata"):
        del body[name]
    read = scan_of_row(row | {"rest": event_codec.encode(rest), "body": event_codec.encode(body)})
    assert read == scan
    assert stored_state.is_older(read)
    assert not stored_state.is_older(scan_of_row(row))


def test_a_row_that_only_a_newer_release_can_read_waits() -> None:
    row = _row(_folded())
    newer = {"by": STATE_VERSION + 1, "for": STATE_VERSION}
    carried = event_codec.decode(_row(scan_of_row(_altered(row, "rest", written=newer)))["rest"])["written"]
    assert carried == {"by": STATE_VERSION, "for": STATE_VERSION}, "what readers must understand stays as it was"
    with pytest.raises(TryLater, match="newer release"):
        scan_of_row(_altered(row, "rest", written={"by": STATE_VERSION + 1, "for": STATE_VERSION + 1}))


def test_an_event_with_a_field_more_is_read() -> None:
    data = event_codec.encode({"launcher": "local", "job": "j", "newer": 1})
    assert event_codec.parse_event("scan.launched", 1, data) == ev.ScanLaunched(launcher="local", job="j")
    for broken in (b'{"launcher":"local"}', b"[]", b"5"):
        with pytest.raises(event_codec.UnknownEvent):
            event_codec.parse_event("scan.launched", 1, broken)


def test_rows_of_two_releases_agree_in_what_both_know() -> None:
    ours = _row(_folded())["rest"]
    content = event_codec.decode(ours)
    without = {name: value for name, value in content.items() if name not in ("written", "added")}
    assert stored_state.agree(ours, event_codec.encode(without))
    assert stored_state.is_of_another_release(event_codec.encode(without))
    assert not stored_state.is_of_another_release(ours)
    assert stored_state.agree(ours, event_codec.encode(without | {"launch": content["launch"] | {"newer": 1}}))
    assert not stored_state.agree(ours, event_codec.encode(without | {"launch": content["launch"] | {"attempts": 7}}))
    assert not stored_state.agree(ours, event_codec.encode(without | {"result": None}))


def test_a_release_whose_state_has_other_fields_than_the_one_before_has_another_version() -> None:
    classes = (Scan, states.Launch, states.ResultRef, states.Ewms, states.Scanner)
    today = {cls.__name__: {f.name for f in fields(cls)} - {"unknown", "written_by"} for cls in classes}
    for name, known in previous_release.STATE_FIELDS.items():
        assert known <= today[name], "a field goes one release after nobody needs it"
    if today != previous_release.STATE_FIELDS:
        assert STATE_VERSION > previous_release.STATE_VERSION, "raise STATE_VERSION in model/scan.py"
