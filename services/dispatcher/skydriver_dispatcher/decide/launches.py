"""What becomes of the attempts to launch a scan. Pure. Source: REST contract 9.6."""

import re

from skydriver_common.model.events import (
    Event,
    LaunchAbandoned,
    LaunchAttempted,
    LaunchDeferred,
    LaunchFailed,
    ScanLaunched,
    ScannerFailed,
)
from skydriver_common.model.scan import Scan
from skydriver_common.model.stages import LaunchState


def must_not_run(scan: Scan | None) -> bool:
    """Whether no scanner server may be left: the scan was deleted, was abandoned, has failed, or the database does not know it."""
    return scan is None or scan.is_over


def decide_attempt(scan: Scan) -> list[Event]:
    """Return the event that counts one more attempt; nothing when the scan is not waiting, or repeats an attempt that was deferred."""
    return [LaunchAttempted(attempt=scan.launch.attempts + 1)] if scan.is_waiting and not scan.launch.is_deferred else []


def decide_launched(scan: Scan, *, launcher: str, job: str) -> list[Event]:
    """Record that the scanner server runs, or ran; nothing when the scan was deleted meanwhile (the caller then stops it)."""
    is_new = scan.launch.state == LaunchState.QUEUED and not scan.is_deleted
    return [ScanLaunched(launcher=launcher, job=job)] if is_new else []


def decide_deferred_launch(scan: Scan, reason: str) -> list[Event]:
    """Record that there is no capacity or no response: the scan keeps waiting, and the attempt does not count.

    Recorded once per reason; reasons that differ only in their figures are the same.
    """
    launch = scan.launch
    if not scan.is_waiting or (launch.is_deferred and _without_figures(launch.reason) == _without_figures(reason)):
        return []
    return [LaunchDeferred(reason=reason)]


def decide_failed_launch(scan: Scan, reason: str, *, is_final: bool, max_attempts: int) -> list[Event]:
    """Record a failed launch; the last attempt, or a failure that is final, abandons the scan."""
    if not scan.is_waiting:
        return []
    failures = scan.launch.failures + 1
    events: list[Event] = [LaunchFailed(attempt=max(1, scan.launch.attempts), reason=reason)]
    if is_final:
        events.append(LaunchAbandoned(reason=reason))
    elif failures >= max_attempts:
        events.append(LaunchAbandoned(reason=f"failed {failures} times; last error: {reason}"))
    return events


def decide_without_queues(scan: Scan) -> list[LaunchAbandoned | ScannerFailed]:
    """Fail a scan to which EWMS will never give queues: its scanner server would wait for them until its deadline.

    A workflow that is stopped after its queues came is the scanner server's own affair: it is told, and ends.
    """
    if not scan.may_run:
        return []
    if scan.ewms.refused:
        reason = scan.ewms.refused
    elif scan.ewms.deactivated and not scan.ewms.queues:
        reason = f"its EWMS workflow was stopped ({scan.ewms.deactivated}) before its queues were ready"
    else:
        return []
    return [LaunchAbandoned(reason=reason)] if scan.is_waiting else [ScannerFailed(reason=reason)]


def _without_figures(text: str) -> str:
    return re.sub(r"[0-9]+", "", text)
