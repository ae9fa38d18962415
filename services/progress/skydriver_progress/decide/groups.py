"""A group of messages: what one batch holds of one scan and one producer. The README has an example."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from skydriver_common.model.commands import PatchManifest, PutResult
from skydriver_common.model.events import Event
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Rejection
from skydriver_common.model.scan import Scan
from skydriver_common.model.scan_tokens import token_has_ended
from skydriver_progress.decide.rejections import decide_rejected
from skydriver_progress.decide.reports import decide_report, was_sent_in_time
from skydriver_progress.incoming import IncomingReport
from skydriver_progress.reports import ReportCode, ReportRejection, ScannerReport
from skydriver_scanner.protocol import PROGRESS


class ScanChanges(Protocol):
    """A scan, and the events that were decided on so far."""

    @property
    def scan(self) -> Scan:
        """The scan, with these events."""
        ...

    def append(self, events: Sequence[Event], *, cause: IncomingReport, needed_blob: str | None = None) -> None:
        """Add events. cause: the message. needed_blob: the digest of the blob they refer to."""
        ...


def group_by_producer(items: Sequence[IncomingReport]) -> list[list[IncomingReport]]:
    """Messages of one scan and one producer together, in order of their numbers; groups in order of their first message."""
    groups: dict[tuple[ScanId | None, str], list[IncomingReport]] = {}
    for item in items:
        groups.setdefault((item.scan_id, item.producer), []).append(item)
    for group in groups.values():
        if len(group) > 1:
            group.sort(key=_sequence)
    return list(groups.values())


def decide_group(
    changes: ScanChanges, group: Sequence[IncomingReport], now: float, *, coalesces: bool, token_grace_s: float
) -> None:
    """Decide on a group, in the order of its numbers; those that are rejected get their rejection.

    now: Unix seconds. coalesces: of the progress reports accept the newest only. token_grace_s: how long the scan's token outlives it.
    """
    scan = changes.scan
    if token_has_ended(scan, now, token_grace_s):
        for item in group:
            if item.rejection is None and not _was_sent_in_time(scan, item, token_grace_s):
                item.rejection = ReportRejection(ReportCode.TOKEN_ENDED, "the scan has ended; its token is no longer valid")
    accepted = [item for item in group if item.rejection is None]
    newest = _decide_newest(changes, accepted, now) if coalesces else None
    has_metadata = scan.event_metadata is not None and scan.scan_metadata is not None
    for item in accepted:
        # the progress of the others is superseded; their metadata counts, while the scan has none
        if item is newest or (newest is not None and item.report is None and has_metadata):
            continue
        report = item.parsed_report()
        if report is not None:
            _decide_one(changes, item, report if newest is None else _without_progress(report), now)
    for item in group:
        if item.rejection is not None:
            changes.append(decide_rejected(changes.scan, item.kind, item.rejection, now), cause=item)


def reject_unknown_scan(group: Sequence[IncomingReport]) -> None:
    """Reject all messages of a group whose scan does not exist; those that were rejected already keep their reason."""
    for item in group:
        item.rejection = item.rejection or ReportRejection(ReportCode.SCAN_UNKNOWN, "scan not found")


def _decide_newest(changes: ScanChanges, group: Sequence[IncomingReport], now: float) -> IncomingReport | None:
    """Decide on the newest progress report that is accepted; None when there is none.

    No later report replaces one that says finished: so the newest of those is decided on, if there is one.
    """
    finished = [item for item in group if item.is_finished()]
    for item in (*reversed(finished), *reversed(group)):
        report = item.parsed_report() if item.kind == PROGRESS else None
        if isinstance(report, PatchManifest) and report.progress and _decide_one(changes, item, report, now):
            return item
    return None


def _decide_one(changes: ScanChanges, item: IncomingReport, report: ScannerReport, now: float) -> bool:
    """Decide on one report; False when it is rejected."""
    match decide_report(changes.scan, report, now, failed_at=item.message.failed_at):
        case Rejection() as rejection:
            item.rejection = ReportRejection(rejection.code, rejection.reason)
            return False
        case events:
            changes.append(events, cause=item, needed_blob=report.digest if events and isinstance(report, PutResult) else None)
            return True


def _was_sent_in_time(scan: Scan, item: IncomingReport, token_grace_s: float) -> bool:
    """Whether a message that is handled after the end of its scan's token was sent before, or failed here before."""
    failed_at = item.message.failed_at
    if failed_at and not token_has_ended(scan, failed_at, token_grace_s):
        return True
    if item.envelope is None:
        return False
    is_final = isinstance(item.report, PutResult) and item.report.is_final
    return was_sent_in_time(scan, item.kind, item.producer, item.sequence, is_final=is_final)


def _without_progress(report: ScannerReport) -> ScannerReport:
    return replace(report, progress=None) if isinstance(report, PatchManifest) else report


def _sequence(item: IncomingReport) -> int:
    return item.sequence
