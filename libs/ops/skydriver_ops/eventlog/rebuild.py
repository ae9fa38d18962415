"""Views from nothing but the log: compared with the live ones, or put in their place."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Connection
from skydriver_common.faults import TryLater
from skydriver_common.log import stored_state
from skydriver_common.log.stored_state import scan_of_row
from skydriver_common.log.unit_of_work import sql as writing
from skydriver_common.model.ids import ScanId
from skydriver_ops.eventlog import rebuild_schema
from skydriver_ops.eventlog.chains import chains_after, sql
from skydriver_ops.eventlog.fold import VIEWS, ViewRows, fold_links, iter_folded

_ROUNDS = 20
_FEW_EVENTS = 500
_MAX_EVENTS_UNDER_LOCK = 5000
_MAX_LOCK_TRIES = 20
_PAUSE_S = 0.5
_SCANS_PER_BATCH = 200
_EVENTS_PER_BATCH = 5000
_DIFFERING_PER_BATCH = 50
_OF_THE_RELEASE = frozenset(("body", "rest", "problems"))
"""Columns of manifests in which two releases may differ: one knows more fields, or says it in other words."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what the log says. what: missing, surplus, or the columns that differ."""

    view: str
    key: str
    what: str


@dataclass(slots=True)
class Comparison:
    """What was compared. of_other_releases: rows that another release wrote last, and that say the same of what both know."""

    events: int = 0
    scans: int = 0
    of_other_releases: int = 0
    differences: list[Difference] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What a rebuild did. locked_s: how long writers were kept out at the longest, 0.0 without a swap."""

    events: int
    scans: int
    locked_s: float = 0.0


ProgressCallback = Callable[[int], None]
"""Called with the number of events folded so far."""


def _quiet(_: int) -> None:
    return


async def check(connection: Connection, *, on_progress: ProgressCallback = _quiet) -> Comparison:
    """Fold the log and compare with the live views. Raises TryLater, HistoryBroken.

    Scans are read page by page without a snapshot that would hold up clean-up and relay. What differs may have been written to
    meanwhile, so it is folded and compared again within one short snapshot, and only what differs there counts.
    """
    found = Comparison()
    with database_faults():
        after = ""
        async for rows in iter_folded(connection):
            up_to = rows.scan_ids[-1] if rows.scan_ids else after
            await _compare_settled(connection, rows, after, up_to, found)
            after = up_to
            found.events += rows.events
            found.scans += len(rows.scan_ids)
            on_progress(found.events)
        await _compare_settled(connection, ViewRows(), after, None, found)
        found.differences += [
            Difference("i3_events", row["i3_event_id"], "surplus") async for row in sql.i3_events_of_no_scan(connection)
        ]
    return found


async def _compare_settled(connection: Connection, rows: ViewRows, after: str, up_to: str | None, found: Comparison) -> None:
    """Compare the scans of a range, those that differ a second time in a snapshot with their own links; add to ``found``."""
    first = await _compare(connection, rows, after, up_to)
    others = first.others
    # events of i3 are put once, with the scan's first event, and never change
    found.differences += [each for each in first.differences if each.view == "i3_events"]
    doubtful = sorted({ScanId(each.key) for each in first.differences if each.view != "i3_events"})
    for start in range(0, len(doubtful), _DIFFERING_PER_BATCH):
        part = doubtful[start : start + _DIFFERING_PER_BATCH]
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            again = await fold_links(connection, await chains_after(connection, dict.fromkeys(part, 0)), {})
            second = await _compare(connection, again, "", None, part)
        found.differences += [each for each in second.differences if each.view != "i3_events"]
        others |= second.others
    found.of_other_releases += len(others)


async def rebuild_into(
    reading: Connection, writing_to: Connection, schema: str, *, on_progress: ProgressCallback = _quiet
) -> tuple[Rebuilt, str]:
    """Fold the log into fresh tables in a new schema; returns the xmin from before it was read, for catching up.

    Two connections: one reads page by page, without a snapshot that would hold up clean-up and relay; the other commits batch by
    batch. What is written meanwhile is in the tables or not: catching up folds whatever is missing there. Raises TryLater,
    HistoryBroken, SchemaIsThere.
    """
    with database_faults():
        await rebuild_schema.lock_schema(writing_to, schema)
        await rebuild_schema.create(writing_to, schema)
        events = scans = 0
        xmin: str = await sql.snapshot_xmin(reading)
        async for rows in iter_folded(reading):
            await _write(writing_to, schema, rows)
            events, scans = events + rows.events, scans + len(rows.scan_ids)
            on_progress(events)
        await rebuild_schema.add_indexes(writing_to, schema)
    return Rebuilt(events=events, scans=scans), xmin


async def rebuild_and_swap(
    reading: Connection, writing_to: Connection, schema: str, *, on_progress: ProgressCallback = _quiet
) -> Rebuilt:
    """Rebuild into a schema, catch up with what was written meanwhile, and exchange the tables in one transaction.

    The replaced tables are dropped. Raises TryLater (also when writers hold the tables for too long; nothing is changed
    then), HistoryBroken, SchemaIsThere.
    """
    done, xmin = await rebuild_into(reading, writing_to, schema, on_progress=on_progress)
    locked_s = 0.0
    with database_faults():
        for last in (*[False] * (_MAX_LOCK_TRIES - 1), True):
            for _ in range(_ROUNDS):
                xmin, behind = await _catch_up(writing_to, schema, xmin)
                if behind <= _FEW_EVENTS:
                    break
            began = time.monotonic()
            try:
                async with writing_to.transaction():
                    await rebuild_schema.lock(writing_to)
                    await _catch_up(writing_to, schema, xmin, most=_MAX_EVENTS_UNDER_LOCK)
                    await rebuild_schema.swap_tables(writing_to, schema)
                break
            except (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError, TooManyChanges) as error:
                if last:
                    raise TryLater("the views are in use by a long transaction, or much is being written", 5.0) from error
                await asyncio.sleep(_PAUSE_S)  # let the writers through who have waited
            finally:
                locked_s = max(locked_s, time.monotonic() - began)
        await rebuild_schema.drop(writing_to, schema)
    return Rebuilt(events=done.events, scans=done.scans, locked_s=locked_s)


class TooManyChanges(Exception):
    """More was written than can be folded while writers wait."""


async def _catch_up(connection: Connection, schema: str, xmin: str, *, most: int | None = None) -> tuple[str, int]:
    """Fold what came since on top of the states in the schema; returns from where to look next time, and how many events it was.

    Raises _TooMuch when there are more than ``most``.
    """
    next_xmin: str = await sql.snapshot_xmin(connection)
    changed = [(row["scan_id"], row["events"]) async for row in sql.scans_changed_since(connection, xid=xmin)]
    total = sum(events for _, events in changed)
    if most is not None and total > most:
        raise TooManyChanges
    for part in _parts(changed):
        async with _inside(connection, schema):
            known = {row["scan_id"]: scan_of_row(row) async for row in sql.states(connection, scan_ids=part)}
        links = await chains_after(connection, {scan_id: known[scan_id].version if scan_id in known else 0 for scan_id in part})
        rows = await fold_links(connection, links, known)
        async with _inside(connection, schema):
            for name, columns in VIEWS.items():
                if columns[0] == "scan_id":
                    await connection.execute(f"DELETE FROM {name} WHERE scan_id = ANY ($1)", rows.scan_ids)  # noqa: S608  (our own names)
            await insert_rows(connection, rows)
    return next_xmin, total


def _parts(changed: list[tuple[str, int]]) -> Iterator[list[str]]:
    """Some scans at a time, and their new events: what fits into memory."""
    part, events = list[str](), 0
    for scan_id, more in changed:
        if part and (len(part) == _SCANS_PER_BATCH or events + more > _EVENTS_PER_BATCH):
            yield part
            part, events = [], 0
        part.append(scan_id)
        events += more
    if part:
        yield part


async def _write(connection: Connection, schema: str, rows: ViewRows) -> None:
    async with connection.transaction(), _inside(connection, schema):
        await insert_rows(connection, rows)


async def insert_rows(connection: Connection, rows: ViewRows) -> None:
    """Into the tables of the search path."""
    for name, columns in VIEWS.items():
        if name == "i3_events":
            i3_event_ids, digests = [row[0] for row in rows.rows[name]], [row[1] for row in rows.rows[name]]
            await writing.write_i3_event(connection, i3_event_id=i3_event_ids, digest=digests)
        elif rows.rows[name]:
            await connection.copy_records_to_table(name, records=rows.rows[name], columns=columns)


@asynccontextmanager
async def _inside(connection: Connection, schema: str) -> AsyncIterator[None]:
    """Within a transaction: unqualified names mean this schema's tables and nothing else, so the live ones can't be hit."""
    async with connection.transaction():
        before = await connection.fetchval("SHOW search_path")
        await connection.execute("SELECT set_config('search_path', $1, true)", rebuild_schema.quoted(schema))
        yield
        await connection.execute("SELECT set_config('search_path', $1, true)", before)


@dataclass(slots=True)
class _Compared:
    """others: scans whose manifest another release wrote last, and that says the same of what both know."""

    differences: list[Difference] = field(default_factory=list)
    others: set[str] = field(default_factory=set)


async def _compare(
    connection: Connection, rows: ViewRows, after: str, up_to: str | None, scan_ids: list[ScanId] | None = None
) -> _Compared:
    """Compare rows with the live ones of a range of scans; scan_ids: of these alone."""
    found = _Compared()
    for name, columns in VIEWS.items():
        if name == "i3_events":
            ids = [row[0] for row in rows.rows[name]]
            live = {row["i3_event_id"]: tuple(row) async for row in sql.live_i3_events(connection, ids=ids)}
        else:
            statement = getattr(sql, f"live_{name}")
            live = {
                row["scan_id"]: tuple(row) async for row in statement(connection, after=after, up_to=up_to, scan_ids=scan_ids)
            }
        _differences(name, columns, {row[0]: row for row in rows.rows[name]}, live, found)
    return found


def _differences(
    name: str, columns: tuple[str, ...], said: dict[str, tuple[Any, ...]], live: dict[str, tuple[Any, ...]], found: _Compared
) -> None:
    for key in sorted(said.keys() | live.keys()):
        if key not in live:
            found.differences.append(Difference(name, key, "missing"))
        elif key not in said:
            found.differences.append(Difference(name, key, "surplus"))
        elif said[key] != live[key]:
            which = [column for column, a, b in zip(columns, said[key], live[key], strict=True) if a != b]
            if name == "manifests" and _other_release_differs(columns, said[key], live[key], which):
                found.others.add(key)
            else:
                found.differences.append(Difference(name, key, f"differs in {', '.join(which)}"))


def _other_release_differs(columns: tuple[str, ...], said: tuple[Any, ...], live: tuple[Any, ...], which: list[str]) -> bool:
    """Whether a manifest differs only in what one of two releases does not know."""
    mine, theirs = dict(zip(columns, said, strict=True)), dict(zip(columns, live, strict=True))
    return (
        set(which) <= _OF_THE_RELEASE
        and stored_state.is_of_another_release(theirs["rest"])
        and all(stored_state.agree(mine[column], theirs[column]) for column in ("body", "rest"))
    )
