"""From a scan's state to the rows of every view: the only writer of views (``log/stored_state.py`` has the way back).

The same functions serve the live system and a rebuild, so the two can't differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from skydriver_common.db.pool import Connection
from skydriver_common.log import stored_state
from skydriver_common.model import event_codec
from skydriver_common.model.priorities import rank
from skydriver_common.model.problems import problems_of
from skydriver_common.model.scan import Scan


@dataclass(slots=True)
class ManifestRows:
    """Rows of ``manifests`` as columns, ready for ``unnest``."""

    columns: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, scan: Scan, head_hash: bytes) -> None:
        """Add the row of this scan. head_hash: of its newest event."""
        for name, value in _manifest_row(scan, head_hash):
            self.columns.setdefault(name, []).append(value)


def _manifest_row(scan: Scan, head_hash: bytes) -> Iterator[tuple[str, Any]]:
    yield "m_scan_ids", scan.scan_id
    yield "m_versions", scan.version
    yield "m_head_hashes", head_hash
    yield "m_bodies", manifest_body(scan)
    yield "m_rests", stored_state.rest(scan)
    yield "m_is_deleteds", scan.is_deleted
    yield "m_replaced_bys", scan.replaced_by_scan_id
    yield "m_workflow_ids", scan.ewms_workflow_id
    yield "m_ewms_addresses", scan.ewms_address
    yield "m_event_digests", scan.event_digest
    yield "m_priorities", rank(scan.priority)
    yield "m_states", scan.state
    yield "m_launch_states", scan.launch.state
    yield "m_deactivateds", scan.ewms.deactivated
    yield "m_request_scan_ids", scan.request_scan_id
    yield "m_has_final_results", scan.has_final_result
    yield "m_problems", problems_body(scan)


def manifest_body(scan: Scan) -> bytes:
    """The Manifest as JSON, as it is stored and served."""
    return stored_state.body(scan)


def problems_body(scan: Scan) -> bytes:
    """Why the scan waits or fails as JSON, as it is stored and served."""
    return event_codec.encode(problems_of(scan))


def scan_request_body(scan: Scan) -> bytes:
    """The ScanRequest (REST contract 5.4) as JSON, as it is stored and served."""
    return event_codec.encode({"scan_id": scan.scan_id, "rescan_ids": list(scan.rescan_ids), **scan.request})


def workforce_body(scan: Scan) -> bytes:
    """What EWMS told of the workers: statuses, n_running, top_errors."""
    return event_codec.encode(
        {"statuses": scan.ewms.statuses, "n_running": scan.ewms.n_running, "top_errors": scan.ewms.top_errors}
    )


async def write_side_views(sql: Any, connection: Connection, before: Scan | None, after: Scan) -> None:
    """Write the rows beside ``manifests`` that differ between two states of a scan (before: None = write them all)."""
    key = after.scan_id
    if before is None:
        await sql.write_i3_event(connection, i3_event_id=after.i3_event_id, digest=after.event_digest)
    if after.request_scan_id == key and (before is None or before.rescan_ids != after.rescan_ids):
        await sql.write_scan_request(connection, scan_id=key, body=scan_request_body(after), rescan_ids=list(after.rescan_ids))
    if after.result is not None and (before is None or before.result != after.result):
        await sql.write_result(
            connection, scan_id=key, digest=after.result.digest, size=after.result.size_bytes,
            is_final=after.result.is_final,
        )  # fmt: skip
    if after.is_waiting and (before is None or not before.is_waiting or before.launch != after.launch):
        await sql.write_backlog(
            connection, scan_id=key, priority=rank(after.priority), queued_at=after.timestamp, taken_at=after.launch.taken_at,
            attempts=after.launch.attempts,
        )  # fmt: skip
    if not after.is_waiting and before is not None and before.is_waiting:
        await sql.leave_backlog(connection, scan_id=key)
    if after.ewms.statuses and (before is None or before.ewms != after.ewms):
        await sql.write_workforce(connection, scan_id=key, body=workforce_body(after))
    if not after.ewms.statuses and before is not None and before.ewms.statuses:
        await sql.leave_workforce(connection, scan_id=key)
