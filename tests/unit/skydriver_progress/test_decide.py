"""Whatever order reports come in, and however often: the newest stands, the final result stays, refusals don't fill the log."""

import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from skydriver_common.model import events as ev
from skydriver_common.model.commands import PatchManifest, PutResult
from skydriver_common.model.ids import new_scan_id
from skydriver_common.model.rejections import Rejection
from skydriver_common.model.scan import Scan, evolve
from skydriver_common.model.scan_tokens import is_last_word, token_has_ended
from skydriver_common.model.stages import ScannerStage
from skydriver_progress.decide.rejections import REPEAT_AFTER_S, decide_rejected
from skydriver_progress.decide.reports import LATE_S, decide_report, was_sent_in_time
from skydriver_progress.decide.silence import decide_silence
from skydriver_progress.reports import ReportCode, ReportFailure, ReportRejection, ScannerReport
from tests.support.histories import a_request

SCAN_ID = new_scan_id()
NOW = time.time()


def _scan() -> Scan:
    return evolve(None, a_request(SCAN_ID), scan_id=SCAN_ID, recorded_at=NOW)


def _take(scan: Scan, report: ScannerReport, now: float = NOW) -> Scan:
    events = decide_report(scan, report, now)
    assert not isinstance(events, Rejection), events
    return _fold(scan, events, now)


def _fold(scan: Scan, events: list[ev.Event], now: float = NOW) -> Scan:
    for event in events:
        scan = evolve(scan, event, scan_id=SCAN_ID, recorded_at=now)
    return scan


def _progress(n: int, *, producer: str = "p", finished: bool = False) -> PatchManifest:
    progress: dict[str, Any] = {"summary": f"{n}", "processing_stats": {"rate": {}, "finished": finished}}
    return PatchManifest(scan_id=SCAN_ID, progress=progress, producer=producer, sequence=n)


def _result(n: int, *, is_final: bool = False, producer: str = "p") -> PutResult:
    return PutResult(scan_id=SCAN_ID, digest=f"d{n}", size_bytes=1, is_final=is_final, producer=producer, sequence=n)


def _summary(scan: Scan) -> str:
    assert scan.progress is not None
    return str(scan.progress["summary"])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_in_any_order_and_however_often_the_newest_report_stands(order: list[int]) -> None:
    scan = _scan()
    for n in order:
        scan = _take(scan, _progress(n))
        scan = _take(scan, _result(n))
    assert _summary(scan) == str(max(order))
    assert scan.result is not None
    assert scan.result.sequence == max(order)
    again = [event for n in order for report in (_progress(n), _result(n)) for event in _events(scan, report)]
    assert again == []


def test_the_same_content_under_a_higher_number_keeps_out_what_was_in_between() -> None:
    same = PatchManifest(scan_id=SCAN_ID, progress=_progress(5).progress, producer="p", sequence=7)
    scan = _take(_take(_scan(), _progress(5)), same)
    assert _events(scan, _progress(6)) == []
    again = PutResult(scan_id=SCAN_ID, digest="d5", size_bytes=1, is_final=False, producer="p", sequence=7)
    scan = _take(_take(scan, _result(5)), again)
    assert _events(scan, _result(6)) == []


def _events(scan: Scan, report: ScannerReport) -> list[ev.Event]:
    events = decide_report(scan, report, NOW)
    assert not isinstance(events, Rejection)
    return events


def test_reports_over_rest_between_those_on_the_bus_do_not_open_the_way_for_older_ones() -> None:
    scan = _take(_take(_scan(), _progress(5)), _progress(0, producer=""))
    assert (_summary(scan), scan.producer, scan.sequence) == ("0", "p", 5)
    assert _events(scan, _progress(4)) == []
    assert _summary(_take(scan, _progress(6))) == "6"


def test_after_a_restart_reports_of_the_process_before_are_late_but_only_for_a_while() -> None:
    scan = _take(_take(_scan(), _progress(7, producer="a")), _progress(1, producer="b"))
    assert scan.scanner.past_producers == ["a"]
    assert _events(scan, _progress(8, producer="a")) == []
    # should the order of the two have been taken the wrong way round, the one that goes on reporting wins in the end
    scan = _take(scan, _progress(9, producer="a"), NOW + LATE_S + 1)
    assert (_summary(scan), scan.scanner.producer, scan.scanner.past_producers) == ("9", "a", ["b"])


def test_a_living_process_that_was_taken_for_the_older_one_comes_back_though_its_results_are_heard_meanwhile() -> None:
    scan = _take(_take(_scan(), _progress(1, producer="live")), _progress(7, producer="dead"))  # which was first in truth
    for n, later in enumerate((0.4, 0.8), 2):
        scan = _take(scan, _result(n, producer="live"), NOW + later * LATE_S)
        assert _events_at(scan, _progress(n, producer="live"), NOW + later * LATE_S) == []
    assert _summary(_take(scan, _progress(9, producer="live"), NOW + 1.01 * LATE_S)) == "9"


def _events_at(scan: Scan, report: ScannerReport, now: float) -> list[ev.Event]:
    events = decide_report(scan, report, now)
    assert not isinstance(events, Rejection)
    return events


def test_what_was_dug_out_of_the_dead_letters_and_what_comes_late_does_not_take_over_again() -> None:
    scan = _take(_take(_scan(), _progress(7, producer="a")), _progress(1, producer="b"))
    scan = _take(scan, ReportFailure(scan_id=SCAN_ID, reason="no GCD", producer="b", sequence=2))
    late = decide_report(scan, _progress(9, producer="a"), NOW + 1e6, failed_at=NOW)
    assert late == []
    scan = _take(scan, _progress(3, producer="b"), NOW + 10 * LATE_S)  # it is alive
    assert decide_report(scan, _progress(9, producer="a"), NOW + 10 * LATE_S + 1) == []
    assert scan.scanner.failure == "no GCD"
    assert _summary(_take(scan, _progress(4, producer="b"), NOW + 10 * LATE_S + 2)) == "4"


def test_the_last_word_of_the_process_that_ended_the_scan_is_taken_however_late() -> None:
    scan = _take(_take(_scan(), _progress(5)), _result(6, is_final=True))
    for producer, sequence, is_expected in (("p", 7, True), ("p", 6, False), ("p", 5, False), ("q", 7, False), ("", 7, False)):
        assert is_last_word(scan, producer, sequence) is is_expected
    assert not is_last_word(_take(_scan(), _progress(5)), "p", 6)  # no end yet
    assert is_last_word(_take(_scan(), _result(6, is_final=True)), "p", 7)
    assert not is_last_word(_take(scan, _progress(7, finished=True)), "p", 8)
    assert not is_last_word(_fold(scan, [ev.ScanDeleted()]), "p", 8)


def test_a_result_kept_on_disk_by_the_process_before_is_taken_even_late() -> None:
    scan = _take(_take(_scan(), _progress(1, producer="a")), _progress(1, producer="b"))
    scan = _take(scan, _result(9, is_final=True, producer="a"))
    assert scan.has_final_result
    assert _events(scan, _result(10, producer="b")) == []


def test_a_failure_is_told_once_and_is_over_with_the_next_process() -> None:
    scan = _take(_scan(), _progress(1))
    failure = ReportFailure(scan_id=SCAN_ID, reason="no GCD", producer="p", sequence=2)
    scan = _take(scan, failure)
    assert _events(scan, failure) == []
    assert scan.scanner.failure == "no GCD"
    assert _take(scan, _progress(1, producer="q")).scanner.failure == ""
    first = _take(_take(_scan(), failure), _progress(1))  # its queue was faster
    assert first.scanner.failure == "no GCD"


def test_a_refusal_is_told_once_an_hour_for_each_code() -> None:
    scan, codes = _scan(), (ReportCode.TOKEN_INVALID, ReportCode.MALFORMED)
    for _ in range(50):
        for code in codes:
            scan = _fold(scan, decide_rejected(scan, "progress", ReportRejection(code, "r"), NOW))
    assert scan.version == 1 + len(codes)
    assert len(decide_rejected(scan, "result", ReportRejection(ReportCode.MALFORMED, "r"), NOW + REPEAT_AFTER_S + 1)) == 1


def test_the_token_ends_with_the_scan_after_a_grace() -> None:
    scan = _scan()
    assert not token_has_ended(scan, NOW + 1e9, 0.0)
    for end in (ev.ScanDeleted(), ev.ScannerFailed(reason="r"), ev.LaunchAbandoned(reason="r")):
        ended = _fold(scan, [end])
        assert not token_has_ended(ended, NOW + 5, 10.0)
        assert token_has_ended(ended, NOW + 11, 10.0)
    relaunched = _fold(scan, [ev.ScannerFailed(reason="r"), ev.ScanLaunched(launcher="l", job="j")], NOW)
    assert not token_has_ended(relaunched, NOW + 11, 10.0)


def test_silence_is_counted_from_the_last_word() -> None:
    scan = _fold(_scan(), [ev.ScanLaunched(launcher="l", job="j")])
    assert decide_silence(scan, NOW + 9, 10.0) == []
    [silent] = decide_silence(scan, NOW + 10, 10.0)
    assert silent == ev.ScannerSilent(since=NOW)
    assert decide_silence(_fold(scan, [silent]), NOW + 99, 10.0) == []
    assert decide_silence(_fold(scan, [ev.ScanDeleted()]), NOW + 99, 10.0) == []


def test_a_scanner_server_without_a_node_is_not_called_silent_and_its_time_begins_with_the_node() -> None:
    scan = _fold(_scan(), [ev.ScanLaunched(launcher="kubernetes", job="j"), ev.ScannerStageChanged(stage=ScannerStage.PENDING)])
    assert decide_silence(scan, NOW + 999, 10.0) == []
    scan = _fold(scan, [ev.ScannerStageChanged(stage=ScannerStage.SCHEDULED)])
    assert decide_silence(scan, NOW + 1005, 10.0, since=NOW + 999) == []
    assert [event.type for event in decide_silence(scan, NOW + 1010, 10.0, since=NOW + 999)] == ["scan.scanner-silent"]


@given(st.permutations(range(8)), st.sets(st.integers(0, 7)))
def test_in_any_order_the_last_final_result_stands_whatever_the_numbers_of_partial_ones(
    order: list[int], finals: set[int]
) -> None:
    scan = _scan()
    for n in (*order, *order):
        scan = _take(scan, _result(n, is_final=n in finals))
    assert scan.result is not None
    assert (scan.result.sequence, scan.result.is_final) == (max(finals or order), bool(finals))
    assert [event for n in order for event in _events(scan, _result(n, is_final=n in finals))] == []


def _back(scan: Scan, report: ScannerReport, failed_at: float, now: float = NOW + 1e6) -> list[ev.Event]:
    events = decide_report(scan, report, now, failed_at=failed_at)
    assert not isinstance(events, Rejection)
    return events


def test_what_comes_back_from_the_dead_letters_does_not_replace_what_a_later_process_said() -> None:
    scan = _take(_take(_scan(), _progress(7, producer="a"), NOW), _progress(1, producer="b"), NOW + 10)
    scan = _take(scan, _result(2, producer="b"), NOW + 11)
    assert _back(scan, _result(9, producer="a"), NOW + 5) == []
    final = _result(10, is_final=True, producer="a")
    assert len(_back(scan, final, NOW + 5)) == 1  # the scan has no final result yet
    ended = _take(scan, _result(3, is_final=True, producer="b"), NOW + 12)
    assert _back(ended, final, NOW + 5) == []
    failure = ReportFailure(scan_id=SCAN_ID, reason="of a", producer="a", sequence=11)
    assert _back(scan, failure, NOW + 5) == []
    assert len(_back(scan, failure, 0.0)) == 0  # nobody knows when it failed


def test_a_process_all_of_whose_reports_died_takes_nobody_s_place_when_they_come_back() -> None:
    heard = _take(_scan(), _progress(1, producer="b"), NOW + 10)
    assert _back(heard, _progress(5, producer="a"), NOW + 5) == []
    assert len(_back(_scan(), _progress(5, producer="a"), NOW + 5)) == 2  # nobody else has spoken
    # the one whose reports died was the newer one, and is heard again
    events = _back(heard, _progress(5, producer="a"), NOW + 20)
    assert events[0] == ev.ScannerTookOver(producer="a")


def test_the_reports_of_the_process_that_speaks_come_back_in_the_order_of_their_numbers() -> None:
    scan = _take(_take(_scan(), _progress(1, producer="b"), NOW), _progress(7, producer="a"), NOW + 10)
    assert _back(scan, _progress(6, producer="a"), NOW + 5) == []
    assert len(_back(scan, _progress(8, producer="a"), NOW + 5)) == 1
    assert len(_back(_take(scan, _result(3, producer="b"), NOW), _result(9, producer="a"), NOW + 5)) == 1


def test_what_was_sent_before_the_end_counts_by_its_place() -> None:
    heard = _take(_take(_scan(), _progress(5)), _result(6))
    failed = _fold(heard, [ev.ScannerFailed(reason="r")])
    for kind, producer, sequence, is_final, is_in_time in (
        ("result", "p", 7, True, True), ("result", "p", 7, False, True), ("result", "p", 6, False, False),
        ("result", "p", 5, True, True), ("progress", "p", 6, False, True), ("progress", "p", 5, False, False),
        ("failure", "p", 1, False, True), ("result", "q", 9, True, False), ("failure", "", 9, False, False),
    ):  # fmt: skip
        assert was_sent_in_time(failed, kind, producer, sequence, is_final=is_final) is is_in_time, (kind, producer, sequence)
    unheard = _fold(_scan(), [ev.ScannerFailed(reason="r")])
    assert was_sent_in_time(unheard, "result", "p", 0, is_final=True)  # all that it said has waited for us
    over_rest = _fold(_take(_scan(), _progress(0, producer="")), [ev.ScannerFailed(reason="r")])
    assert not was_sent_in_time(over_rest, "result", "p", 0)
    assert not was_sent_in_time(_fold(failed, [ev.ScanDeleted()]), "result", "p", 7, is_final=True)
    done = _take(heard, _result(8, is_final=True))
    assert was_sent_in_time(done, "progress", "p", 9)
    assert not was_sent_in_time(done, "result", "p", 9, is_final=True)
