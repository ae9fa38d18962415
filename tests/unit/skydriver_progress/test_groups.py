"""Groups of messages, decided without a database: the example of the README, ends of tokens, what is superseded."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_common.model import events as ev
from skydriver_common.model.commands import PutResult
from skydriver_common.model.ids import new_scan_id
from skydriver_common.model.scan import Scan, evolve
from skydriver_progress.decide.groups import decide_group, group_by_producer, reject_unknown_scan
from skydriver_progress.incoming import IncomingReport, ReceivedMessage
from skydriver_progress.messages import Envelope
from skydriver_progress.reports import ReportCode, ReportRejection
from tests.support.histories import a_request
from tests.support.scanner_bus import METADATA, a_progress

SCAN_ID = new_scan_id()
NOW = time.time()
GRACE_S = 10.0


class Changes:
    """A scan in memory."""

    def __init__(self, *events: ev.Event) -> None:
        self.scan: Scan = evolve(None, a_request(SCAN_ID), scan_id=SCAN_ID, recorded_at=NOW)
        self.decided: list[tuple[int, str]] = []
        self.blobs: list[str] = []
        self._fold(events)

    def append(self, events: Sequence[ev.Event], *, cause: IncomingReport, needed_blob: str | None = None) -> None:
        self.decided += [(cause.sequence, event.type) for event in events]
        self.blobs += [needed_blob] if needed_blob is not None else []
        self._fold(events)

    def _fold(self, events: Sequence[ev.Event]) -> None:
        for event in events:
            self.scan = evolve(self.scan, event, scan_id=SCAN_ID, recorded_at=NOW)


def _item(
    number: int,
    content: dict[str, Any] | bytes = b"",
    *,
    kind: str = "progress",
    producer: str = "p",
    failed_at: float | None = None,
) -> IncomingReport:
    plain = content if isinstance(content, bytes) else json.dumps(content).encode()
    message = ReceivedMessage(f"{kind}.{SCAN_ID}", {}, plain, None, None, None, len(plain), number, failed_at)
    return IncomingReport(message, kind, SCAN_ID, Envelope(kind, SCAN_ID, producer, number, plain, "t"))


def _a_result(number: int, *, is_final: bool = False) -> IncomingReport:
    item = _item(number, kind="result")
    item.report = PutResult(
        scan_id=SCAN_ID, digest=f"d{number}", size_bytes=1, is_final=is_final, producer="p", sequence=number
    )
    return item


def _without_metadata(number: int) -> dict[str, Any]:
    return {"progress": a_progress(number)["progress"]}


def _decide(changes: Changes, *items: IncomingReport, coalesces: bool = True, now: float = NOW) -> None:
    for group in group_by_producer(items):
        decide_group(changes, group, now, coalesces=coalesces, token_grace_s=GRACE_S)


def _has_event_metadata() -> ev.Event:
    return ev.EventMetadataSet(event_metadata=METADATA["event_metadata"])


def _example() -> list[IncomingReport]:
    return [
        _item(1, a_progress(1)),
        _item(2, b"no JSON"),
        _item(3, {"progress": a_progress(3, finished=True)["progress"]}),
        _item(4, _without_metadata(4)),
    ]


def test_the_example_of_the_readme() -> None:
    changes, items = Changes(_has_event_metadata()), _example()
    _decide(changes, *items)
    assert changes.decided == [
        (3, "scan.scanner-took-over"),
        (3, "scan.progress-reported"),
        (1, "scan.scan-metadata-set"),
        (2, "scan.report-refused"),
    ]
    assert [item.rejection.code if item.rejection else None for item in items] == [None, ReportCode.MALFORMED, None, None]
    assert items[0].report is not None
    assert changes.scan.progress is not None
    assert changes.scan.progress["processing_stats"]["finished"]


def test_what_is_superseded_is_not_even_parsed_once_the_scan_has_its_metadata() -> None:
    changes = Changes(_has_event_metadata(), ev.ScanMetadataSet(scan_metadata=METADATA["scan_metadata"]))
    items = _example()
    _decide(changes, *items)
    assert [number for number, _ in changes.decided] == [3, 3]
    assert [item.report is not None for item in items] == [False, False, True, False]
    assert not any(item.rejection for item in items)


@given(st.permutations(range(1, 7)), st.sets(st.integers(1, 6)), st.booleans())
def test_coalesced_or_one_after_the_other_the_scan_is_the_same_in_the_end(
    order: list[int], finished: set[int], has_metadata: bool
) -> None:
    def contents(number: int) -> dict[str, Any]:
        content = a_progress(number, finished=number in finished)
        return content if has_metadata else {"progress": content["progress"]}

    ends = []
    for coalesces in (True, False):
        changes = Changes()
        _decide(changes, *(_item(number, contents(number)) for number in order), coalesces=coalesces)
        scan = changes.scan
        ends.append((scan.progress, scan.event_metadata, scan.scan_metadata, scan.producer, scan.sequence))
    assert ends[0] == ends[1]


def test_when_the_newest_is_rejected_the_one_before_it_is_taken() -> None:
    changes = Changes(_has_event_metadata())
    other = a_progress(2, event_metadata=METADATA["event_metadata"] | {"run_id": 1})
    first, second = _item(1, a_progress(1)), _item(2, other)
    _decide(changes, first, second)
    assert changes.scan.sequence == 1
    assert second.rejection is not None
    assert second.rejection.code == "metadata-is-set"
    assert changes.decided[-1] == (2, "scan.report-refused")


def test_a_result_is_decided_on_beside_progress_and_names_its_blob() -> None:
    changes = Changes()
    _decide(changes, _a_result(1), _item(2, _without_metadata(2)))
    assert (changes.blobs, changes.scan.sequence) == (["d1"], 2)
    _decide(changes, _a_result(1))
    assert changes.blobs == ["d1"]


@pytest.mark.parametrize(
    ("failed_at", "is_accepted"),
    [(None, False), (0.0, False), (NOW + GRACE_S - 1, True), (NOW + GRACE_S + 1, False)],
    ids=["never", "long ago", "in the grace period", "after it"],
)
def test_after_the_end_of_the_token_counts_when_a_redriven_message_failed_first(
    failed_at: float | None, is_accepted: bool
) -> None:
    changes = Changes(ev.ScanDeleted())
    item = _item(1, a_progress(1), failed_at=failed_at)
    _decide(changes, item, now=NOW + GRACE_S + 100)
    assert (item.rejection is None) is is_accepted
    if item.rejection is not None:
        assert item.rejection.code is ReportCode.TOKEN_ENDED
        assert changes.decided == [(1, "scan.report-refused")]


def test_after_the_end_of_the_token_a_final_result_of_the_process_that_was_heard_is_accepted_and_others_are_not() -> None:
    changes = Changes()
    _decide(changes, _item(5, a_progress(5)), _a_result(6))
    changes.append([ev.ScannerFailed(reason="r")], cause=_item(0))
    late = NOW + GRACE_S + 100
    final, partial, old = _a_result(3, is_final=True), _a_result(4), _item(4, a_progress(4))
    _decide(changes, old, final, partial, now=late)
    assert [item.rejection is None for item in (final, partial, old)] == [True, False, False]
    assert changes.scan.has_final_result


def test_groups_are_by_scan_and_producer_each_in_order_of_its_numbers() -> None:
    unopened = IncomingReport(_item(0).message, "progress", SCAN_ID)
    items = [_item(3), _item(1, producer="q"), unopened, _item(1), _item(2)]
    assert group_by_producer(items) == [[items[3], items[4], items[0]], [items[1]], [items[2]]]


def test_without_a_scan_all_are_rejected_and_an_earlier_reason_stays() -> None:
    first, second = _item(1), _item(2)
    first.rejection = ReportRejection(ReportCode.TOKEN_FOREIGN, "r")
    reject_unknown_scan([first, second])
    assert (first.rejection.code, second.rejection and second.rejection.code) == (
        ReportCode.TOKEN_FOREIGN,
        ReportCode.SCAN_UNKNOWN,
    )
