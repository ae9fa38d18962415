"""``skydriver log verify | seal | rebuild``: proof that nobody altered the log, and that the views match it."""

import asyncio
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from skydriver_cli.connections import database
from skydriver_cli.embedded.secret_files import write_private
from skydriver_cli.errors import CliError
from skydriver_cli.options import DEFAULT_DATA_DIR, AsJson, DatabaseUrl, DataDir
from skydriver_cli.output import Terminal, line, print_json
from skydriver_common.atomic_write import atomic_write
from skydriver_common.db.pool import Connection
from skydriver_common.model.event_codec import UnknownEvent
from skydriver_common.model.scan import HistoryBroken
from skydriver_ops.eventlog import archive, blob_verification
from skydriver_ops.eventlog import rebuild as rebuilding
from skydriver_ops.eventlog import seal as sealing
from skydriver_ops.eventlog.chains import ChainBreak
from skydriver_ops.eventlog.rebuild_schema import OWN_NAME, SchemaExists
from skydriver_ops.eventlog.verify import Report
from skydriver_ops.eventlog.verify import verify as walk

out = Terminal()

Key = Annotated[
    Path | None,
    typer.Option(
        "--key", help="Ed25519 key in PEM format. Default: keys/seal.pem (to verify: keys/seal.pub.pem) in --data-dir."
    ),
]


def add_to(log: typer.Typer) -> None:
    """Register the commands."""
    log.command()(verify)
    log.command()(seal)
    log.command()(rebuild)


def verify(
    since: Annotated[int, typer.Option("--since", min=0, help="Only events at or after this position.")] = 0,
    seal_file: Annotated[Path | None, typer.Option("--seal", help="Also verify against this seal.")] = None,
    export: Annotated[Path | None, typer.Option("--export", help="Verify this exported file instead of the database.")] = None,
    with_blobs: Annotated[
        bool, typer.Option("--blobs", help="Also verify the stored i3 events and skymaps (blobs), and look for missing ones.")
    ] = False,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Verify the hash chains and report the first broken link of each scan. Exits with 1 if there is one.

    Example: skydriver log verify --seal 2026-11.seal --key seal.pub.pem
    """
    against = None if seal_file is None else _read_seal(seal_file, key or data_dir / "keys" / "seal.pub.pem")

    async def work() -> tuple[Report, list[ChainBreak], blob_verification.BlobVerification | None]:
        if export is not None:  # it contains its blobs, which are hashed while it is read
            return await asyncio.to_thread(_verify_export, export, against, as_json), [], None
        async with database(database_url, data_dir) as connection:
            with progress("verifying", await _events(connection), as_json) as on_progress:
                report = await walk(connection, since=since, on_progress=on_progress)
            unsealed = [] if against is None else await sealing.verify_against_seal(connection, against)
            if not with_blobs:
                return report, unsealed, None
            total: int = await connection.fetchval("SELECT count(*) FROM blobs")
            with progress("hashing", total, as_json, unit="blobs") as on_progress:
                return report, unsealed, await blob_verification.verify_blobs(connection, on_progress=on_progress)

    report, unsealed, of_blobs = asyncio.run(work())
    defects = [] if of_blobs is None else of_blobs.defects
    breaks = report.breaks + unsealed
    if as_json:
        print_json(
            {"events": report.events, "scans": report.scans, "sealed_scans": 0 if against is None else len(against.heads),
             "breaks": [_plain(found) for found in breaks],
             **({} if of_blobs is None else {"blobs": of_blobs.blobs, "broken_blobs": [asdict(flaw) for flaw in defects]})}
        )  # fmt: skip
    else:
        for found in breaks:
            place = "" if found.position is None else f" (position {found.position})"
            out.print(_failure_line(f"scan {found.scan_id}, version {found.version}{place}: {found.what}"), soft_wrap=True)
        for flaw in defects:
            whose = f" (scan {flaw.scan_id})" if flaw.scan_id else ""
            out.print(_failure_line(f"blob {flaw.digest}{whose}: {flaw.what}"), soft_wrap=True)
        if of_blobs is not None and not defects:
            out.print(_success_line(f"{of_blobs.blobs} blobs verified, none missing"))
        if not breaks:
            out.print(_success_line(f"{report.events} events of {report.scans} scans verified"))
    if breaks or defects:
        raise typer.Exit(1)


def seal(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Write the seal to this file. Keep it away from the database.")
    ],
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Sign a checkpoint of the log: a Merkle root over the newest link of every scan.

    If there is no key, one is created, with its public half beside it. Seals are never overwritten: an old one may be the only proof.

    Example: skydriver log seal -o today.seal
    """
    if output.exists():
        raise CliError(f"{output} already exists; seals are never overwritten", "Choose another file", exit_code=2)
    signer = _signing_key(key or data_dir / "keys" / "seal.pem")

    async def work() -> sealing.Seal:
        async with database(database_url, data_dir) as connection:
            total: int = await connection.fetchval("SELECT count(*) FROM manifests")
            with progress("sealing", total, as_json, unit="scans") as on_progress:
                return await sealing.make_seal(connection, signer, on_progress=on_progress)

    made = asyncio.run(work())
    try:
        with atomic_write(output) as file:
            file.write(made.as_json())
    except OSError as error:
        raise CliError(f"can't write {output}: {error.strerror}") from error
    if as_json:
        print_json({"made_at": made.made_at, "events": made.events, "scans": len(made.heads), "root": made.root})
    else:
        out.print(f"sealed {made.events} events of {len(made.heads)} scans, root {made.root}", soft_wrap=True)


def rebuild(
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the live views and report every row that differs.")
    ] = False,
    into: Annotated[str | None, typer.Option("--into", help="Write the views into this new schema and keep it.")] = None,
    swap: Annotated[
        bool, typer.Option("--swap", help="Replace the live views with the rebuilt ones, in one transaction.")
    ] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Compute the views from the whole log, beside the live ones. Give exactly one of --check, --into and --swap.

    Example: skydriver log rebuild --check
    """
    if [check, into is not None, swap].count(True) != 1:
        raise CliError("give exactly one of --check, --into and --swap", exit_code=2)
    if into is not None and into.startswith(OWN_NAME):
        raise CliError(
            f"names that begin with {OWN_NAME} are reserved for running rebuilds",
            "Choose another name",
            exit_code=2,
        )
    try:
        differs = asyncio.run(
            _check(database_url, data_dir, as_json) if check else _rebuild(database_url, data_dir, into, as_json)
        )
    except SchemaExists as error:
        raise CliError(str(error), "Choose another name", exit_code=2) from error
    except (HistoryBroken, UnknownEvent) as error:
        raise CliError(f"can't compute the views from the log: {error}", "Check the log with `skydriver log verify`") from error
    if differs:
        raise typer.Exit(1)


@contextmanager
def progress(what: str, total: int | None, as_json: bool, *, unit: str = "events") -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error if it is a terminal; call what it yields with the amount done."""
    hidden = as_json or not sys.stderr.isatty()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn(f"{{task.completed:.0f}} {unit}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Terminal(stderr=True), disable=hidden, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


async def _check(database_url: str | None, data_dir: Path, as_json: bool) -> bool:
    async with database(database_url, data_dir) as connection:
        with progress("computing views", await _events(connection), as_json) as on_progress:
            found = await rebuilding.check(connection, on_progress=on_progress)
    if as_json:
        differences = [{"view": each.view, "key": each.key, "what": each.what} for each in found.differences]
        print_json(
            {
                "events": found.events, "scans": found.scans, "differences": differences,
                "rows_of_other_releases": found.of_other_releases,
            }
        )  # fmt: skip
    else:
        for each in found.differences:
            out.print(_failure_line(f"{each.view} {each.key}: {each.what}"), soft_wrap=True)
        if not found.differences:
            out.print(_success_line(f"views match the log ({found.events} events of {found.scans} scans)"))
        if found.of_other_releases:
            out.print(
                f"{found.of_other_releases} rows were written by another release and lack what this release added. They are updated with "
                "the next event of their scan, or by `skydriver log rebuild --swap`",
                soft_wrap=True,
            )
    return bool(found.differences)


async def _rebuild(database_url: str | None, data_dir: Path, into: str | None, as_json: bool) -> bool:
    schema = into or f"{OWN_NAME}{secrets.token_hex(6)}"
    async with database(database_url, data_dir) as reading, database(database_url, data_dir) as writing:
        with progress("computing views", await _events(reading), as_json) as on_progress:
            if into is None:
                done = await rebuilding.rebuild_and_swap(reading, writing, schema, on_progress=on_progress)
            else:
                done, _ = await rebuilding.rebuild_into(reading, writing, schema, on_progress=on_progress)
    if as_json:
        print_json({"events": done.events, "scans": done.scans, "schema": into, "writers_kept_out_s": round(done.locked_s, 4)})
    elif into is None:
        out.print(f"views rebuilt from {done.events} events; writes were blocked for {done.locked_s * 1000:.0f} ms")
    else:
        out.print(f"views of {done.events} events of {done.scans} scans written into the schema {into}")
    return False


async def _events(connection: Connection) -> int | None:
    """Return the approximate number of events, for the progress bar."""
    found: int | None = await connection.fetchval("SELECT max(position) FROM event_log")
    return found


def _signing_key(path: Path) -> Ed25519PrivateKey:
    try:
        if not path.exists():
            made = Ed25519PrivateKey.generate()
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            write_private(path, made.private_bytes(serialization.Encoding.PEM, form, plain))
            public = serialization.PublicFormat.SubjectPublicKeyInfo
            path.with_suffix(".pub.pem").write_bytes(made.public_key().public_bytes(serialization.Encoding.PEM, public))
        found = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise CliError(f"can't read the private key {path} ({type(error).__name__})") from error
    if not isinstance(found, Ed25519PrivateKey):
        raise CliError(f"{path} is not an Ed25519 key")
    return found


def _verify_export(path: Path, against: sealing.Seal | None, as_json: bool) -> Report:
    sealed = {} if against is None else {(scan_id, version): digest for scan_id, version, digest in against.heads}
    with archive_problems(path), progress("checking", None, as_json) as on_progress:
        found = archive.check(path, sealed=sealed, on_progress=on_progress)
    return Report(events=found.tally.events, scans=found.manifest["scans"], breaks=found.tally.breaks)


@contextmanager
def archive_problems(path: Path) -> Iterator[None]:
    """Turn what can be wrong with an exported file into CliErrors."""
    try:
        yield
    except archive.ArchiveBroken as error:
        raise CliError(f"{path}: {error}", "Fetch the file again, or export again") from error
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}") from error


def _read_seal(path: Path, key: Path) -> sealing.Seal:
    try:
        public = serialization.load_pem_public_key(key.read_bytes())
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise CliError(
            f"can't read {key} or {path} ({type(error).__name__})", "Give the seal's public key with --key"
        ) from error
    if not isinstance(public, Ed25519PublicKey):
        raise CliError(f"{key} is not an Ed25519 key")
    try:
        return sealing.read_seal(content, public)
    except sealing.SealBroken as error:
        raise CliError(f"{path}: {error}") from error


def _plain(found: ChainBreak) -> dict[str, Any]:
    return {"scan_id": found.scan_id, "version": found.version, "position": found.position, "what": found.what}


def _success_line(what: str) -> Text:
    return line(("✓ ", "green"), what)


def _failure_line(what: str) -> Text:
    return line(("✗ ", "red"), what)
