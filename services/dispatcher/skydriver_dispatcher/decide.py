"""Request, rescan, delete, launch, give up: pure."""

from typing import Any

from skydriver_common.model.commands import DeleteScan, RequestScan, RescanScan
from skydriver_common.model.events import (
    Event,
    LaunchAbandoned,
    LaunchAttempted,
    LaunchFailed,
    ScanDeleted,
    ScanLaunched,
    ScannerFailed,
    ScannerRestarted,
    ScanRequested,
)
from skydriver_common.model.rejections import Code, Rejection
from skydriver_common.model.scan import Scan
from skydriver_common.model.scanner_args import scanner_server_args

REFUSED_EXIT_CODE = 2
"""With this code a scanner server says that its input is wrong: starting it again can't help."""
MAX_RESTARTS = 3


def unknown(scan_id: str) -> Rejection:
    """No such scan."""
    return Rejection(Code.SCAN_UNKNOWN, f"Scan {scan_id} is not known")


def decide_request(command: RequestScan, event_digest: str | None, *, now: float) -> ScanRequested | Rejection:
    """A new scan. event_digest: of the stored event when the command brings none; None: there is no such event.

    Source: REST contract 4.5.
    """
    digest = command.event_digest or event_digest
    if digest is None:
        return Rejection(Code.EVENT_UNKNOWN, "i3_event_id: no event with this id is stored", ("i3_event_id",))
    return _requested(command.request, command.scan_id, digest, command.request["classifiers"], now)


def decide_rescan(original: Scan, command: RescanScan, *, now: float) -> ScanRequested:
    """A new scan from the request that ``original`` holds. Source: REST contract 4.6."""
    classifiers = {**original.request["classifiers"], "rescan": True, "origin_scan_id": command.scan_id}
    return _requested(original.request, original.scan_id, original.event_digest, classifiers, now)


def decide_delete(scan: Scan, command: DeleteScan) -> list[Event] | Rejection:
    """Hide and stop; a completed scan needs consent. Source: REST contract 4.8."""
    if scan.has_final_result and not command.delete_completed_scan:
        return Rejection(
            Code.SCAN_IS_COMPLETE,
            "delete_completed_scan: the scan has its final result; set this to true to delete it all the same",
            ("delete_completed_scan",),
        )
    return [ScanDeleted()]


def decide_attempt(scan: Scan) -> list[Event]:
    """Take the scan from the backlog; nothing when it does not wait any more."""
    return [LaunchAttempted(attempt=scan.launch.attempts + 1)] if scan.is_waiting else []


def decide_launched(scan: Scan, *, launcher: str, job: str) -> list[Event]:
    """The scanner server runs; nothing when the scan was deleted meanwhile (the caller then stops it)."""
    return [ScanLaunched(launcher=launcher, job=job)] if scan.is_waiting else []


def decide_failed_launch(scan: Scan, reason: str, *, is_final: bool, max_attempts: int) -> list[Event]:
    """The launch failed: try again, or give up, visibly."""
    if not scan.is_waiting:
        return []
    events: list[Event] = [LaunchFailed(attempt=scan.launch.attempts, reason=reason)]
    if is_final:
        events.append(LaunchAbandoned(reason=reason))
    elif scan.launch.attempts >= max_attempts:
        events.append(LaunchAbandoned(reason=f"given up after {scan.launch.attempts} attempts: {reason}"))
    return events


def decide_exit(scan: Scan, *, exit_code: int | None, log_tail: str) -> list[Event]:
    """The scanner server ended: fine after the final result, a failure when it refused its input, else start it again."""
    if not scan.may_run or scan.launch.state != "launched":
        return []
    if exit_code == REFUSED_EXIT_CODE:
        return [ScannerFailed(reason="the scanner refused its input", exit_code=exit_code, log_tail=log_tail)]
    how = "disappeared" if exit_code is None else f"ended with exit code {exit_code}"
    if scan.launch.restarts >= MAX_RESTARTS:
        reason = f"the scanner server {how} and had been restarted {scan.launch.restarts} times"
        return [ScannerFailed(reason=reason, exit_code=exit_code, log_tail=log_tail)]
    return [ScannerRestarted(reason=f"the scanner server {how}", restarts=scan.launch.restarts + 1)]


def _requested(
    request: dict[str, Any], request_scan_id: str, digest: str, classifiers: dict[str, Any], now: float
) -> ScanRequested:
    return ScanRequested(
        requested_at=now,
        request=request,
        request_scan_id=request_scan_id,
        event_digest=digest,
        classifiers=classifiers,
        scanner_server_args=scanner_server_args(request),
    )
