"""What becomes of a rejected message: which rejections are recorded as events, and which messages are kept as dead letters."""

from collections import OrderedDict

from skydriver_common.model.events import Event, ReportRefused, UnknownScanReportRefused
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_progress.reports import ReportCode, ReportRejection

REPEAT_AFTER_S = 3600.0
"""The same rejection of the same scan is recorded once in this time: one sender must not fill the log."""
MAX_KEPT = 100
"""Rejected messages of one scan with one code that are kept as dead letters; further ones are only counted."""
_MAX_GROUPS = 10_000


def decide_rejected(scan: Scan, kind: str, rejection: ReportRejection, now: float) -> list[Event]:
    """Record that a message of this scan was rejected, unless the same was recorded lately. now: Unix seconds."""
    recorded_at = scan.scanner.refusals.get(rejection.code)
    if recorded_at is not None and now - recorded_at < REPEAT_AFTER_S:
        return []
    return [ReportRefused(kind=kind, code=rejection.code.value, reason=rejection.reason)]


def decide_rejected_without_scan(kind: str, rejection: ReportRejection, now: float) -> tuple[str, UnknownScanReportRefused]:
    """Record that a message of no known scan was rejected. now: Unix seconds.

    Returns the id under which it is recorded, the same for each kind and code during one hour in all replicas, and the event.
    """
    command_id = f"refused:{kind}:{rejection.code}:{int(now // REPEAT_AFTER_S)}"
    return command_id, UnknownScanReportRefused(kind=kind, code=rejection.code.value, reason=rejection.reason)


def is_always_kept(rejection: ReportRejection, *, is_redriven: bool) -> bool:
    """Whether a rejected message becomes a dead letter however many there are: it met a bug, or an operator has redriven it."""
    return is_redriven or rejection.code is ReportCode.FAILED


def is_kept(number: int, *, max_kept: int = MAX_KEPT) -> bool:
    """Whether any other rejected message becomes a dead letter. number: how many of its scan and code there were, it included."""
    return number <= max_kept


class RejectionCounter:
    """Counts rejections by scan and code, in this process. The groups that were met longest ago are forgotten first."""

    def __init__(self, *, max_groups: int = _MAX_GROUPS) -> None:
        self._max_groups = max_groups
        self._counts: OrderedDict[tuple[ScanId | None, str], int] = OrderedDict()

    def __len__(self) -> int:
        """Groups that are remembered."""
        return len(self._counts)

    def count(self, scan_id: ScanId | None, code: str) -> int:
        """Count one more; return how many there were, this one included."""
        group = (scan_id, code)
        self._counts[group] = self._counts.pop(group, 0) + 1
        if len(self._counts) > self._max_groups:
            self._counts.popitem(last=False)
        return self._counts[group]
