"""Whether the blobs are what their names say, and all there that the log refers to: no hash chain covers their bytes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zstandard

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Connection, load_statements
from skydriver_common.log import blobs
from skydriver_common.log.pending_writes import sql as log_sql
from skydriver_common.model import event_codec
from skydriver_common.model.events import ResultReceived
from skydriver_common.model.ids import ScanId, digest_of
from skydriver_ops.eventlog.chains import PAGE

sql = load_statements("skydriver_ops.eventlog", "blob_verification.sql")


_POSITIONS_PER_BATCH = 20_000


@dataclass(frozen=True, slots=True)
class BlobDefect:
    """A blob that is not as it was put. scan_id: of a scan that needs it, "" when it was not asked for one."""

    digest: str
    what: str
    scan_id: ScanId = ScanId("")


@dataclass(slots=True)
class BlobVerification:
    """What was looked at and found."""

    blobs: int = 0
    defects: list[BlobDefect] = field(default_factory=list)


async def verify_blobs(connection: Connection, *, on_progress: Callable[[int], None] = lambda _: None) -> BlobVerification:
    """Hash every blob, one in memory at a time, and look for those that are missing. told: called with the number of blobs so far.

    Reads all bodies and goes once through the log. Safe beside the running system. Raises TryLater.
    """
    report = BlobVerification()
    after = ""
    while True:
        with database_faults():
            digests = [row["digest"] async for row in sql.digests(connection, after=after, most=PAGE)]
        for digest in digests:
            try:
                content = await blobs.get(connection, digest)
            except blobs.BlobMissing:
                continue  # dropped meanwhile: nothing referred to it
            except zstandard.ZstdError:
                report.defects.append(BlobDefect(digest, "content cannot be decompressed"))
            else:
                if await asyncio.to_thread(digest_of, content) != digest:
                    report.defects.append(BlobDefect(digest, "content does not match the digest"))
            report.blobs += 1
            on_progress(report.blobs)
        if len(digests) < PAGE:
            break
        after = digests[-1]
    report.defects += [
        BlobDefect(digest, "it is missing", ScanId(scan_id)) for digest, scan_id in sorted((await _missing(connection)).items())
    ]
    return report


@dataclass(frozen=True, slots=True)
class _Reference:
    """An event that needs a blob. is_partial: it is a partial result, whose skymap may be removed once a later one is there."""

    scan_id: ScanId
    version: int
    is_partial: bool


async def _missing(connection: Connection) -> dict[str, str]:
    """Digest of each blob that is missing to a scan that needs it. Part of the log after part: no statement takes long."""
    found = dict[str, str]()
    with database_faults():
        last: int = await sql.last_position(connection)
        for after in range(0, last, _POSITIONS_PER_BATCH):
            needed = dict[str, list[_Reference]]()
            async for row in sql.referring(connection, after=after, up_to=after + _POSITIONS_PER_BATCH):
                digest, reference = _reference(row)
                if digest:
                    needed.setdefault(digest, []).append(reference)
            gone = [row["digest"] async for row in log_sql.missing_blobs(connection, digests=list(needed))]
            scan_ids = sorted({each.scan_id for digest in gone for each in needed[digest] if each.is_partial})
            removed = {
                row["scan_id"]: (row["first"], row["before"] or 0)
                async for row in sql.removed_before(connection, scan_ids=scan_ids)
            }
            for digest in gone:
                for each in needed[digest]:
                    first, before = removed.get(each.scan_id, (0, 0))
                    if not (each.is_partial and first < each.version < before):
                        found.setdefault(digest, each.scan_id)
    return found


def _reference(row: Any) -> tuple[str, _Reference]:
    try:
        data: dict[str, Any] = event_codec.decode(row["data"])
    except ValueError:  # somebody altered it: `verify` names it
        data = {}
    is_partial = row["type"] == ResultReceived.type and data.get("is_final") is False
    digest = data.get("digest" if row["type"] == ResultReceived.type else "event_digest")
    return digest if isinstance(digest, str) else "", _Reference(row["scan_id"], row["version"], is_partial)
