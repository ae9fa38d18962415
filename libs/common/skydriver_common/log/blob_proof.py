"""Whether the blobs are what their names say, and all there that the log refers to: no hash chain covers their bytes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import zstandard

from skydriver_common.db.pool import Connection, load_statements
from skydriver_common.db.translate import database_faults
from skydriver_common.log import blobs
from skydriver_common.log.chains import PAGE
from skydriver_common.model.ids import digest_of

sql = load_statements("skydriver_common.log", "blob_proof.sql")


@dataclass(frozen=True, slots=True)
class Flaw:
    """A blob that is not as it was put. scan_id: of a scan that needs it, "" when it was not asked for one."""

    digest: str
    what: str
    scan_id: str = ""


@dataclass(slots=True)
class Report:
    """What was looked at and found."""

    blobs: int = 0
    flaws: list[Flaw] = field(default_factory=list)


async def verify_blobs(connection: Connection, *, told: Callable[[int], None] = lambda _: None) -> Report:
    """Hash every blob, one in memory at a time, and look for those that are missing. told: called with the number of blobs so far.

    Reads all bodies and goes once through the log. Safe beside the running system. Raises TryLater.
    """
    report = Report()
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
                report.flaws.append(Flaw(digest, "its content can't be unpacked"))
            else:
                if await asyncio.to_thread(digest_of, content) != digest:
                    report.flaws.append(Flaw(digest, "its content is not what its name says"))
            report.blobs += 1
            told(report.blobs)
        if len(digests) < PAGE:
            break
        after = digests[-1]
    with database_faults():
        report.flaws += [
            Flaw(row["digest"], "it is missing", row["scan_id"]) async for row in sql.missing(connection)
        ]  # fmt: skip
    return report
