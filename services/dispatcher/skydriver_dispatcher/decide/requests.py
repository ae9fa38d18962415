"""What becomes of a request, a rescan and a deletion. Pure. Source: REST contract 4.5, 4.6, 4.8."""

from typing import Any, cast

from skydriver_common.model.commands import DeleteScan, RequestScan, RescanScan
from skydriver_common.model.events import Event, RescanRecorded, ScanDeleted, ScanReplaced, ScanRequested
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Code, Rejection, scan_not_found
from skydriver_common.model.scan import Scan
from skydriver_common.model.scan_request import ScanRequest
from skydriver_common.model.scanner_args import scanner_server_args

ScanEvents = list[tuple[ScanId, Event]]
"""Events of several scans in the order in which they are appended, each with the id of its scan."""


def decide_request(command: RequestScan, event_digest: str | None, *, now: float) -> ScanRequested | Rejection:
    """Return the event that begins a new scan.

    event_digest: of the stored event when the command brings none; None: there is no such event. Source: REST contract 4.5.
    """
    digest = command.event_digest or event_digest
    if digest is None:
        return Rejection(Code.EVENT_UNKNOWN, "i3_event_id: no event with this id is stored", ("i3_event_id",))
    request = cast(ScanRequest, command.request)
    return _requested(request, command.scan_id, digest, request["classifiers"], now)


def decide_rescan(scan: Scan | None, original: Scan | None, command: RescanScan, *, now: float) -> ScanEvents | Rejection:
    """Return the events that begin a new scan from an old one's request. Source: REST contract 4.6.

    scan: the one to repeat, which may be a rescan itself. original: the scan that holds its request. None: there is no such scan.
    """
    if scan is None:
        return scan_not_found(command.scan_id)
    if original is None:
        return Rejection(Code.REQUEST_UNKNOWN, f"The request of scan {command.scan_id} is not stored")
    classifiers = {**original.request["classifiers"], "rescan": True, "origin_scan_id": command.scan_id}
    requested = _requested(original.request, original.scan_id, original.event_digest, classifiers, now)
    events: ScanEvents = [(command.scan_id, ScanDeleted())] if command.abort_first else []
    events += [
        (original.scan_id, RescanRecorded(rescan_id=command.new_scan_id)),
        (command.new_scan_id, requested),
    ]
    if command.replace_scan:
        events.append((command.scan_id, ScanReplaced(by_scan_id=command.new_scan_id)))
    return events


def decide_delete(scan: Scan | None, command: DeleteScan) -> ScanEvents | Rejection:
    """Return the event that hides and stops a scan; a completed one needs consent. Source: REST contract 4.8."""
    if scan is None:
        return scan_not_found(command.scan_id)
    if scan.has_final_result and not command.delete_completed_scan:
        return Rejection(
            Code.SCAN_IS_COMPLETE,
            "delete_completed_scan: the scan has its final result; set this to true to delete it all the same",
            ("delete_completed_scan",),
        )
    return [(scan.scan_id, ScanDeleted())]


def waited_s(since: float | None, *, now: float) -> float:
    """Return the seconds that a scan has waited when it enters the backlog. since: Unix seconds, None: it has not waited yet."""
    return 0.0 if since is None else max(0.0, now - since)


def _requested(
    request: ScanRequest, request_scan_id: ScanId, digest: str, classifiers: dict[str, Any], now: float
) -> ScanRequested:
    return ScanRequested(
        requested_at=now,
        request=cast(dict[str, Any], request),
        request_scan_id=request_scan_id,
        event_digest=digest,
        classifiers=classifiers,
        scanner_server_args=scanner_server_args(request),
    )
