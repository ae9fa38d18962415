"""A scanner that reports nothing although its job is running: when that counts as silence, and when to check again."""

from dataclasses import dataclass
from typing import Any

from skydriver_common.model.events import Event, ScannerSilent
from skydriver_common.model.progress_report import has_reconstructed
from skydriver_common.model.scan import Scan
from skydriver_common.model.stages import LaunchState

_MIN_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceCheck:
    """The outcome of one check. check_again_after_s: None when nothing is expected of the scanner any more.

    note: what the next check has to know, JSON-native, to be stored with its due time.
    """

    events: list[Event]
    check_again_after_s: float | None
    note: dict[str, Any]


def is_expected(scan: Scan) -> bool:
    """Whether the scan's scanner should report: it was launched, and the scan has not ended."""
    return scan.may_run and scan.launch.state == LaunchState.LAUNCHED


def may_be_silent(scan: Scan) -> bool:
    """Whether silence is natural: the scanner has no node, or it has reported and no worker runs. Source: scanner contract 3, 6.

    It reports when a reconstruction arrives. Where nothing is known of workers, those of a scan that has begun are taken to run.
    """
    if not scan.launch.has_node:
        return True
    if scan.progress is None or scan.ewms.n_running > 0:
        return False
    return bool(scan.ewms.statuses) or not has_reconstructed(scan.progress)


def decide_silence(scan: Scan, now: float, limit_s: float, *, since: float = 0.0) -> list[Event]:
    """Record that the scanner is silent, once. now: Unix seconds. since: when silence was last seen to be natural."""
    scanner = scan.scanner
    silent_s = now - max(scanner.heard_at, since)
    if not is_expected(scan) or may_be_silent(scan) or scanner.silent_since is not None or silent_s < limit_s:
        return []
    return [ScannerSilent(since=scanner.heard_at)]


def check_silence(scan: Scan, now: float, limit_s: float, note: dict[str, Any]) -> SilenceCheck:
    """Check one scan. now: Unix seconds. note: of the check before, empty at the first."""
    is_natural = may_be_silent(scan)
    # seen at checks only: when the first worker runs it may have begun just now
    since = now if is_natural or note.get("is_natural") else float(note.get("since", 0.0))
    events = decide_silence(scan, now, limit_s, since=since)
    again_s: float | None = None
    if is_expected(scan):
        has_reported_lately = scan.scanner.silent_since is None and not events and not is_natural
        again_s = max(_MIN_PAUSE_S, max(scan.scanner.heard_at, since) + limit_s - now) if has_reported_lately else limit_s
    return SilenceCheck(events=events, check_again_after_s=again_s, note={"is_natural": is_natural, "since": since})
