"""``skydriver submit | status | watch | result``: the commands of users, over the REST API only."""

import asyncio
import json
import os
import re
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.table import Table

from skydriver_cli.errors import CliError
from skydriver_cli.options import DEFAULT_DATA_DIR, AsJson, DataDir, ScanIdArgument, Token, Url
from skydriver_cli.output import Terminal, line, print_json, print_json_document

if TYPE_CHECKING:
    from skydriver_cli.client import Client

out = Terminal()

Nsides = Annotated[
    str, typer.Option("--nsides", help="Pixelations from coarse to fine: NSIDE:EXTENSION pairs, separated by commas.")
]
DEMO_NSIDES = "8:0,64:12,512:24"

T = TypeVar("T")


def status(
    scan_id: Annotated[str | None, typer.Argument(help="Id of a scan. Without it, show the whole system.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show how each service is and which scans are waiting. With SCAN_ID, show the scan's state and problems.

    Of the system on this machine each service is asked: one that runs and does not respond is shown as such.

    Example: skydriver status 18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c
    """
    parts = _parts_here(data_dir) if scan_id is None and not url and not os.environ.get("SKYDRIVER_URL") else {}
    if not as_json:
        _show_parts(data_dir, parts)
    client = _client(url, token, data_dir)
    if scan_id is not None:
        _show_scan(json.loads(_run(_content(client, f"/scan/{scan_id}/status"))), as_json)
        return
    entries: list[dict[str, Any]] = json.loads(_run(_content(client, "/scans/backlog")))["entries"]
    if as_json:
        print_json({"url": client.url, "answers": True, "backlog": entries, **parts})
        return
    out.print(line(("● ", "green"), f"{client.url} is up, {len(entries)} scan{'' if len(entries) == 1 else 's'} waiting"))
    if entries:
        table = Table("scan", "priority", "attempts")
        for entry in entries:
            table.add_row(entry["scan_id"], str(entry["priority"]), str(entry["next_attempt"]))
        out.print(table)


_LITTLE_ROOM_BYTES = 1024**3


def _parts_here(data_dir: Path) -> dict[str, Any]:
    """How the services of this machine's system are, asked one by one; empty when none runs here."""
    from skydriver_cli.embedded.health import free_bytes, look

    try:
        parts = _run(look(data_dir))
    except CliError:
        return {}  # the REST API says the rest
    return {
        "parts": [{"name": one.name, "state": one.state, "not_ready": list(one.not_ready)} for one in parts],
        "free_bytes": free_bytes(data_dir),
    }


def _show_parts(data_dir: Path, found: dict[str, Any]) -> None:
    for part in found.get("parts", ()):
        why = f": {', '.join(part['not_ready'])}" if part["not_ready"] else ""
        style = "green" if part["state"] == "is ready" else "red"
        out.print(line(("●", style), f" {part['name']} {part['state']}{why}"), highlight=False)
    if found and found["free_bytes"] < _LITTLE_ROOM_BYTES:
        left = f" the disk of {data_dir} has {found['free_bytes'] / 1024**2:.0f} MiB left"
        out.print(line(("●", "red"), left), highlight=False)


def submit(
    event: Annotated[
        Path, typer.Argument(help="File with a realtime event in JSON.", exists=True, dir_okay=False, readable=True)
    ],
    nsides: Nsides = DEMO_NSIDES,
    reco_algo: Annotated[str, typer.Option("--reco-algo", help="Reconstruction algorithm.")] = "dummy",
    docker_tag: Annotated[str, typer.Option("--docker-tag", help="Tag of the scanner image.")] = "latest",
    cluster: Annotated[str, typer.Option("--cluster", help="Workers per cluster: NAME:COUNT, separated by commas.")] = "osg:2",
    priority: Annotated[
        int, typer.Option("--priority", help="Launch priority. Scans of 100 or higher bypass the throttle.")
    ] = 0,
    simulated: Annotated[bool, typer.Option("--simulated", help="The event is simulated.")] = False,
    watch_it: Annotated[bool, typer.Option("--watch", help="Follow the scan until it ends.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, as JSON, and send nothing.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Request a scan of an event.

    Example: skydriver submit event.json --nsides 8:0,64:12 --watch
    """
    body = {
        "docker_tag": docker_tag,
        "reco_algo": reco_algo,
        "nsides": parse_nsides(nsides),
        "request_clusters": parse_pairs(cluster, "--cluster"),  # as pairs: a cluster may be named twice
        "real_or_simulated_event": "simulated" if simulated else "real",
        "max_pixel_reco_time": 600,
        "priority": priority,
        "event_i3live_json": _read_event(event),
    }
    if dry_run:
        print_json(body)
        return
    client = _client(url, token, data_dir)
    manifest = _run(_create_scan(client, body))
    if as_json:
        print_json(manifest)
    else:
        out.print(line("Requested scan ", (manifest["scan_id"], "bold")))
    if watch_it:
        _watch(client, manifest["scan_id"], as_json)


def watch(
    scan_id: ScanIdArgument,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Follow a scan until it ends: progress per nside, time left, best fit.

    Example: skydriver watch 18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c
    """
    _watch(_client(url, token, data_dir), scan_id, as_json)


def result(
    scan_id: ScanIdArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the result as JSON to this file instead of showing it.")
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show a scan's result, or save it.

    Example: skydriver result 18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c -o result.json
    """
    content = _run(_content(_client(url, token, data_dir), f"/scan/{scan_id}/result"))
    if output is not None:
        if not json.loads(content):
            raise CliError(
                f"scan {scan_id} has no result yet; nothing was written", f"Follow it with `skydriver watch {scan_id}`"
            )
        try:
            output.write_bytes(content)
        except OSError as error:
            raise CliError(f"can't write {output}: {error.strerror}") from error
        out.print(f"wrote {len(content)} bytes to {output}")
    elif as_json:
        print_json_document(content.decode())
    else:
        show_result(json.loads(content))


def show_result(content: dict[str, Any]) -> None:
    """Print a result as a table and a small picture of the sky."""
    from skydriver_cli.skymap import best_fit, picture, pixel_counts

    if not content:
        out.print("the scan has no result yet")
        return
    skymap = content["skyscan_result"]
    out.print(line("final" if content["is_final"] else "partial", " result of scan ", (content["scan_id"], "bold")))
    table = Table("nside", "pixels")
    for nside, pixels in pixel_counts(skymap).items():
        table.add_row(str(nside), str(pixels))
    out.print(table)
    best = best_fit(skymap)
    if best is not None:
        out.print(
            line(
                "best fit: RA ",
                (f"{best.ra:.3f}°", "bold"),
                ", dec ",
                (f"{best.dec:+.3f}°", "bold"),
                f"  (nside {best.nside}, llh {best.llh:.2f})",
            )
        )
    for row in picture(skymap):
        out.print(row, highlight=False)


def parse_pairs(text: str, option: str) -> list[tuple[str, int]]:
    """Parse ``8:0,64:12`` to ``[("8", 0), ("64", 12)]``. Raises CliError that names the option."""
    pairs: list[tuple[str, int]] = []
    for pair in text.split(","):
        name, colon, number = pair.strip().partition(":")
        if not (name and colon and re.fullmatch(r"-?[0-9]{1,18}", number)):
            raise CliError(
                f"{option}: invalid pair {pair!r}",
                "Write NAME:NUMBER pairs separated by commas, such as 8:0,64:12",
                exit_code=2,
            )
        pairs.append((name, int(number)))
    return pairs


def parse_nsides(text: str) -> dict[str, int]:
    """Parse the value of ``--nsides``. Raises CliError, also when an nside appears twice."""
    pairs = parse_pairs(text, "--nsides")
    names = [name for name, _ in pairs]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise CliError(f"--nsides: {duplicates[0]!r} appears twice", "Name each nside once", exit_code=2)
    return dict(pairs)


def _read_event(path: Path) -> str:
    """Return an event file's text: UTF-8 whatever the locale, with or without a byte order mark. Raises CliError."""
    from skydriver_common.payloads.jsonbody import NotJson, located, member_extents

    try:
        text = path.read_bytes().decode("utf-8-sig")
        raw = text.encode()
        member_extents(raw)
    except OSError as error:
        raise CliError(f"can't read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CliError(f"{path} is not a text file: byte {error.start} is not UTF-8", exit_code=2) from error
    except NotJson as error:
        raise CliError(f"{path} {located(raw, error)}", "An event is one JSON object", exit_code=2) from error
    return text


def _show_scan(status: dict[str, Any], as_json: bool) -> None:
    from skydriver_cli.watching import problem_lines, state_line

    if as_json:
        print_json(status)
        return
    out.print(state_line(status), *problem_lines(status["problems"]), sep="\n", highlight=False)
    if status["ewms_as_of"] is not None:
        age_s = max(0.0, time.time() - status["ewms_as_of"])
        out.print(line((f"Worker counts updated {age_s:.0f} s ago", "dim")))


def _client(url: str | None, token: str | None, data_dir: Path) -> "Client":
    from skydriver_cli.client import Client, Connection, find_connection
    from skydriver_cli.scans_rest import is_local, profile_server

    if url or is_local(data_dir, None) or os.environ.get("SKYDRIVER_URL"):
        return Client(find_connection(url, token, data_dir))
    server = profile_server(has_token=token is not None)
    if server is None:
        return Client(find_connection(url, token, data_dir))
    return Client(Connection(server.url, token or server.token or ""))


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def _create_scan(client: "Client", body: dict[str, Any]) -> dict[str, Any]:
    async with client:
        manifest: dict[str, Any] = json.loads(await client.create("/scan", body))
    return manifest


async def _content(client: "Client", path: str) -> bytes:
    async with client:
        return await client.content("GET", path)


def _watch(client: "Client", scan_id: str, as_json: bool) -> None:
    final = _run(_follow(client, scan_id, as_json))
    if not final["scan_complete"]:
        raise CliError(
            f"scan {scan_id} ended in state {final['scan_state']}", f"See `skydriver log history {scan_id}`", exit_code=3
        )


async def _follow(client: "Client", scan_id: str, as_json: bool) -> dict[str, Any]:
    from skydriver_cli.watching import watch as follow

    async with client:
        return await follow(client, scan_id, out, as_json=as_json)
