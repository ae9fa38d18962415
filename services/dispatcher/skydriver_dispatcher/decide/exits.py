"""What the end of a scanner server means for its scan. Pure. Source: REST contract 9.6."""

from dataclasses import dataclass
from signal import Signals

from skydriver_common.model.commands import RescanScan
from skydriver_common.model.events import Event, ScannerFailed, ScannerLost, ScannerRestarted
from skydriver_common.model.ids import ScanId, created_at
from skydriver_common.model.rejections import Rejection
from skydriver_common.model.scan import Scan
from skydriver_common.model.stages import LaunchState
from skydriver_dispatcher.decide.requests import ScanEvents, decide_rescan

REFUSED_EXIT_CODE = 2
"""With this code a scanner server says that its input is wrong: starting it again can't help."""
MAX_RESTARTS = 3
"""Without progress in between."""
MAX_RECENT_RESTARTS, RESTARTS_WITHIN_S = 20, 36_000.0
"""Even with progress: a scanner server that does not keep its work could be restarted forever."""
MAX_REPLACEMENTS, REPLACEMENTS_WITHIN_S = 3, 36_000.0
LAUNCH_GRACE_S, MAX_LAUNCH_GRACES = 2.0, 60
"""A scanner server can end before the launch that started it is recorded: so long, and so often, its exit waits for that."""
BEHIND_S = 5.0
"""Between two checks whether what scanners have sent was processed, while it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """What to append when a scanner server was lost. new_scan_id: None when no further scan is started, and this one has failed."""

    events: ScanEvents
    new_scan_id: ScanId | None


def can_end(scan: Scan) -> bool:
    """Whether the end of its scanner server still means anything for this scan."""
    return scan.may_run and scan.launch.state == LaunchState.LAUNCHED


def grace_before_judging_s(scan: Scan, *, exit_code: int | None, has_arrived: bool, result_grace_s: float) -> float | None:
    """Return how long to wait before a new exit is judged; None: not at all.

    has_arrived: whether everything that scanners had sent by now has left the bus. A launch that is not recorded yet, or a final
    result that is still on its way, changes what the exit means.
    """
    if scan.is_waiting:
        return LAUNCH_GRACE_S
    return result_grace_s if exit_code == 0 or not has_arrived else None


def further_grace_s(
    scan: Scan | None, *, tries: int, has_arrived: bool, was_behind: bool, result_grace_s: float
) -> float | None:
    """Return how much longer an exit that was put off has to wait; None: judge it now.

    tries: how often it was due, this time included. was_behind: results were still on the bus the last time. What the broker has
    confirmed to the scanner counts, however late the service that consumes it comes to it.
    """
    if scan is None:
        return None
    if scan.is_waiting:
        return LAUNCH_GRACE_S if tries < MAX_LAUNCH_GRACES else None
    if not can_end(scan):
        return None
    if not has_arrived:
        return BEHIND_S
    return result_grace_s if was_behind else None  # whoever records the last result may hold it just now


def decide_last_exit(scan: Scan, *, exit_code: int | None, log_tail: str, cause: str) -> list[Event]:
    """Fail a scan whose scanner server ended by itself before the final result, where the launcher can't restart it in place."""
    if not can_end(scan):
        return []
    # shown after "The scanner server ended without a final result: "
    reason = cause or ("no reason given" if exit_code is None else f"its exit code was {exit_code}")
    return [ScannerFailed(reason=reason, exit_code=exit_code, log_tail=log_tail)]


def decide_exit(
    scan: Scan,
    *,
    exit_code: int | None,
    log_tail: str,
    was_planned: bool = False,
    has_progressed: bool = False,
    n_recent: int = 0,
) -> list[Event]:
    """Restart a scanner server that ended, where the launcher can restart it in place; fail the scan when that can't help.

    was_planned: it ended while no dispatcher ran, for example because the whole system was stopped; that does not count as its
    failure. has_progressed: it has reconstructed pixels since it was last started, so the count starts again. n_recent: restarts
    within ``RESTARTS_WITHIN_S``.
    """
    if not can_end(scan):
        return []
    if was_planned:
        return [
            ScannerRestarted(reason="the scanner server ended while SkyDriver was not running", restarts=scan.launch.restarts)
        ]
    if exit_code == REFUSED_EXIT_CODE:
        return [
            ScannerFailed(
                reason="the scanner rejected its input (exit code 2); see the end of its log",
                exit_code=exit_code,
                log_tail=log_tail,
            )
        ]
    how = _how_it_ended(exit_code)
    restarts = 0 if has_progressed else scan.launch.restarts
    if restarts >= MAX_RESTARTS:
        reason = f"the scanner server {how} after {restarts} restarts without progress, which is the limit"
        return [ScannerFailed(reason=reason, exit_code=exit_code, log_tail=log_tail)]
    if n_recent >= MAX_RECENT_RESTARTS:
        hours = RESTARTS_WITHIN_S / 3600
        reason = f"the scanner server {how} after {n_recent} restarts within {hours:g} h, which is the limit"
        return [ScannerFailed(reason=reason, exit_code=exit_code, log_tail=log_tail)]
    return [ScannerRestarted(reason=f"the scanner server {how}", restarts=restarts + 1)]


def decide_replacement(
    scan: Scan | None,
    original: Scan | None,
    *,
    new_scan_id: ScanId,
    reason: str,
    exit_code: int | None,
    log_tail: str,
    now: float,
) -> Replacement | None:
    """Continue a scan whose scanner server was taken away as a new scan, unless that happened too often already.

    original: the scan that holds the request. None: the scan has ended meanwhile. Readers of the old scan are sent to the new one.
    Source: REST contract 9.6.
    """
    if scan is None or original is None or not can_end(scan):
        return None
    if why_not := too_many_replacements(original, now=now):
        failed = ScannerFailed(reason=f"{reason}; {why_not}", exit_code=exit_code, log_tail=log_tail)
        return Replacement(events=[(scan.scan_id, failed)], new_scan_id=None)
    command = RescanScan(scan_id=scan.scan_id, new_scan_id=new_scan_id, abort_first=True, replace_scan=True)
    rescan = decide_rescan(scan, original, command, now=now)
    assert not isinstance(rescan, Rejection)  # both scans are known
    lost = ScannerLost(reason=reason, exit_code=exit_code, log_tail=log_tail)
    return Replacement(events=[(scan.scan_id, lost), *rescan], new_scan_id=new_scan_id)


def too_many_replacements(original: Scan, *, now: float) -> str:
    """Return why a scan of this request is not replaced once more; empty when it is. Source: REST contract 9.6.

    original: the scan that holds the request. Every rescan counts, whoever asked for it; a scan id contains its time.
    """
    recent = sum(now - created_at(ScanId(scan_id)) < REPLACEMENTS_WITHIN_S for scan_id in original.rescan_ids)
    if recent < MAX_REPLACEMENTS:
        return ""
    return f"not restarted: {recent} scans of this request were started within {REPLACEMENTS_WITHIN_S / 3600:g} h, which is the limit"


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is None:
        return "disappeared"
    if exit_code < 0:
        try:
            return f"was killed by {Signals(-exit_code).name}"
        except ValueError:
            return f"was killed by signal {-exit_code}"
    return f"ended with exit code {exit_code}"
