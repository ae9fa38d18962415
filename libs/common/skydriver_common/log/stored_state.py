"""The state of a scan as a row of ``manifests`` keeps it, and back: the one writer and the one reader of what is stored.

Replicas of two releases work on the same rows while an upgrade goes on. So the reader ignores what it does not know and carries it
over to the next row; what a row lacks has its default. The writer puts fields that the first release does not know beside its
parts, where that release never looks: its reader refuses a part with a field more.

A row says which version of the state wrote it. A row that an older release has written lacks what only newer ones fold; whoever
decides on such a scan folds it from the log first (``is_older``).
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from skydriver_common.faults import TryLater
from skydriver_common.model import event_codec
from skydriver_common.model.scan import STATE_VERSION, Ewms, Launch, ResultRef, Scan, Scanner

NEEDED_VERSION = 1
"""The oldest version of the state whose readers understand what we write. Raised only a release after all readers understand it."""

_MANIFEST = (
    "timestamp", "last_updated", "is_deleted", "scanner_server_args", "ewms_workflow_id", "ewms_address", "priority",
    "classifiers", "i3_event_id", "event_metadata", "scan_metadata", "progress", "replaced_by_scan_id",
)  # fmt: skip
"""Fields of the state that stand in the Manifest."""

_PARTS: dict[str, type[Any]] = {"launch": Launch, "result": ResultRef, "ewms": Ewms, "scanner": Scanner}
_FIRST_FIELDS: dict[str, tuple[str, ...]] = {
    "launch": (
        "state", "attempts", "taken_at", "launcher", "job", "restarts", "reason", "log_tail", "failures", "is_deferred", "stage",
        "trouble", "exit_code",
    ),
    "result": ("digest", "size_bytes", "is_final", "producer", "sequence"),
    "ewms": (
        "deactivated", "refused", "queues", "statuses", "n_running", "top_errors", "taskforces_added", "n_top_ups",
        "topped_up_at", "n_came_back", "place_in_line", "tokens_end_at", "are_tokens_ending", "is_startup_file_missing",
        "problems",
    ),
    "scanner": (
        "heard_at", "silent_since", "failure", "log_tail", "failure_producer", "failure_sequence", "producer", "took_over_at",
        "past_producers", "refusals", "ended_at",
    ),
}  # fmt: skip
"""Fields that the first release reads from each part. All others are written under ``added``, whatever they are called."""

_ADDED, _WRITTEN = "added", "written"
_OF_THE_ROW = ("scan_id", "version", "unknown", "written_by")
_FIRST_ORDER = ("request", "request_scan_id", "event_digest", "rescan_ids", *_PARTS, "producer", "sequence")
_BESIDE = (*_FIRST_ORDER, *(f.name for f in fields(Scan) if f.name not in (*_OF_THE_ROW, *_MANIFEST, *_FIRST_ORDER)))
"""Fields of the state beyond the Manifest, in the order in which they are written."""
_FIELDS = {name: tuple(f.name for f in fields(part)) for name, part in _PARTS.items()}
_ONLY_SERVED = ("scan_id", "ewms_task", "event_i3live_json_dict", "event_i3live_json_dict__hash")
"""Keys of the Manifest that are no fields of the state."""


class WrittenByNewer(TryLater):
    """A newer release has written what this one can't read: another replica can, or this one after its upgrade."""

    def __init__(self) -> None:
        super().__init__("a newer release wrote the state of this scan", 5.0)


def body(scan: Scan) -> bytes:
    """The Manifest as JSON, as it is stored and served."""
    manifest = scan.manifest()
    return event_codec.encode(manifest | scan.unknown["body"] if scan.unknown.get("body") else manifest)


def rest(scan: Scan) -> bytes:
    """What the state holds beyond the Manifest, as JSON."""
    content: dict[str, Any] = {}
    added: dict[str, dict[str, Any]] = {}
    for name in _BESIDE:
        value = getattr(scan, name)
        if name in _PARTS and value is not None:
            first = _FIRST_FIELDS[name]
            more = {each: getattr(value, each) for each in _FIELDS[name] if each not in first}
            value = {each: getattr(value, each) for each in first}
            if name in scan.unknown or more:
                added[name] = scan.unknown.get(name, {}) | more
        content[name] = value
    content |= scan.unknown.get("rest", {})
    if added:
        content[_ADDED] = added
    content[_WRITTEN] = {"by": STATE_VERSION, "for": max(NEEDED_VERSION, scan.unknown.get(_WRITTEN, {}).get("for", 1))}
    return event_codec.encode(content)


def scan_of_row(row: Any) -> Scan:
    """The state that a row of ``manifests`` holds (columns scan_id, version, body, rest).

    Raises WrittenByNewer when this release can't read it.
    """
    stored, manifest = event_codec.decode(row["rest"]), event_codec.decode(row["body"])
    written = stored.get(_WRITTEN, {})
    by = written.get("by", 1)
    if written.get("for", 1) > STATE_VERSION:
        raise WrittenByNewer
    added: dict[str, Any] = stored.get(_ADDED, {})
    unknown: dict[str, dict[str, Any]] = {}
    values: dict[str, Any] = {}
    for name in _BESIDE:
        if name in _PARTS and stored.get(name) is not None:
            everything = stored[name] | added.get(name, {})
            values[name] = event_codec.read_as(_PARTS[name], everything)
            _keep(unknown, name, everything, _FIELDS[name])
        elif name in stored:
            values[name] = stored[name]
    values["rescan_ids"] = tuple(values.get("rescan_ids", ()))
    values |= {name: manifest[name] for name in _MANIFEST if name in manifest}
    _keep(unknown, "rest", stored, (*_BESIDE, _ADDED, _WRITTEN))
    _keep(unknown, "body", manifest, (*_MANIFEST, *_ONLY_SERVED))
    if by > STATE_VERSION:
        unknown[_WRITTEN] = written
    return Scan(scan_id=row["scan_id"], version=row["version"], unknown=unknown, written_by=by, **values)


def is_older(scan: Scan) -> bool:
    """Whether an older release wrote the row this state was read from last: what only newer ones fold may be missing in it."""
    return scan.written_by < STATE_VERSION


def is_of_another_release(rest: bytes) -> bool:
    """Whether a release with another version of the state wrote this row."""
    return bool(event_codec.decode(rest).get(_WRITTEN, {}).get("by", 1) != STATE_VERSION)


def agree(ours: bytes, theirs: bytes) -> bool:
    """Whether two bodies or rests of different releases say the same of what both releases know."""
    mine, other = event_codec.decode(ours), event_codec.decode(theirs)
    for content in (mine, other):
        content.pop(_ADDED, None)
        content.pop(_WRITTEN, None)
    return all(
        _of_both(mine[name], other[name]) if name in _PARTS else event_codec.same_json(mine[name], other[name])
        for name in mine.keys() & other.keys()
    )


def _of_both(mine: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    if mine is None or other is None:
        return mine is other
    return all(event_codec.same_json(mine[name], other[name]) for name in mine.keys() & other.keys())


def _keep(unknown: dict[str, dict[str, Any]], place: str, found: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Note what stands in this place of a row beyond the names that this release knows."""
    if more := {name: value for name, value in found.items() if name not in known}:
        unknown[place] = more
