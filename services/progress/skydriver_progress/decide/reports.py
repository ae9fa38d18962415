"""What one report changes: the newest report wins, metadata is set once, a final result stays; and who may still report."""

from typing import cast

from skydriver_common.model.commands import PatchManifest, PutResult
from skydriver_common.model.event_codec import same_json
from skydriver_common.model.events import (
    Event,
    EventMetadataSet,
    FailureReported,
    ProgressReported,
    ResultReceived,
    ScanMetadataSet,
    ScannerTookOver,
)
from skydriver_common.model.ids import ScanId
from skydriver_common.model.progress_report import ProgressReport, is_finished
from skydriver_common.model.rejections import Code, Rejection, scan_not_found
from skydriver_common.model.scan import ResultRef, Scan
from skydriver_common.model.scan_tokens import is_last_word
from skydriver_progress.reports import ReportFailure, ScannerReport
from skydriver_scanner.protocol import FAILURE, PROGRESS, RESULT

LATE_S = 120.0
"""While a process of the scanner was heard within this time, reports of the processes before it are late: accepted without effect."""
MAX_LOG_TAIL_CHARACTERS = 16_384


def unknown_scan(scan_id: ScanId) -> Rejection:
    """Return the rejection for a scan that does not exist."""
    return scan_not_found(scan_id)


def decide_report(scan: Scan, report: ScannerReport, now: float, *, failed_at: float | None = None) -> list[Event] | Rejection:
    """Decide on a message on the bus, of any kind. now: Unix seconds.

    failed_at: when a redriven message failed first, in Unix seconds (0.0: unknown); None: it was not redriven.
    """
    if isinstance(report, PatchManifest):
        return decide_patch(scan, report, now, failed_at=failed_at)
    if isinstance(report, PutResult):
        return decide_result(scan, report, failed_at=failed_at)
    return decide_failure(scan, report, failed_at=failed_at)


def decide_patch(scan: Scan, command: PatchManifest, now: float, *, failed_at: float | None = None) -> list[Event] | Rejection:
    """Decide on progress and metadata. now: Unix seconds. failed_at: see ``decide_report``. Source: REST contract 4.10.

    Metadata is set once: equal metadata is accepted without effect, other metadata rejects the whole command, the progress included.
    """
    events: list[Event] = []
    if command.event_metadata:
        if scan.event_metadata is None:
            events.append(EventMetadataSet(event_metadata=command.event_metadata))
        elif not same_json(scan.event_metadata, command.event_metadata):
            return _reject_other_metadata("event_metadata")
    if command.scan_metadata:
        if scan.scan_metadata is None:
            events.append(ScanMetadataSet(scan_metadata=command.scan_metadata))
        elif not same_json(scan.scan_metadata, command.scan_metadata):
            return _reject_other_metadata("scan_metadata")
    if command.progress and not _is_late(scan, command, now, failed_at):
        if command.producer and command.producer != scan.scanner.producer:
            events.append(ScannerTookOver(producer=command.producer))
        if _changes_state(scan, command):
            # over REST there is no number: such a report stands where the last one on the bus stood
            producer, sequence = (command.producer, command.sequence) if command.producer else (scan.producer, scan.sequence)
            events.append(ProgressReported(progress=command.progress, producer=producer, sequence=sequence))
    return events


def decide_result(scan: Scan, command: PutResult, *, failed_at: float | None = None) -> list[Event]:
    """Decide on a skymap: a final one is never replaced by a partial one, nor superseded by a partial one with a higher number.

    failed_at: see ``decide_report``. Source: REST contract 4.12.
    """
    stored = scan.result
    offered = ResultRef(digest=command.digest, size_bytes=command.size_bytes, is_final=command.is_final)
    if scan.has_final_result and not command.is_final:
        return []
    ends_the_scan = command.is_final and not scan.has_final_result
    same_sender = stored is not None and bool(command.producer) and command.producer == stored.producer
    if not ends_the_scan:
        if same_sender and stored is not None and command.sequence <= stored.sequence:
            return []
        if _is_superseded(scan, command.producer, failed_at):
            return []
    if offered.is_same_as(stored) and not (same_sender and not command.is_final):
        return []
    return [
        ResultReceived(
            digest=command.digest, size_bytes=command.size_bytes, is_final=command.is_final,
            producer=command.producer, sequence=command.sequence,
        )
    ]  # fmt: skip


def decide_failure(scan: Scan, report: ReportFailure, *, failed_at: float | None = None) -> list[Event]:
    """Decide on a failure that a scanner reported; the same report again changes nothing. failed_at: see ``decide_report``."""
    scanner = scan.scanner
    if report.producer == scanner.failure_producer and report.sequence <= scanner.failure_sequence:
        return []
    if _is_superseded(scan, report.producer, failed_at):
        return []
    return [
        FailureReported(
            reason=report.reason,
            log_tail=report.log_tail[-MAX_LOG_TAIL_CHARACTERS:],
            producer=report.producer,
            sequence=report.sequence,
        )
    ]


def was_sent_in_time(scan: Scan, kind: str, producer: str, sequence: int, *, is_final: bool = False) -> bool:
    """Whether a report that is handled after the end of the scan's token was sent before it.

    That is judged by its number, not by the time of handling: it is the next one of the process that was heard, which a replay cannot
    be. Where no process was heard, all reports have waited for this service. is_final: of a result, which no partial one supersedes.
    """
    if scan.is_deleted:
        return False
    if scan.has_final_result:
        return kind == PROGRESS and is_last_word(scan, producer, sequence)
    result, scanner = scan.result, scan.scanner
    last = {
        PROGRESS: (scan.producer, scan.sequence),
        RESULT: (result.producer, result.sequence) if result is not None else ("", 0),
        FAILURE: (scanner.failure_producer, scanner.failure_sequence),
    }
    heard = {scanner.producer, *(each for each, _ in last.values())} - {""}
    if not heard:
        return scan.progress is None and result is None
    last_producer, last_sequence = last.get(kind, ("", 0))
    return producer in heard and (is_final or last_producer != producer or sequence > last_sequence)


def _is_late(scan: Scan, command: PatchManifest, now: float, failed_at: float | None) -> bool:
    """Whether a newer report was accepted: of the same process by its number, or of a later process that is still heard.

    Not for ever, because the two processes may have been taken in the wrong order. But a redriven message is old in any case.
    """
    if command.producer and command.producer == scan.producer and command.sequence <= scan.sequence:
        return True
    if _is_superseded(scan, command.producer, failed_at):
        return True
    if command.producer not in scan.scanner.past_producers:
        return False
    if failed_at is not None or now - scan.scanner.took_over_at < LATE_S:
        return True
    is_active = (
        scan.result is not None and scan.result.producer == command.producer
    )  # the process that was heard lately is this one itself
    return now - scan.scanner.heard_at < LATE_S and not is_active


def _is_superseded(scan: Scan, producer: str, failed_at: float | None) -> bool:
    """Whether a redriven report first failed before the last report of another process of the scanner."""
    return failed_at is not None and failed_at < _other_process_heard_at(scan, producer)


def _other_process_heard_at(scan: Scan, producer: str) -> float:
    """Return when another process than this one was heard last, as far as is known, in Unix seconds; 0.0: never."""
    scanner, result = scan.scanner, scan.result
    others_result = result is not None and result.producer != producer
    # no other process can have reported since then, if the last report was this one's
    others_end = scanner.ended_at if others_result and scan.has_final_result and scanner.ended_at is not None else 0.0
    current = scanner.producer or (result.producer if result is not None else scanner.failure_producer)
    if current == producer or not scanner.heard_at or (not current and not others_result):
        return others_end
    own_reports = {scanner.failure_producer, result.producer if result is not None else ""}
    return max(others_end, scanner.took_over_at if producer in own_reports else scanner.heard_at)


def _changes_state(scan: Scan, command: PatchManifest) -> bool:
    """Whether the report differs from what is stored, and may replace it."""
    if scan.progress is None or command.progress is None:
        return True
    if is_finished(scan.progress) and not is_finished(cast(ProgressReport, command.progress)):
        return False  # the late repeat of a timed-out request (contract 4.10)
    # a higher number on the bus counts even if the content is the same: otherwise a late one in between would replace it
    return bool(command.producer) or not same_json(scan.progress, command.progress)


def _reject_other_metadata(field: str) -> Rejection:
    return Rejection(Code.METADATA_IS_SET, f"{field}: already set to a different value; cannot be changed", (field,))
