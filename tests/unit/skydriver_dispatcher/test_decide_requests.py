"""What becomes of a request, a rescan and a deletion."""

from dataclasses import replace
from typing import Any

import pytest

from skydriver_common.model.commands import DeleteScan, RescanScan
from skydriver_common.model.events import ScanRequested
from skydriver_common.model.ids import new_scan_id
from skydriver_common.model.rejections import Code, Rejection
from skydriver_common.model.scan import ResultRef, Scan
from skydriver_dispatcher.decide.requests import ScanEvents, decide_delete, decide_rescan, waited_s
from tests.support.launchers import a_queued_scan

NOW = 1_900_000_000.0


def rescan(scan: Scan | None, original: Scan | None, **options: bool) -> ScanEvents | Rejection:
    scan_id = scan.scan_id if scan else new_scan_id()
    return decide_rescan(scan, original, RescanScan(scan_id=scan_id, new_scan_id=new_scan_id(), **options), now=NOW)


def types(decision: ScanEvents | Rejection) -> list[str]:
    assert not isinstance(decision, Rejection)
    return [event.type for _, event in decision]


def test_a_rescan_keeps_what_a_new_request_must_not_have_any_more() -> None:
    older: dict[str, Any] = {
        "predictive_scanning_threshold": 0.1, "reco_algo": "-x", "classifiers": {}, "scanner_server_env_from_user": {"HOME": "/x"},
    }  # fmt: skip
    scan = a_queued_scan(**older)
    decision = rescan(scan, scan)
    assert not isinstance(decision, Rejection)
    [requested] = [event for _, event in decision if isinstance(event, ScanRequested)]
    assert requested.request == scan.request
    assert requested.scanner_server_args.endswith("--predictive-scanning-threshold 0.1")


def test_a_rescan_deletes_and_replaces_the_old_scan_only_when_asked_to() -> None:
    scan = a_queued_scan()
    assert types(rescan(scan, scan)) == ["scan.rescan-recorded", "scan.requested"]
    assert types(rescan(scan, scan, abort_first=True, replace_scan=True)) == [
        "scan.deleted", "scan.rescan-recorded", "scan.requested", "scan.replaced",
    ]  # fmt: skip


def test_a_rescan_of_a_rescan_is_recorded_with_the_scan_that_holds_the_request() -> None:
    original, scan = a_queued_scan(), a_queued_scan()
    decision = rescan(scan, original)
    assert not isinstance(decision, Rejection)
    assert decision[0][0] == original.scan_id
    requested = decision[1][1]
    assert isinstance(requested, ScanRequested)
    assert requested.request_scan_id == original.scan_id
    assert requested.classifiers["origin_scan_id"] == scan.scan_id


@pytest.mark.parametrize(
    ("scan", "original", "code"),
    [
        pytest.param(None, None, Code.SCAN_UNKNOWN, id="no such scan"),
        pytest.param(a_queued_scan(), None, Code.REQUEST_UNKNOWN, id="its request is not stored"),
    ],
)
def test_a_rescan_of_what_is_not_known_is_rejected(scan: Scan | None, original: Scan | None, code: Code) -> None:
    decision = rescan(scan, original)
    assert isinstance(decision, Rejection)
    assert decision.code is code


def test_deleting_a_completed_scan_needs_consent() -> None:
    scan = a_queued_scan()
    complete = replace(scan, result=ResultRef(digest="d", size_bytes=1, is_final=True))
    assert types(decide_delete(scan, DeleteScan(scan_id=scan.scan_id))) == ["scan.deleted"]
    rejection = decide_delete(complete, DeleteScan(scan_id=scan.scan_id))
    assert isinstance(rejection, Rejection)
    assert rejection.code is Code.SCAN_IS_COMPLETE
    assert types(decide_delete(complete, DeleteScan(scan_id=scan.scan_id, delete_completed_scan=True))) == ["scan.deleted"]
    unknown = decide_delete(None, DeleteScan(scan_id=scan.scan_id))
    assert isinstance(unknown, Rejection)
    assert unknown.code is Code.SCAN_UNKNOWN


def test_the_waiting_of_a_replacement_counts_from_the_old_request() -> None:
    assert waited_s(None, now=NOW) == 0.0
    assert waited_s(NOW - 30, now=NOW) == 30.0
    assert waited_s(NOW + 5, now=NOW) == 0.0, "another host's clock"
