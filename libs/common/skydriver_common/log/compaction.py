"""What is superseded and old is removed: progress reports but the newest of a scan, skymaps but its first, newest and final ones.

Of a skymap only its blob goes; its event, which holds the digest, stays as it is. Of a progress report rows, versions and the hash
chain stay. What stays in place of a payload is its digest (``event_codec.compact_payload``), which is what the chain covers:
``verify``, seals and rebuilds work as before. That it was done is an event of the scan (migrations 0060, 0112).
"""

from datetime import datetime

from skydriver_common.db.pool import load_statements
from skydriver_common.log.unit_of_work import Transaction
from skydriver_common.model.events import ProgressCompacted, ResultsCompacted
from skydriver_common.model.ids import ScanId

sql = load_statements("skydriver_common.log", "compaction.sql")

MAX_REPORTS = 500
"""Payloads per transaction: some MB, well below a second."""
MAX_RESULTS = 20
"""Skymaps per transaction: up to some MB each."""


async def compact_progress(tx: Transaction, scan_id: ScanId, *, before: datetime, most: int = MAX_REPORTS) -> int:
    """Let go of the scan's progress reports that a newer one, itself recorded before this time, has superseded.

    At most ``most`` payloads; returns how many. The scan must be loaded in the transaction.
    """
    keep_from = await sql.newest_report_before(tx.connection, scan_id=scan_id, before=before)
    if keep_from is None:
        return 0
    found = await sql.payloads_before(tx.connection, scan_id=scan_id, version=keep_from, most=most)
    if not found["payloads"]:
        return 0
    tx.append(scan_id, [ProgressCompacted(before_version=keep_from, payloads=found["payloads"], size_bytes=found["bytes"])])
    done = await sql.let_go_of_progress(tx.connection, scan_id=scan_id, keep_from=keep_from, most=most)
    return int(done["payloads"])


async def compact_results(tx: Transaction, scan_id: ScanId, *, before: datetime, most: int = MAX_RESULTS) -> int:
    """Remove skymaps of the scan's partial results that a newer result, itself recorded before this time, has superseded.

    The first result is kept. At most ``most`` skymaps; returns how many. The scan must be loaded in the transaction.
    """
    keep_from = await sql.newest_result_before(tx.connection, scan_id=scan_id, before=before)
    if keep_from is None:
        return 0
    done = await sql.drop_superseded_results(tx.connection, scan_id=scan_id, keep_from=keep_from, most=most)
    if done["results"]:
        tx.append(scan_id, [ResultsCompacted(before_version=keep_from, results=done["results"], size_bytes=done["bytes"])])
    return int(done["results"])
