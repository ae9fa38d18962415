"""``skydriver log tail | show | stats | history | state``: read the event log in the database, while the system runs."""

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from rich.table import Table

from skydriver_cli.connections import database, find_url, parse_time
from skydriver_cli.errors import CliError
from skydriver_cli.options import DEFAULT_DATA_DIR, AmqpUrl, AsJson, DatabaseUrl, DataDir, ScanIdArgument
from skydriver_cli.output import Terminal, json_block, line, print_json, print_json_document, print_note
from skydriver_common.faults import TryLater
from skydriver_common.log.read import LoggedEvent, history
from skydriver_common.log.state_at import state_at
from skydriver_common.model.event_codec import UnknownEvent
from skydriver_common.model.events import EVENT_TYPES
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import HistoryBroken, Scan
from skydriver_ops.bus.queue_stats import QueueStats, load_queue_stats
from skydriver_ops.eventlog import describe, selection
from skydriver_ops.eventlog.selection import ChainedEvent, Selection
from skydriver_ops.eventlog.statistics import Statistics, statistics

out = Terminal()

ScanOption = Annotated[str | None, typer.Option("--scan", help="Only events of this scan.")]
TypeOption = Annotated[list[str] | None, typer.Option("--type", help="Only events of this type. Repeatable.")]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", help="Only events at or after this time: 30m, 2h or 3d ago, or ISO 8601 (UTC without a zone)."),
]
UntilOption = Annotated[str | None, typer.Option("--until", help="Only events before this time, written as for --since.")]

_POLL_S = 0.5


def add_to(log: typer.Typer) -> None:
    """Register the commands."""
    for command in (tail, show, stats, state):
        log.command()(command)
    log.command("history")(history_)


def tail(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Keep running and print new events.")] = False,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, max=100_000, help="Number of newest events to print first.")
    ] = 20,
    scan: ScanOption = None,
    type_: TypeOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Print the newest events, in the order in which they were committed.

    Example: skydriver log tail -f --type scan.result-received
    """
    chosen = _selection(scan, type_, since, until)
    asyncio.run(_interruptible(_tail(database_url, data_dir, chosen, lines, follow, as_json)))


def show(
    position: Annotated[int, typer.Argument(help="Position of the event in the log, as `skydriver log tail` prints it.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Print one event with everything that is stored about it, its hashes included.

    Example: skydriver log show 4711
    """

    async def work() -> ChainedEvent | None:
        async with database(database_url, data_dir) as connection:
            return await selection.load_event(connection, position)

    found = asyncio.run(work())
    if found is None:
        raise CliError(f"no event at position {position}", "See `skydriver log tail`")
    whole = json.loads(found.event.as_json())  # not orjson: integers beyond 64 bits would become floats
    whole |= {"xid": found.xid, "prev_hash": found.prev_hash.hex(), "hash": found.hash.hex()}
    if as_json:
        print_json(whole)
    else:
        out.print(json_block(whole), soft_wrap=True)


def stats(
    data_dir: DataDir = DEFAULT_DATA_DIR, database_url: DatabaseUrl = None, amqp_url: AmqpUrl = None, as_json: AsJson = False
) -> None:
    """Show events per type and day, table sizes, and the lag of the relay, of each consumer's queue and of due work.

    Example: skydriver log stats --json
    """

    async def work() -> tuple[Statistics, list[QueueStats] | None]:
        spinner = Terminal(stderr=True).status("counting the events") if sys.stderr.isatty() and not as_json else nullcontext()
        async with database(database_url, data_dir) as connection:
            with spinner:
                found = await statistics(connection)
        try:
            return found, await load_queue_stats(find_url(amqp_url, "amqp_url", data_dir))
        except (CliError, TryLater) as error:
            print_note(f"queues not shown: {getattr(error, 'what', error)}")
            return found, None

    found, queues = asyncio.run(work())
    waiting = None if queues is None else [asdict(depth) for depth in queues]
    if as_json:
        print_json(
            {"events": found.events, "per_type_and_day": found.counts, "sizes": found.sizes, "relays": found.relays,
             "due_work": found.due_work, "queues": waiting}
        )  # fmt: skip
        return
    tables = (
        ("events", found.counts), ("relay", found.relays), ("due work", found.due_work), ("queues", waiting or []),
    )  # fmt: skip
    for title, rows in tables:
        if rows:
            table = Table(*rows[0], title=title)
            for row in rows:
                table.add_row(*("-" if value is None else line(str(value)) for value in row.values()))
            out.print(table)
    for name, size in found.sizes.items():
        out.print(f"{name}: {size / 2**20:.1f} MiB")


def history_(
    scan_id: ScanIdArgument, data_dir: DataDir = DEFAULT_DATA_DIR, database_url: DatabaseUrl = None, as_json: AsJson = False
) -> None:
    """Show the history of a scan: when, who, what changed.

    Example: skydriver log history 18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c
    """

    async def work() -> int:
        version = 0
        async with database(database_url, data_dir) as connection:
            while True:
                before = version
                async for logged in history(connection, ScanId(scan_id), after=version):
                    version = logged.version
                    show_event(logged, as_json, with_scan=False)
                if version == before:
                    return version

    if not asyncio.run(work()):
        raise CliError(f"no events of scan {scan_id}", "Check the scan id")


def state(
    scan_id: ScanIdArgument,
    at: Annotated[str, typer.Option("--at", help="Version of the scan, or time (ISO 8601, UTC without a zone).")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show a scan's manifest as of a time or version. Reports if the progress of that time was compacted.

    Example: skydriver log state 18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c --at 2026-11-24T12:00:00Z
    """
    version = int(at) if at.isdigit() and len(at) < 8 else None
    when: datetime | None = parse_time(at, "--at") if version is None else None

    async def work() -> tuple[Scan | None, bool]:
        async with database(database_url, data_dir) as connection:
            found = await state_at(connection, ScanId(scan_id), version=version, moment=when)
            return found, found is not None and await describe.is_progress_compacted(connection, found)

    try:
        scan, is_compacted = asyncio.run(work())
    except (HistoryBroken, UnknownEvent) as error:
        raise CliError(
            f"can't compute the scan's state from the log: {error}", "Check the log with `skydriver log verify`"
        ) from error
    if scan is None:
        raise CliError(f"no scan {scan_id} at {at}", f"See `skydriver log history {scan_id}`")
    if as_json:
        print_json(
            {"scan_id": scan_id, "version": scan.version, "scan_state": scan.state, "progress_was_let_go": is_compacted,
             "manifest": scan.manifest()}
        )  # fmt: skip
        return
    if is_compacted:
        print_note("the progress report of that time was compacted: the progress and state below are from a later report")
    out.print(line(f"scan {scan_id}, version {scan.version}: ", (scan.state, "bold")))
    out.print(json_block(scan.manifest()), soft_wrap=True)


def show_event(logged: LoggedEvent, as_json: bool, *, with_scan: bool = True) -> None:
    """Print one event: a line of JSON, or a readable line."""
    if as_json:
        print_json_document(logged.as_json().decode())
        return
    try:
        what = describe.describe(logged)
    except UnknownEvent as error:
        what = str(error)
    place = f"{logged.position:>8}  {logged.scan_id}" if with_scan else f"{logged.version:>4}"
    when = logged.recorded_at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    out.print(f"{when}  {place}  {logged.actor:<24}  {what}", highlight=False, soft_wrap=True)


def known_types(types: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the event types that were asked for, None: any. Raises CliError for one that there is not, with those it resembles."""
    for name in types or ():
        if name not in EVENT_TYPES:
            near = get_close_matches(name, EVENT_TYPES, n=3)
            advice = f"Did you mean {' or '.join(near)}?" if near else "See docs/developers/events.md"
            raise CliError(f"--type: there is no event {name!r}", advice, exit_code=2)
    return tuple(types) if types else None


def _selection(scan: str | None, types: Sequence[str] | None, since: str | None, until: str | None) -> Selection:
    return Selection(
        scan_id=None if scan is None else ScanId(scan),
        types=known_types(types),
        since=parse_time(since, "--since") if since is not None else None,
        until=parse_time(until, "--until") if until is not None else None,
    )


async def _tail(database_url: str | None, data_dir: Any, chosen: Selection, lines: int, follow: bool, as_json: bool) -> None:
    async with database(database_url, data_dir) as connection:
        cursor = await selection.load_head(connection)
        for found in await selection.load_newest(connection, chosen, up_to=cursor, most=lines):
            show_event(found.event, as_json)
        while follow:
            sys.stdout.flush()
            await asyncio.sleep(_POLL_S)
            end = await selection.load_head(connection)
            async for page in selection.iter_pages(connection, chosen, after=cursor):
                for found in page:
                    show_event(found.event, as_json)
                cursor = page[-1].cursor
            cursor = max(cursor, end, key=lambda each: (int(each.xid), each.position))


async def _interruptible(work: Any) -> None:
    """End without a traceback on Ctrl-C: reading leaves nothing half done."""
    try:
        await work
    except asyncio.CancelledError:
        return
