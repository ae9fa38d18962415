"""``skydriver …``: the commands. Each says with --help what it does, with an example."""

import asyncio
import contextlib
import json
import re
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from skydriver_cli import log_archive_commands, log_proof_commands, log_replay_commands
from skydriver_cli.asyncapi import show_asyncapi
from skydriver_cli.client import Client, Connection, find_connection
from skydriver_cli.connections import schema_problems
from skydriver_cli.dead_commands import dead
from skydriver_cli.errors import Problem
from skydriver_cli.log_commands import log
from skydriver_cli.output import line, print_json
from skydriver_cli.sandbox_commands import sandbox
from skydriver_cli.settings_page import show_settings
from skydriver_cli.throttle_commands import throttle
from skydriver_common.faults import TryLater

app = typer.Typer(
    help="SkyDriver: scan the sky for the origin of a neutrino event.", no_args_is_help=True, rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)  # fmt: skip
log_archive_commands.add_to(log)
log_proof_commands.add_to(log)
log_replay_commands.add_to(log)
app.add_typer(log, name="log")
app.add_typer(dead, name="dead")
app.add_typer(throttle, name="throttle")
app.add_typer(sandbox, name="sandbox")
app.command("settings")(show_settings)
app.command("asyncapi")(show_asyncapi)
out, err = Console(), Console(stderr=True)

DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="SKYDRIVER_DATA_DIR", help="Folder that holds the embedded system.")
]
Url = Annotated[str | None, typer.Option("--url", help="REST API; default: SKYDRIVER_URL, else the data folder's.")]
Token = Annotated[str | None, typer.Option("--token", help="Bearer token; default: SKYDRIVER_TOKEN, else the data folder's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Nsides = Annotated[str, typer.Option("--nsides", help="nside:extension pairs, coarse to fine.")]
DEFAULT_DATA_DIR = Path("data")
DEMO_NSIDES = "8:0,64:12,512:24"

T = TypeVar("T")


def main() -> NoReturn:
    """The program: a Problem becomes one readable line and an exit code."""
    try:
        app(standalone_mode=True)
    except Problem as problem:
        err.print(line(("skydriver: ", "red"), str(problem)), soft_wrap=True)
        sys.exit(problem.exit_code)
    sys.exit(0)


@app.command()
def up(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    http_port: Annotated[
        int | None, typer.Option("--http-port", min=1, max=65535, help="Port of the REST API; default: any free one.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Worker processes of the sandbox at most.")] = 2,
    replicas: Annotated[
        list[str] | None, typer.Option("--replicas", help="More than one process of a service: name=count; repeatable.")
    ] = None,
    no_sandbox: Annotated[
        bool, typer.Option("--no-sandbox", help="Without the stand-in EWMS: use the one that SKYDRIVER_EWMS_URL names.")
    ] = False,
) -> None:
    """Start the whole system on this machine and stay until Ctrl-C.

    Settings of the services (`skydriver settings`) are taken from the environment.

    Example: skydriver up --data-dir data --workers 4
    """
    from skydriver_cli.embedded.system import Options

    options = Options(
        data_dir=data_dir.absolute(), http_port=http_port, workers=workers, sandbox=not no_sandbox,
        replicas=parse_replicas(replicas or []),
    )  # fmt: skip
    asyncio.run(_up(options))


@app.command()
def down(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Stop the system that `up` started on this data folder.

    Example: skydriver down --data-dir data
    """
    from skydriver_cli.embedded import processes
    from skydriver_cli.embedded.system import end_leftovers

    who = processes.Identity.read(data_dir / "run" / "up.pid.json")
    if who is not None and processes.is_alive(who):
        asyncio.run(processes.end(who, grace_s=20.0))
        out.print("stopped")
        return
    left = asyncio.run(end_leftovers(data_dir.absolute()))
    if not left:
        raise Problem(f"no system runs on {data_dir}")
    out.print(line("`skydriver up` had been killed; ended what it left running: ", ", ".join(left)))


@app.command()
def status(
    scan_id: Annotated[str | None, typer.Argument(help="A scan; without it the whole system.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Say whether the system answers, and what waits for its launch; or how a scan is, and why it waits or has failed.

    Example: skydriver status 18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c
    """
    connection = find_connection(url, token, data_dir)
    if scan_id is not None:
        _show_scan(json.loads(_run(_content(connection, f"/scan/{scan_id}/status"))), as_json)
        return
    entries = _run(_backlog(connection))
    if as_json:
        print_json({"url": connection.url, "answers": True, "backlog": entries})
        return
    out.print(f"[green]●[/green] {connection.url} answers, {len(entries)} scans wait")
    if entries:
        table = Table("scan", "priority", "attempts")
        for entry in entries:
            table.add_row(Text(entry["scan_id"]), str(entry["priority"]), str(entry["next_attempt"]))
        out.print(table)


@app.command()
def submit(
    event: Annotated[Path, typer.Argument(help="A realtime event as JSON.", exists=True, dir_okay=False, readable=True)],
    nsides: Nsides = DEMO_NSIDES,
    reco_algo: Annotated[str, typer.Option("--reco-algo", help="Reconstruction algorithm.")] = "dummy",
    docker_tag: Annotated[str, typer.Option("--docker-tag", help="Scanner image.")] = "latest",
    cluster: Annotated[str, typer.Option("--cluster", help="Clusters and workers: name:count, by commas.")] = "osg:2",
    priority: Annotated[int, typer.Option("--priority", help="100 and more starts at once.")] = 0,
    simulated: Annotated[bool, typer.Option("--simulated", help="The event is simulated.")] = False,
    watch_it: Annotated[bool, typer.Option("--watch", help="Watch it to its end.")] = False,
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
        "nsides": _once(parse_pairs(nsides, "--nsides"), "--nsides"),
        "request_clusters": parse_pairs(cluster, "--cluster"),  # as pairs: a cluster may be named twice
        "real_or_simulated_event": "simulated" if simulated else "real",
        "max_pixel_reco_time": 600,
        "priority": priority,
        "event_i3live_json": _read_event(event),
    }
    connection = find_connection(url, token, data_dir)
    manifest = _run(_submit(connection, body))
    if as_json:
        print_json(manifest)
    else:
        out.print(line("scan ", (manifest["scan_id"], "bold"), " is requested"))
    if watch_it:
        _watch(connection, manifest["scan_id"], as_json)


@app.command()
def watch(
    scan_id: str, data_dir: DataDir = DEFAULT_DATA_DIR, url: Url = None, token: Token = None, as_json: AsJson = False
) -> None:
    """Watch a scan to its end: a bar per nside, time left, best direction so far.

    Example: skydriver watch 18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c
    """
    _watch(find_connection(url, token, data_dir), scan_id, as_json)


@app.command()
def result(
    scan_id: str,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the result's JSON to this file.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show a scan's result, or save it.

    Example: skydriver result 18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c -o result.json
    """
    content = _run(_content(find_connection(url, token, data_dir), f"/scan/{scan_id}/result"))
    if output is not None:
        if not json.loads(content):
            raise Problem(f"scan {scan_id} has no result yet; nothing was written", "`skydriver watch` waits for it")
        try:
            output.write_bytes(content)
        except OSError as error:
            raise Problem(f"{output} can't be written: {error.strerror}") from error
        out.print(f"{len(content)} bytes written to {output}")
    elif as_json:
        sys.stdout.write(content.decode() + "\n")
    else:
        show_result(json.loads(content))


@app.command()
def demo(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    nsides: Nsides = DEMO_NSIDES,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Worker processes.")] = 2,
) -> None:
    """Start the system, scan the sample event, show the result, stop everything.

    Example: skydriver demo --nsides 8:0,64:12
    """
    from skydriver_cli.embedded.system import Options

    asyncio.run(
        _demo(Options(data_dir=data_dir.absolute(), workers=workers), _once(parse_pairs(nsides, "--nsides"), "--nsides"))
    )


@app.command()
def migrate(
    database_url: Annotated[str, typer.Option("--database-url", envvar="SKYDRIVER_DATABASE_URL", help="The database.")],
    with_roles: Annotated[
        bool, typer.Option("--roles", help="Make the services' database roles, too, and grant them what they need.")
    ] = False,
    amqp_url: Annotated[
        str | None, typer.Option("--amqp-url", envvar="SKYDRIVER_AMQP_URL", help="The broker; its queues are declared, too.")
    ] = None,
) -> None:
    """Bring a database to this release's schema, and declare its queues where the broker is named.

    Old and new programs may run meanwhile: no step waits long with a lock, and what older ones use stays.

    Example: SKYDRIVER_DATABASE_URL=postgresql://… SKYDRIVER_AMQP_URL=amqp://… skydriver migrate --roles
    """
    from skydriver_common.db import migrate as migrations
    from skydriver_ops.db import roles

    def say(text: str) -> None:
        err.print(line(text), highlight=False, soft_wrap=True)

    with schema_problems():
        applied = migrations.migrate(database_url, say=say)
        newer = migrations.look(database_url).newer
        if newer and with_roles:
            raise Problem(
                f"the database is a newer release's ({newer[-1]}), whose roles have rights that this one does not know",
                "Make roles with the programs of that release",
            )
        try:
            if with_roles:
                roles.apply_roles(database_url)
        except roles.NotAllowed as error:
            raise Problem(
                "this user may not make roles or grant rights", "Use the owner of the tables, with CREATEROLE"
            ) from error
    if amqp_url:
        asyncio.run(_declare(amqp_url))
    done = f"applied: {', '.join(applied)}" if applied else "applied: nothing, the schema is up to date"
    out.print(line(f"{done}; it is a newer release's ({newer[-1]})" if newer else done), soft_wrap=True)
    if amqp_url:
        out.print("declared: exchanges, and the queues of every consumer")


async def _declare(amqp_url: str) -> None:
    """What must exist at the broker before anything is published, for consumers too that have never started. Raises Problem."""
    from skydriver_common.bus import topology
    from skydriver_common.bus.broker import connect
    from skydriver_common.bus.errors import broker_faults

    try:
        bus = await connect(amqp_url, name="migrate")
        try:
            with broker_faults():
                async with bus.channel() as channel:
                    await topology.declare(channel)
        finally:
            await bus.close()
    except TryLater as fault:
        raise Problem(
            f"the database is migrated, the queues are not declared: {fault.what}", "Check the URL and the broker"
        ) from fault


def parse_pairs(text: str, option: str) -> list[tuple[str, int]]:
    """``8:0,64:12`` to ``[("8", 0), ("64", 12)]``. Raises Problem naming the option."""
    pairs: list[tuple[str, int]] = []
    for pair in text.split(","):
        name, colon, number = pair.strip().partition(":")
        if not (name and colon and re.fullmatch(r"-?[0-9]{1,18}", number)):
            raise Problem(
                f"{option}: {pair!r} is no pair", "Write name:number pairs joined by commas, such as 8:0,64:12", exit_code=2
            )
        pairs.append((name, int(number)))
    return pairs


def _once(pairs: list[tuple[str, int]], option: str) -> dict[str, int]:
    """The pairs as a mapping. Raises Problem when a name stands there twice."""
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Problem(f"{option}: {twice[0]!r} appears twice", "Name each nside once", exit_code=2)
    return dict(pairs)


def _read_event(path: Path) -> str:
    """An event file's text: UTF-8 whatever the locale, with or without a byte order mark. Raises Problem."""
    from skydriver_common.payloads.jsonbody import NotJson, located, member_extents

    try:
        text = path.read_bytes().decode("utf-8-sig")
        raw = text.encode()
        member_extents(raw)
    except OSError as error:
        raise Problem(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Problem(f"{path} is not a text file: byte {error.start} is not UTF-8", exit_code=2) from error
    except NotJson as error:
        raise Problem(f"{path} {located(raw, error)}", "An event is one JSON object", exit_code=2) from error
    return text


def _show_scan(status: dict[str, Any], as_json: bool) -> None:
    from skydriver_cli.watching import problem_lines, state_line

    if as_json:
        print_json(status)
        return
    out.print(state_line(status), *problem_lines(status["problems"]), sep="\n", highlight=False)
    if status["ewms_as_of"] is not None:
        out.print(f"[dim]EWMS was heard of {max(0.0, time.time() - status['ewms_as_of']):.0f} s ago[/dim]", highlight=False)


def parse_replicas(words: list[str]) -> dict[str, int]:
    """``["progress=2"]`` to ``{"progress": 2}``. Raises Problem."""
    from skydriver_cli.embedded.system import REPLICABLE

    found: dict[str, int] = {}
    for word in (part for words_of_one in words for part in words_of_one.split(",")):
        name, _, count = word.partition("=")
        if name not in REPLICABLE or not count.isdigit() or int(count) < 1:
            raise Problem(
                f"--replicas: {word!r} is not understood",
                f"Write name=count, with a name of {', '.join(REPLICABLE)}",
                exit_code=2,
            )
        found[name] = int(count)
    return found


def show_result(content: dict[str, Any]) -> None:
    """A result as a table and a small picture of the sky."""
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
            f"best direction: RA [bold]{best.ra:.3f}°[/bold], dec [bold]{best.dec:+.3f}°[/bold]  (nside {best.nside}, llh {best.llh:.2f})"
        )
    for row in picture(skymap):
        out.print(row, highlight=False, markup=False)


async def _up(options: Any) -> None:
    from skydriver_cli.embedded.system import running

    stop = _stop_on_signals()
    async with contextlib.AsyncExitStack() as stack:
        system = await _unless_stopped(stack.enter_async_context(running(options, _say)), stop)
        if system is None:
            _say("stopped before the start was complete")
            return
        _show_system(system)
        await _unless_stopped(system.supervise(), stop)
        _say("stopping")


async def _demo(options: Any, nsides: dict[str, int]) -> None:
    from skydriver_cli.embedded.system import running

    stop = _stop_on_signals()
    began = time.monotonic()
    _say("starting the system …")
    async with contextlib.AsyncExitStack() as stack:
        system = await _unless_stopped(stack.enter_async_context(running(options, _say)), stop)
        if system is None:
            _say("stopped before the start was complete")
            return
        _say(f"ready after {time.monotonic() - began:.1f} s")
        supervisor = asyncio.create_task(system.supervise())
        try:
            result = await _unless_stopped(_demo_scan(options.data_dir, nsides), stop)
        finally:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
        if result is not None:
            show_result(result)
    _say(f"everything is stopped; the whole took {time.monotonic() - began:.1f} s")


async def _demo_scan(data_dir: Path, nsides: dict[str, int]) -> dict[str, Any]:
    """Scan the sample event and return its result. Raises Problem when the scan does not complete."""
    from skydriver_cli.watching import watch as follow
    from skydriver_sandbox.sample_event import sample_event

    body = {
        "docker_tag": "latest",
        "reco_algo": "dummy",
        "nsides": nsides,
        "request_clusters": {"osg": 2},
        "real_or_simulated_event": "simulated",
        "max_pixel_reco_time": 600,
        "priority": 100,
        "event_i3live_json": sample_event(),
    }
    async with Client(find_connection(None, None, data_dir)) as client:
        manifest = json.loads(await client.create("/scan", body))
        out.print(line("scan ", (manifest["scan_id"], "bold"), " is requested"))
        final = await follow(client, manifest["scan_id"], out)
        if not final["scan_complete"]:
            raise Problem(
                f"the scan ended as {final['scan_state']}", f"Logs are in {data_dir / 'logs'} and {data_dir / 'work'}"
            )
        result: dict[str, Any] = await client.get(f"/scan/{manifest['scan_id']}/result")
        return result


async def _unless_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """What the work returns; None when ``stop`` is set first: then the work is cancelled and has cleaned up. Raises what it raises."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return None
    finally:
        stopped.cancel()


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _say(text: str) -> None:
    err.print(text, highlight=False, markup=False)


def _show_system(system: Any) -> None:
    table = Table("part", Column("where", overflow="fold"), "health", title="SkyDriver is up (Ctrl-C stops it)")
    for name, where in system.where.items():
        table.add_row(name, Text(where), "")
    for part in system.parts:
        table.add_row(part.name, part.ready_url.rpartition("/")[0], "[green]ready[/green]")
    out.print(table)


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def _backlog(connection: Connection) -> list[dict[str, Any]]:
    async with Client(connection) as client:
        answer = await client.get("/scans/backlog")
    entries: list[dict[str, Any]] = answer["entries"]
    return entries


async def _submit(connection: Connection, body: dict[str, Any]) -> dict[str, Any]:
    async with Client(connection) as client:
        manifest: dict[str, Any] = json.loads(await client.create("/scan", body))
    return manifest


async def _content(connection: Connection, path: str) -> bytes:
    async with Client(connection) as client:
        return await client.content("GET", path)


def _watch(connection: Connection, scan_id: str, as_json: bool) -> None:
    final = _run(_follow(connection, scan_id, as_json))
    if not final["scan_complete"]:
        raise Problem(f"scan {scan_id} ended as {final['scan_state']}", "Its history is in the event log")


async def _follow(connection: Connection, scan_id: str, as_json: bool) -> dict[str, Any]:
    from skydriver_cli.watching import watch as follow

    async with Client(connection) as client:
        return await follow(client, scan_id, out, as_json=as_json)


if __name__ == "__main__":
    main()
