"""``skydriver list | find | get | backlog | events | logs``: what there is, over the REST API."""

import json
import re
import sys
import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from skydriver_cli.errors import CliError
from skydriver_cli.formats import Fields, Format, NoHeaders, Output, print_document, print_rows
from skydriver_cli.options import DEFAULT_DATA_DIR, DataDir, ScanIdArgument, Token, Url
from skydriver_cli.output import Terminal
from skydriver_cli.scans_rest import USAGE, Context, ScanIds, connected, for_each, scan_ids

_COLUMNS = ("scan_id", "scan_state", "timestamp", "priority", "run_id", "event_id", "classifiers")
_WIDE = ("event_type", "i3_event_id", "ewms_workflow_id", "replaced_by_scan_id", "progress_summary")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PAGE = 500


def list_scans(
    state: Annotated[
        list[str] | None,
        typer.Option("--state", help="Scan state, its beginning, or waiting, running, complete, stopped, aborted. Repeatable."),
    ] = None,
    running: Annotated[bool, typer.Option("--running", help="Short for --state running.")] = False,
    run: Annotated[int | None, typer.Option("--run", help="Run of the event.")] = None,
    event: Annotated[int | None, typer.Option("--event", help="Number of the event in its run.")] = None,
    classifier: Annotated[
        list[str] | None, typer.Option("-l", "--classifier", help="NAME=VALUE of a classifier. Repeatable: all must match.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Requested since then: 10m, 2h, 3d ago, or a time like 2026-01-31T12:00Z.")
    ] = None,
    older: Annotated[str | None, typer.Option("--older", help="Requested before then, written as for --since.")] = None,
    min_priority: Annotated[int | None, typer.Option("--min-priority", help="Priority at least.")] = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="Deleted scans too.")] = False,
    sort: Annotated[str, typer.Option("--sort", help="newest, oldest or priority.")] = "newest",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Maximum number of scans.")] = 50,
    show_all: Annotated[bool, typer.Option("--all", help="All scans, however many.")] = False,
    output: Output = Format.TABLE,
    fields: Fields = None,
    no_headers: NoHeaders = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    context: Context = None,
) -> None:
    """List scans, the newest first.

    Example: skydriver list --running -l level=gold --since 2d -o wide
    """
    words: dict[str, Any] = {
        "state": [*(state or []), *(["running"] if running else [])], "run_id": run, "event_id": event,
        "classifiers": dict(_pair(each) for each in classifier or ()), "since": moment(since, "--since"), "until": moment(older, "--older"),
        "min_priority": min_priority, "include_deleted": deleted, "order": sort,
    }  # fmt: skip
    with connected(url, token, context, data_dir) as client:
        found = client.scans.list(**words, limit=_PAGE if show_all else min(limit, _PAGE))
        rows = (scan.raw for scan in (found if show_all else islice(found, limit)))
        print_rows(rows, output, columns=_COLUMNS, wide=_WIDE, fields=fields, no_headers=no_headers)


def find(
    search: Annotated[
        str,
        typer.Argument(metavar="FILTER", help="Filter in MongoDB's language, as JSON; @FILE reads a file, - standard input."),
    ],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Maximum number of scans. Default: all.")] = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="Deleted scans too.")] = False,
    output: Output = Format.TABLE,
    fields: Fields = None,
    no_headers: NoHeaders = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    context: Context = None,
) -> None:
    """Find scans with a filter of your own; see `skydriver list` for the usual ones.

    Example: skydriver find '{"event_metadata.run_id": 138632}' -o name
    """
    wanted = read_json_argument(search, "FILTER")
    if not isinstance(wanted, dict):
        raise CliError("FILTER: must be a JSON object", exit_code=USAGE)
    with connected(url, token, context, data_dir) as client:
        found = client.scans.find(wanted, include_deleted=deleted, limit=min(limit or 200, 200))
        rows = (_with_event(dict(scan.raw)) for scan in islice(found, limit))
        columns = [column for column in _COLUMNS if column != "scan_state"]
        print_rows(rows, output, columns=columns, wide=_WIDE[1:-1], fields=fields, no_headers=no_headers)


def get(
    scans: ScanIds,
    request: Annotated[bool, typer.Option("--request", help="The request, in the form that `POST /scan` accepts.")] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="Also if the scan is deleted.")] = False,
    output: Output = Format.TABLE,
    fields: Fields = None,
    no_headers: NoHeaders = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    context: Context = None,
) -> None:
    """Show scans: their manifests and states; with --request, what was asked for.

    Example: skydriver get SCAN_ID -o json --fields scan_state,progress.summary
    """
    rows: list[dict[str, Any]] = []
    with connected(url, token, context, data_dir) as client:

        def read(scan_id: str) -> None:
            if request:
                rows.append(dict(client.scans.request(scan_id)))
                return
            scan = client.scans.get(scan_id, include_deleted=deleted)
            assert scan.manifest is not None
            status = scan.status()
            state = {"scan_state": status.scan_state, "problems": status.raw.get("problems", [])}
            rows.append(_with_event(dict(scan.manifest.raw) | state))

        try:
            for_each(scan_ids(scans), read)
        finally:
            if rows and output in (Format.JSON, Format.YAML) and len(scans) == 1 and len(rows) == 1 and not fields:
                print_document(rows[0], output)
            elif rows:
                columns = ("scan_id", "reco_algo", "docker_tag", "nsides", "priority") if request else _COLUMNS
                wide = ("request_clusters", "i3_event_id") if request else _WIDE[1:-1]
                print_rows(rows, output, columns=columns, wide=wide, fields=fields, no_headers=no_headers)


def backlog(
    output: Output = Format.TABLE,
    fields: Fields = None,
    no_headers: NoHeaders = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    context: Context = None,
) -> None:
    """List the scans that wait to be launched, oldest first.

    Example: skydriver backlog -o name
    """
    with connected(url, token, context, data_dir) as client:
        rows = (entry.raw for entry in client.backlog())
        print_rows(
            rows, output, columns=("scan_id", "priority", "timestamp", "next_attempt"), fields=fields, no_headers=no_headers
        )


def events(
    scan_id: ScanIdArgument,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with live events until the scan is deleted.")] = False,
    after: Annotated[int, typer.Option("--after", min=0, help="Only events after this version.")] = 0,
    output: Output = Format.TABLE,
    fields: Fields = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    context: Context = None,
) -> None:
    """Show a scan's history.

    Example: skydriver events SCAN_ID --follow -o jsonl
    """
    if follow and output not in (Format.TABLE, Format.JSONL, Format.NAME):
        raise CliError("--follow: prints tables, names or jsonl", "Write -o jsonl", exit_code=USAGE)
    with connected(url, token, context, data_dir) as client:
        rows = (event.raw for event in client.scan(scan_id).events(after=after, follow=follow))
        columns = ("version", "recorded_at", "type", "actor")
        if follow and output == Format.TABLE:  # each as it comes
            for row in rows:
                print_rows([row], output, columns=columns, fields=fields, no_headers=True)
        else:
            print_rows(rows, output, columns=columns, wide=("data",), fields=fields, id_field="event_id")


def logs(
    scan_id: ScanIdArgument,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    context: Context = None,
) -> None:
    """Print where the log of the scan's scanner server can be seen.

    Example: skydriver logs SCAN_ID
    """
    with connected(url, token, context, data_dir) as client:
        link = client.scan(scan_id).logs()
    if link is None:
        raise CliError(f"there is no log of scan {scan_id} to be seen yet", "Retry when its scanner server has started")
    Terminal().print(link, soft_wrap=True, highlight=False)


def moment(text: str | None, option: str, now: float | None = None) -> float | None:
    """Unix seconds of ``10m`` (ago) or of a time; a time without a zone is in UTC. Raises CliError."""
    if text is None:
        return None
    ago = re.fullmatch(r"([0-9]{1,9})([smhdw])", text.strip())
    if ago is not None:
        return (time.time() if now is None else now) - int(ago[1]) * _UNITS[ago[2]]
    try:
        at = datetime.fromisoformat(text.strip())
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise CliError(
            f"{option}: {text!r} is no time", "Write 10m, 2h or 3d, or a time like 2026-01-31T12:00Z", exit_code=USAGE
        ) from None


def read_json_argument(text: str, what: str) -> Any:
    """A JSON value: written out, in a file (``@FILE``), or on standard input (``-``). Raises CliError with line and column."""
    where = what
    try:
        if text == "-":
            where, text = "standard input", sys.stdin.read()
        elif text.startswith("@"):
            where = text[1:]
            text = Path(where).read_bytes().decode("utf-8-sig")
        return json.loads(text)
    except OSError as error:
        raise CliError(f"can't read {where}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CliError(f"{where} is not a text file: byte {error.start} is not UTF-8", exit_code=USAGE) from error
    except json.JSONDecodeError as error:
        raise CliError(
            f"{where}, line {error.lineno}, column {error.colno}: {error.msg}", "It must be JSON", exit_code=USAGE
        ) from error
    except (ValueError, RecursionError) as error:
        raise CliError(f"{where}: {error}", "It must be JSON", exit_code=USAGE) from error


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise CliError(f"--classifier: invalid pair {text!r}", "Write NAME=VALUE, such as level=gold", exit_code=USAGE)
    return name.strip(), value


def _with_event(row: dict[str, Any]) -> dict[str, Any]:
    """The row with run and event where a list has them."""
    event = row.get("event_metadata")
    return row | ({"run_id": event.get("run_id"), "event_id": event.get("event_id")} if isinstance(event, dict) else {})


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("list")(list_scans)
    for command in (find, get, backlog, events, logs):
        app.command()(command)
