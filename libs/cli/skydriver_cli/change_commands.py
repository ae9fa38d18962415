"""``skydriver wait | stop | rescan | remix | add-workers``: what is done to scans, over the REST API."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from skydriver_cli.errors import CliError
from skydriver_cli.formats import Format, Output, RowPrinter, print_document, print_rows
from skydriver_cli.options import DEFAULT_DATA_DIR, DataDir, ScanIdArgument, Token, Url
from skydriver_cli.output import print_note
from skydriver_cli.scans_rest import USAGE, Context, ScanIds, connected, for_each, scan_ids

_NEW = ("scan_id", "priority", "classifiers")
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it to more than one scan.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, as JSON, and send nothing.")]


def wait(
    scans: ScanIds,
    until: Annotated[
        str, typer.Option("--for", help="finished: the final result. any-result: a partial one will do.")
    ] = "finished",
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, help="Give up after this time in seconds, for each scan.")
    ] = None,
    output: Output = Format.NAME,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    context: Context = None,
) -> None:
    """Wait until scans have their results. Exit code 3: a scan failed; 6: time is over.

    Example: skydriver wait SCAN_ID --timeout 3600 && skydriver result SCAN_ID
    """
    if until not in ("finished", "any-result"):
        raise CliError(f"--for: invalid value {until!r}", "Write finished or any-result", exit_code=USAGE)
    with connected(url, token, context, data_dir) as client, RowPrinter(output, columns=("scan_id", "scan_state")) as rows:

        def one(scan_id: str) -> None:
            status = client.scan(scan_id).wait(until=until, timeout_s=timeout)
            rows.add({"scan_id": scan_id, **status.raw})

        for_each(scan_ids(scans), one)


def stop(
    scans: ScanIds,
    even_if_complete: Annotated[
        bool, typer.Option("--even-if-complete", help="Also scans that have their final result.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    output: Output = Format.NAME,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    context: Context = None,
) -> None:
    """Stop scans and hide them. Their history is kept.

    Example: skydriver list --running -o name | skydriver stop - --yes
    """
    ids = scan_ids(scans)
    _confirm(ids, yes or dry_run, "stop")
    if dry_run:
        print_rows([{"scan_id": scan_id} for scan_id in ids], output, columns=("scan_id",), no_headers=True)
        return
    with connected(url, token, context, data_dir) as client, RowPrinter(output, columns=("scan_id", "is_deleted")) as rows:
        for_each(ids, lambda scan_id: rows.add(client.scans.stop(scan_id, even_if_complete=even_if_complete).raw))


def rescan(
    scans: ScanIds,
    abort_first: Annotated[bool, typer.Option("--abort-first", help="Stop the old scan first.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Who reads the old scan gets the new one.")] = False,
    yes: Yes = False,
    output: Output = Format.NAME,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    context: Context = None,
) -> None:
    """Scan again with the same request, and print the new scan.

    Example: skydriver rescan SCAN_ID --abort-first --replace
    """
    ids = scan_ids(scans)
    _confirm(ids, yes, "rescan")
    with connected(url, token, context, data_dir) as client, RowPrinter(output, columns=_NEW) as rows:

        def one(scan_id: str) -> None:
            made = client.scans.rescan(scan_id, abort_first=abort_first, replace=replace).manifest
            assert made is not None
            rows.add(made.raw)

        for_each(ids, one)


def remix(
    scan_id: ScanIdArgument,
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="FIELD=VALUE...", help="Changed fields; a dot goes into an object. An empty value takes it away."
        ),
    ],
    stop_first: Annotated[bool, typer.Option("--stop-first", help="Stop the old scan first.")] = False,
    dry_run: DryRun = False,
    output: Output = Format.NAME,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    context: Context = None,
) -> None:
    """Scan again with the same request and some fields changed, and print the new scan.

    Example: skydriver remix SCAN_ID reco_algo=splinempe nsides.512=24 --dry-run
    """
    from skydriver_client.calls import remixed

    with connected(url, token, context, data_dir) as client:
        body = remixed(changed(client.scans.request(scan_id), changes), {})
        if dry_run:
            print_document(body, Format.JSON if output == Format.NAME else output)
            return
        if stop_first:
            client.scans.stop(scan_id)
            print_note(f"scan {scan_id} is stopped")
        made = client.scans.create(body).manifest
        assert made is not None
        print_rows([made.raw], output, columns=_NEW, no_headers=True)


def add_workers(
    scans: ScanIds,
    n_workers: Annotated[int, typer.Option("-n", "--n-workers", min=1, help="How many workers, for each scan.")],
    cluster: Annotated[str, typer.Option("--cluster", help="On which cluster.")],
    yes: Yes = False,
    output: Output = Format.TABLE,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    context: Context = None,
) -> None:
    """Add workers to running scans.

    Example: skydriver add-workers SCAN_ID -n 100 --cluster osg
    """
    ids = scan_ids(scans)
    _confirm(ids, yes, "add workers to")
    columns = ("scan_id", "n_workers", "taskforce_uuid")
    with connected(url, token, context, data_dir) as client, RowPrinter(output, columns=columns) as rows:

        def one(scan_id: str) -> None:
            added = client.scans.add_workers(scan_id, n_workers, cluster=cluster)
            rows.add({"scan_id": scan_id, **added.raw})

        for_each(ids, one)


def changed(request: Any, changes: Sequence[str]) -> dict[str, Any]:
    """The request with ``field=value`` changes: a value is JSON where it reads as JSON, else text. Raises CliError."""
    body: dict[str, Any] = json.loads(json.dumps(dict(request)))
    for change in changes:
        path, equals, text = change.partition("=")
        *around, name = path.strip().split(".")
        if not equals or not name:
            raise CliError(f"{change!r} is no change", "Write FIELD=VALUE, such as reco_algo=splinempe", exit_code=USAGE)
        place = body
        for step in around:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise CliError(f"{path}: {step} is no object", exit_code=USAGE)
        if not around and name not in body:
            raise CliError(f"{name}: no field of the request; there are {', '.join(sorted(body))}", exit_code=USAGE)
        if text:
            place[name] = _value(text)
        else:
            place.pop(name, None)
    return body


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _confirm(ids: Sequence[str], yes: bool, verb: str) -> None:
    if len(ids) > 1 and not yes:
        raise CliError(f"this would {verb} {len(ids)} scans", "Add --yes if that is meant", exit_code=USAGE)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (wait, stop, rescan, remix):
        app.command()(command)
    app.command("add-workers")(add_workers)
