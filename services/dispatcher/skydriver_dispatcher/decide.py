"""Request, rescan, delete, launch, give up: pure."""

import re
from enum import Enum, auto
from signal import Signals
from typing import Any

from skydriver_common.model.commands import DeleteScan, RequestScan, RescanScan
from skydriver_common.model.events import (
    Event,
    LaunchAbandoned,
    LaunchAttempted,
    LaunchDeferred,
    LaunchFailed,
    ScanDeleted,
    ScanLaunched,
    ScannerFailed,
    ScannerRestarted,
    ScannerStageChanged,
    ScanRequested,
)
from skydriver_common.model.ids import ScanId, created_at
from skydriver_common.model.rejections import Code, Rejection, scan_not_found
from skydriver_common.model.scan import Scan
from skydriver_common.model.scanner_args import scanner_server_args
from skydriver_common.model.stages import LaunchState, ScannerStage

REFUSED_EXIT_CODE = 2
"""With this code a scanner server says that its input is wrong: starting it again can't help."""
MAX_RESTARTS = 3
"""Without progress in between."""
MAX_RECENT_RESTARTS, RESTARTS_WITHIN_S = 20, 36_000.0
"""Even with progress: a scanner server that does not keep its work could go round for ever."""
MAX_REPLACEMENTS, REPLACEMENTS_WITHIN_S = 3, 36_000.0
SMALL_DIVERGENCE, DOUBTFUL_SHARE = 3, 0.5
"""Up to so many scans may differ without a second look. From so many on, and more than such a share of all, it is rather a mistake
of ours."""


def unknown(scan_id: ScanId) -> Rejection:
    """No such scan."""
    return scan_not_found(scan_id)


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
    """Take the scan from the backlog; nothing when it does not wait any more, or still tries what was put off."""
    return [LaunchAttempted(attempt=scan.launch.attempts + 1)] if scan.is_waiting and not scan.launch.is_deferred else []


def decide_launched(scan: Scan, *, launcher: str, job: str) -> list[Event]:
    """The scanner server runs, or ran; nothing when the scan was deleted meanwhile (the caller then stops it)."""
    is_new = scan.launch.state == LaunchState.QUEUED and not scan.is_deleted
    return [ScanLaunched(launcher=launcher, job=job)] if is_new else []


def decide_deferred_launch(scan: Scan, reason: str) -> list[Event]:
    """No room or no answer: the scan waits on, without using an attempt up. Told once per reason (figures may differ)."""
    launch = scan.launch
    if not scan.is_waiting or (launch.is_deferred and _without_figures(launch.reason) == _without_figures(reason)):
        return []
    return [LaunchDeferred(reason=reason)]


def decide_failed_launch(scan: Scan, reason: str, *, is_final: bool, max_attempts: int) -> list[Event]:
    """The launch failed: try again, or give up, visibly."""
    if not scan.is_waiting:
        return []
    failures = scan.launch.failures + 1
    events: list[Event] = [LaunchFailed(attempt=max(1, scan.launch.attempts), reason=reason)]
    if is_final:
        events.append(LaunchAbandoned(reason=reason))
    elif failures >= max_attempts:
        events.append(LaunchAbandoned(reason=f"given up after {failures} attempts: {reason}"))
    return events


def decide_stage(scan: Scan, *, stage: ScannerStage, code: str, text: str) -> list[Event]:
    """The scanner server came further, or something holds it up; told on change, and not for each wording of the same."""
    if not scan.may_run or (scan.launch.stage, scan.launch.trouble.get("code", "")) == (stage, code):
        return []
    return [ScannerStageChanged(stage=stage, code=code, text=text)]


def decide_without_queues(scan: Scan) -> list[LaunchAbandoned | ScannerFailed]:
    """Its scanner server would wait for queues until its deadline, since EWMS will not give it any: it has failed.

    A workflow that is stopped after its queues came is the scanner server's own affair: it is told, and ends.
    """
    if not scan.may_run:
        return []
    if scan.ewms.refused:
        reason = scan.ewms.refused
    elif scan.ewms.deactivated and not scan.ewms.queues:
        reason = f"its workflow was stopped at EWMS ({scan.ewms.deactivated}) before it had its queues"
    else:
        return []
    return [LaunchAbandoned(reason=reason)] if scan.is_waiting else [ScannerFailed(reason=reason)]


def can_end(scan: Scan) -> bool:
    """Whether the end of its scanner server still means anything for this scan."""
    return scan.may_run and scan.launch.state == LaunchState.LAUNCHED


def decide_last_exit(scan: Scan, *, exit_code: int | None, log_tail: str, cause: str) -> list[Event]:
    """The scanner server ended by itself, before the final result, where no second one is started for the same scan."""
    if not can_end(scan):
        return []
    reason = cause or "it ended without a final result"
    return [ScannerFailed(reason=f"the scanner server failed: {reason}", exit_code=exit_code, log_tail=log_tail)]


def too_many_replacements(original: Scan, *, now: float) -> str:
    """Why a scan of this request is not replaced once more, or nothing when it is. Source: REST contract 9.6.

    original: the scan that holds the request. Every rescan counts, whoever asked for it; a scan id tells its time.
    """
    recent = sum(now - created_at(ScanId(scan_id)) < REPLACEMENTS_WITHIN_S for scan_id in original.rescan_ids)
    if recent < MAX_REPLACEMENTS:
        return ""
    return f"it is not started again: {recent} scans of the same request in {REPLACEMENTS_WITHIN_S / 3600:g} hours are enough"


class Divergence(Enum):
    """How much database and cluster differ. SMALL: act. MASS: act when a second look shows it, too. DOUBTFUL: one is the wrong one."""

    SMALL = auto()
    MASS = auto()
    DOUBTFUL = auto()


def judge_divergence(number: int, of: int) -> Divergence:
    """What it means that so many of so many scans differ between database and cluster."""
    if number >= SMALL_DIVERGENCE and number > of * DOUBTFUL_SHARE:
        return Divergence.DOUBTFUL
    return Divergence.MASS if number > SMALL_DIVERGENCE else Divergence.SMALL


def decide_exit(
    scan: Scan,
    *,
    exit_code: int | None,
    log_tail: str,
    was_planned: bool = False,
    has_progressed: bool = False,
    n_recent: int = 0,
) -> list[Event]:
    """The scanner server ended: fine after the final result, a failure when it refused its input, else start it again.

    was_planned: it ended while nobody watched, with the whole system say, which is not its fault and is not counted. has_progressed:
    it has reconstructed something since it was last started, so the count starts again. n_recent: how often it was started again lately.
    """
    if not can_end(scan):
        return []
    if was_planned:
        return [
            ScannerRestarted(reason="the scanner server ended while SkyDriver was not running", restarts=scan.launch.restarts)
        ]
    if exit_code == REFUSED_EXIT_CODE:
        return [ScannerFailed(reason="the scanner refused its input", exit_code=exit_code, log_tail=log_tail)]
    how = _how_it_ended(exit_code)
    restarts = 0 if has_progressed else scan.launch.restarts
    if restarts >= MAX_RESTARTS:
        reason = f"the scanner server {how} and had been restarted {restarts} times without progress"
        return [ScannerFailed(reason=reason, exit_code=exit_code, log_tail=log_tail)]
    if n_recent >= MAX_RECENT_RESTARTS:
        hours = RESTARTS_WITHIN_S / 3600
        reason = f"the scanner server {how} and had been restarted {n_recent} times in {hours:g} hours"
        return [ScannerFailed(reason=reason, exit_code=exit_code, log_tail=log_tail)]
    return [ScannerRestarted(reason=f"the scanner server {how}", restarts=restarts + 1)]


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is None:
        return "disappeared"
    if exit_code < 0:
        try:
            return f"was killed by {Signals(-exit_code).name}"
        except ValueError:
            return f"was killed by signal {-exit_code}"
    return f"ended with exit code {exit_code}"


def has_reconstructed(progress: dict[str, Any] | None) -> bool:
    """Whether a report says that pixels were done. Source: REST contract 5.1.2 (``rate`` is empty before the first)."""
    stats = (progress or {}).get("processing_stats")
    return isinstance(stats, dict) and bool(stats.get("rate"))


def _requested(
    request: dict[str, Any], request_scan_id: ScanId, digest: str, classifiers: dict[str, Any], now: float
) -> ScanRequested:
    return ScanRequested(
        requested_at=now,
        request=request,
        request_scan_id=request_scan_id,
        event_digest=digest,
        classifiers=classifiers,
        scanner_server_args=scanner_server_args(request),
    )


def _without_figures(text: str) -> str:
    return re.sub(r"[0-9]+", "", text)
