"""``skydriver log export | import``: the log as one file that can be verified anywhere and read in another database."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from skydriver_cli.connections import database, parse_time
from skydriver_cli.errors import CliError
from skydriver_cli.log_proof_commands import archive_problems, progress
from skydriver_cli.options import DEFAULT_DATA_DIR, AsJson, DatabaseUrl, DataDir
from skydriver_cli.output import Terminal, print_json
from skydriver_common.model.event_codec import UnknownEvent
from skydriver_common.model.scan import HistoryBroken
from skydriver_ops.eventlog import archive, transfer

out = Terminal()


def add_to(log: typer.Typer) -> None:
    """Register the commands."""
    log.command()(export)
    log.command("import")(import_)


def export(
    until: Annotated[str, typer.Option("--until", help="Export events before this time (ISO 8601, UTC without a zone).")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Write the export to this file, which appears when it is complete.")
    ],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Write the log and the i3 events and skymaps it refers to into one file: JSON lines, zstd, with a manifest of hashes.

    `skydriver log verify --export FILE` verifies it anywhere.

    Example: skydriver log export --until 2026-12-01 -o 2026-11.ndjson.zst
    """
    before = parse_time(until, "--until")

    async def work() -> dict[str, Any]:
        async with database(database_url, data_dir) as connection:
            total: int | None = await connection.fetchval("SELECT max(position) FROM event_log WHERE recorded_at < $1", before)
            with progress("exporting", total, as_json) as on_progress:
                return await transfer.export(connection, output, until=before, on_progress=on_progress)

    with archive_problems(output):
        manifest = asyncio.run(work())
    if as_json:
        print_json(manifest)
    else:
        _say("exported to", output, manifest)


def import_(
    source: Annotated[Path, typer.Argument(help="File that `skydriver log export` wrote.")],
    accept_breaks: Annotated[
        bool, typer.Option("--accept-breaks", help="Import even if chains are broken (for example after break_glass).")
    ] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Import an export into an empty database and compute the views from it: all of it or, on any error, nothing.

    Imported events are history: they are not published, and no scan is started.

    Example: skydriver migrate --database-url URL; skydriver log import 2026-11.ndjson.zst --database-url URL
    """
    with archive_problems(source):
        with progress("checking", None, as_json) as on_progress:
            found = archive.check(source, on_progress=on_progress)
        if found.tally.breaks and not accept_breaks:
            first = found.tally.breaks[0]
            where = f"first at scan {first.scan_id}, version {first.version}"
            raise CliError(
                f"{len(found.tally.breaks)} chains are broken, {where}: {first.what}",
                "See `skydriver log verify --export`, or import it as it is with --accept-breaks",
            )

        async def work() -> dict[str, Any]:
            async with database(database_url, data_dir) as connection:
                with progress("importing", 2 * found.tally.events, as_json) as on_progress:
                    return await transfer.import_archive(connection, source, on_progress=on_progress)

        try:
            manifest = asyncio.run(work())
        except transfer.NotEmpty:
            raise CliError(
                "the database already contains events", "Import into a new database: see `skydriver migrate`"
            ) from None
        except (HistoryBroken, UnknownEvent) as error:
            raise CliError(
                f"can't compute the views from the log: {error}", "Nothing was imported. A newer release may be required"
            ) from error
    if as_json:
        print_json(manifest)
    else:
        _say("imported from", source, manifest)


def _say(what: str, path: Path, manifest: dict[str, Any]) -> None:
    missing = f"; {manifest['missing_blobs']} blobs were missing" if manifest["missing_blobs"] else ""
    out.print(
        f"{manifest['events']} events of {manifest['scans']} scans and {manifest['blobs']} blobs {what} {path}{missing}",
        soft_wrap=True,
    )
