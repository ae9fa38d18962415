"""The hash chains as they lie in the database: read scan by scan, some links in memory at a time."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Connection, Pool, load_statements
from skydriver_common.log.unit_of_work import microseconds
from skydriver_common.model import event_codec
from skydriver_common.model.events import COMPACTABLE
from skydriver_common.model.ids import ScanId
from skydriver_ops.eventlog.selection import ChainedEvent, chained_event_of_row

sql = load_statements("skydriver_ops.eventlog", "chains.sql")

PAGE = 2000
_SCANS_PER_BATCH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainBreak:
    """Where a scan's history is not what was written. position: None when a link is missing."""

    scan_id: ScanId
    version: int
    position: int | None
    what: str


async def chains(connection: Pool | Connection, *, page: int = PAGE) -> AsyncIterator[list[ChainedEvent]]:
    """Every link, ordered by scan and version; a scan may go on in the next page. Raises TryLater.

    Each page is a statement of its own. The log only grows, so pages need no common snapshot: of what is written meanwhile some is
    seen and some is not, but each scan's links come without a gap.
    """
    scan_id, version = "", 0
    while True:
        with database_faults():
            rows = [row async for row in sql.chains(connection, scan_id=scan_id, version=version, most=page)]
        if rows:
            yield [chained_event_of_row(row) for row in rows]
            scan_id, version = rows[-1]["scan_id"], rows[-1]["version"]
        if len(rows) < page:
            return


async def chains_since(connection: Pool | Connection, position: int, *, page: int = PAGE) -> AsyncIterator[list[ChainedEvent]]:
    """As ``chains``, but of each scan only what follows its first link from a position on. Raises TryLater.

    Holds the ids of the scans that were written to since, some hundred bytes each.
    """
    before = dict[str, int]()
    while True:
        with database_faults():
            rows = [row async for row in sql.written_since(connection, position=position, most=page)]
        for row in rows:
            before[row["scan_id"]] = min(row["version"] - 1, before.get(row["scan_id"], row["version"]))
        if len(rows) < page:
            break
        position = rows[-1]["position"] + 1
    scan_ids = sorted(before)
    for start in range(0, len(scan_ids), _SCANS_PER_BATCH):
        yield await chains_after(
            connection, {scan_id: before[scan_id] for scan_id in scan_ids[start : start + _SCANS_PER_BATCH]}
        )


async def chains_after(connection: Pool | Connection, versions: Mapping[str, int]) -> list[ChainedEvent]:
    """The links of these scans after the version of each, ordered by scan and version. Raises TryLater."""
    with database_faults():
        rows = sql.chains_after(connection, scan_ids=list(versions), versions=list(versions.values()))
        return [chained_event_of_row(row) async for row in rows]


async def heads(connection: Pool | Connection, *, page: int = PAGE) -> AsyncIterator[tuple[str, int, bytes]]:
    """The newest link of each scan, (scan_id, version, hash), in order of scan. Raises TryLater."""
    scan_id = ""
    while True:
        with database_faults():
            rows = [row async for row in sql.heads(connection, scan_id=scan_id, most=page)]
        for row in rows:
            yield row["scan_id"], row["version"], row["hash"]
        if len(rows) < page:
            return
        scan_id = rows[-1]["scan_id"]


def hash_of(one: ChainedEvent) -> bytes:
    """The hash that this link must have, by what it holds."""
    event = one.event
    return event_codec.chain_hash(
        prev_hash=one.prev_hash, event_id=str(event.event_id), scan_id=event.scan_id, version=event.version,
        type_=event.type, schema_version=event.schema_version, recorded_at_us=microseconds(event.recorded_at),
        actor=event.actor, command_id=event.command_id, correlation_id=event.correlation_id,
        data_digest=event_codec.payload_digest(event.data),
    )  # fmt: skip


def missing_event(scan_id: ScanId, version: int) -> ChainBreak:
    """This version is not there."""
    return ChainBreak(scan_id=scan_id, version=version, position=None, what=f"version {version} is missing")


def chain_break(one: ChainedEvent, what: str) -> ChainBreak:
    """What is wrong with this link."""
    return ChainBreak(scan_id=one.event.scan_id, version=one.event.version, position=one.event.position, what=what)


def find_break(one: ChainedEvent, version: int, prev_hash: bytes) -> ChainBreak | None:
    """What breaks the chain at this link, by itself, after a history up to this version with this hash; None: nothing."""
    if one.event.version != version + 1:
        return missing_event(one.event.scan_id, version + 1)
    if one.prev_hash != prev_hash:
        return chain_break(one, "previous hash does not match the event before it")
    if hash_of(one) != one.hash:
        return chain_break(one, "content does not match its hash")
    if event_codec.is_compacted(one.event.data) and one.event.type not in COMPACTABLE:
        return chain_break(one, "payload is missing")
    return None
