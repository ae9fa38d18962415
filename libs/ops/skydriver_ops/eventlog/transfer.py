"""The log to a file, up to a time; and from a file into an empty database, whole or not at all."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import zstandard

from skydriver_common.atomic_write import atomic_write
from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Connection, load_statements
from skydriver_ops.eventlog.archive import FORMAT, Archive, ArchiveTotals, Blob, blob_line, blobs_of, event_line
from skydriver_ops.eventlog.fold import iter_folded
from skydriver_ops.eventlog.rebuild import insert_rows
from skydriver_ops.eventlog.selection import ChainedEvent, iter_pages

sql = load_statements("skydriver_ops.eventlog", "transfer.sql")

_LEVEL = 6
_ROWS_PER_BATCH = 500
_BYTES_PER_BATCH = 8 * 1024 * 1024
_COLUMNS = (
    "position", "event_id", "scan_id", "version", "type", "schema_version", "recorded_at", "actor", "command_id",
    "correlation_id", "data", "prev_hash", "hash",
)  # fmt: skip

ProgressCallback = Callable[[int], None]
"""Called with how far the work is, in events."""


class NotEmpty(Exception):
    """The database has a history already: two can't be mixed."""


async def export(connection: Connection, path: Path, *, until: datetime, on_progress: ProgressCallback) -> dict[str, Any]:
    """Write the log up to the last event that was recorded before a time, in the order of commits; returns the manifest.

    That is a beginning of every chain, so what comes later can continue it. Nothing from before that time is left out; where clocks
    differ, or transactions took their time, some events from after it are in it, too. The file appears when it is whole. Safe
    beside the running system; a page and one blob in memory. Raises TryLater, OSError.
    """
    with atomic_write(path) as file:
        return await _write(connection, file, until, on_progress)


async def _write(connection: Connection, file: Any, until: datetime, on_progress: ProgressCallback) -> dict[str, Any]:
    tally, digest, there = ArchiveTotals(), sha256(), set[bytes]()
    packed: Any = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).stream_writer(file, closefd=False)

    def put(*lines: bytes) -> None:
        for line in lines:
            packed.write(line)
            digest.update(line)

    put(orjson.dumps({"format": FORMAT, "until": until.isoformat(), "made_at": datetime.now(UTC).isoformat()}) + b"\n")
    with database_faults():
        end = await sql.last_before(connection, until=until)
    last = (0, 0) if end is None else (int(end["xid"]), end["position"])
    async for page in iter_pages(connection):
        for one in page:
            if (int(one.xid), one.event.position) > last:
                break
            tally.event(one)
            put(event_line(one))
            for name in blobs_of(one.event):
                key = sha256(name.encode()).digest()
                if key not in there:
                    there.add(key)
                    blob = await _blob(connection, name)
                    tally.blobs += blob is not None
                    tally.missing_blobs += blob is None
                    line = orjson.dumps({"missing_blob": name}) + b"\n" if blob is None else blob_line(blob)
                    await asyncio.to_thread(put, line)
        else:
            on_progress(tally.events)
            continue
        break
    manifest = tally.manifest(digest.hexdigest())
    packed.write(orjson.dumps({"manifest": manifest}) + b"\n")
    packed.close()
    return manifest


async def _blob(connection: Connection, digest: str) -> Blob | None:
    with database_faults():
        row = await sql.export_blob(connection, digest=digest)
    return None if row is None else Blob(digest, row["encoding"], row["size"], row["body"])


async def import_archive(connection: Connection, path: Path, *, on_progress: ProgressCallback) -> dict[str, Any]:
    """Bring an export into an empty database: events with their ids, positions and chains, blobs, and the views folded from them.

    told: called with the number of events taken in and, on top of that, folded into views: twice their number in the end.
    One transaction: all or nothing. What is imported counts as published: the relay goes on after it. Returns the manifest.
    Raises NotEmpty, ArchiveBroken (check the archive before), TryLater, OSError, HistoryBroken, UnknownEvent.
    """
    archive = Archive(path)
    with database_faults():
        async with connection.transaction():
            await sql.keep_writers_out(connection)
            if await sql.has_history(connection):
                raise NotEmpty
            entries = archive.entries()
            while batch := await asyncio.to_thread(_batch, entries):
                await _take_in(connection, batch)
                on_progress(archive.tally.events)
            await sql.continue_positions(connection, last=archive.tally.last_position)
            events = 0
            async for rows in iter_folded(connection):
                await insert_rows(connection, rows)
                events += rows.events
                on_progress(archive.tally.events + events)
            await sql.begin_relay_after(connection, last=archive.tally.last_position)
    return archive.manifest


async def _take_in(connection: Connection, batch: list[ChainedEvent | Blob]) -> None:
    events = [_row(entry) for entry in batch if isinstance(entry, ChainedEvent)]
    if events:
        await connection.copy_records_to_table("event_log", records=events, columns=_COLUMNS)
    for entry in batch:
        if isinstance(entry, Blob):
            await sql.import_blob(connection, digest=entry.digest, encoding=entry.encoding, size=entry.size, body=entry.body)


def _row(one: ChainedEvent) -> tuple[Any, ...]:
    return (*(getattr(one.event, name) for name in _COLUMNS[:-2]), one.prev_hash, one.hash)


def _batch(entries: Iterable[ChainedEvent | Blob]) -> list[ChainedEvent | Blob]:
    """Some hundred events, or some MB of blobs."""
    batch: list[ChainedEvent | Blob] = []
    weight = 0
    for entry in islice(entries, _ROWS_PER_BATCH):
        batch.append(entry)
        weight += len(entry.body) if isinstance(entry, Blob) else len(entry.event.data)
        if weight > _BYTES_PER_BATCH:
            break
    return batch
