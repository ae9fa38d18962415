"""Newest report wins, metadata once, partial then final result: pure."""

from skydriver_common.model.commands import PatchManifest, PutResult
from skydriver_common.model.events import Event, EventMetadataSet, ProgressReported, ResultReceived, ScanMetadataSet
from skydriver_common.model.rejections import Code, Rejection
from skydriver_common.model.scan import ResultRef, Scan
from skydriver_common.model.wire import same_json


def unknown(scan_id: str) -> Rejection:
    """No such scan."""
    return Rejection(Code.SCAN_UNKNOWN, f"Scan {scan_id} is not known")


def decide_patch(scan: Scan, command: PatchManifest) -> list[Event] | Rejection:
    """What a report changes. Source: REST contract 4.10.

    Metadata is put once: an equal one is accepted silently, another one refuses the whole command, the progress included.
    """
    events: list[Event] = []
    if command.event_metadata:
        if scan.event_metadata is None:
            events.append(EventMetadataSet(event_metadata=command.event_metadata))
        elif not same_json(scan.event_metadata, command.event_metadata):
            return _is_set("event_metadata")
    if command.scan_metadata:
        if scan.scan_metadata is None:
            events.append(ScanMetadataSet(scan_metadata=command.scan_metadata))
        elif not same_json(scan.scan_metadata, command.scan_metadata):
            return _is_set("scan_metadata")
    if command.progress and _is_news(scan, command):
        events.append(ProgressReported(progress=command.progress, producer=command.producer, sequence=command.sequence))
    return events


def decide_result(scan: Scan, command: PutResult) -> list[Event]:
    """What a skymap changes: a final one is never replaced by a partial one. Source: REST contract 4.12."""
    offered = ResultRef(digest=command.digest, size_bytes=command.size_bytes, is_final=command.is_final)
    if scan.result == offered or (scan.has_final_result and not command.is_final):
        return []
    return [ResultReceived(digest=command.digest, size_bytes=command.size_bytes, is_final=command.is_final)]


def _is_news(scan: Scan, command: PatchManifest) -> bool:
    """Whether the report is newer than what is stored and says something else."""
    if scan.progress is None or command.progress is None:
        return True
    if command.producer and command.producer == scan.producer and command.sequence <= scan.sequence:
        return False
    was_finished = scan.progress["processing_stats"]["finished"]
    if was_finished and not command.progress["processing_stats"]["finished"]:
        return False  # the late repeat of a timed-out request (contract 4.10)
    return not same_json(scan.progress, command.progress)


def _is_set(field: str) -> Rejection:
    return Rejection(Code.METADATA_IS_SET, f"{field}: is set already, to another value, and can't be changed", (field,))
