"""``skydriver up | down | demo | migrate``: the whole system on one machine, and the schema of any database."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.table import Column, Table

from skydriver_cli.errors import CliError
from skydriver_cli.options import DEFAULT_DATA_DIR, DataDir
from skydriver_cli.output import Terminal, line
from skydriver_cli.scan_commands import DEMO_NSIDES, Nsides, parse_nsides, show_result
from skydriver_cli.services import REPLICABLE_SERVICES

if TYPE_CHECKING:
    from skydriver_cli.embedded.options import Options
    from skydriver_cli.embedded.supervision import System

out, err = Terminal(), Terminal(stderr=True)

T = TypeVar("T")


def up(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    http_port: Annotated[
        int | None, typer.Option("--http-port", min=1, max=65535, help="Port of the REST API. Default: any free port.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Maximum number of sandbox workers.")] = 2,
    replicas: Annotated[
        list[str] | None,
        typer.Option("--replicas", help="Run several replicas of a service: NAME=COUNT. Repeatable."),
    ] = None,
    no_sandbox: Annotated[
        bool, typer.Option("--no-sandbox", help="Do not start the EWMS stand-in; requires SKYDRIVER_EWMS_URL.")
    ] = False,
) -> None:
    """Start the whole system on this machine and run until Ctrl-C.

    The services take their settings (`skydriver settings`) from the environment.

    Example: skydriver up --data-dir data --workers 4
    """
    from skydriver_cli.embedded.options import Options

    options = Options(
        data_dir=data_dir.absolute(), http_port=http_port, workers=workers, sandbox=not no_sandbox,
        replicas=parse_replicas(replicas or []),
    )  # fmt: skip
    asyncio.run(_up(options))


def down(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Stop the system that `up` started in this data directory.

    Example: skydriver down --data-dir data
    """
    from skydriver_cli.embedded import processes
    from skydriver_cli.embedded.data_directory import stop_leftovers
    from skydriver_common import process_identity

    supervisor = process_identity.read(data_dir / "run" / "up.pid.json")
    if supervisor is not None and process_identity.is_alive(supervisor):
        asyncio.run(processes.end(supervisor, grace_s=20.0))
        out.print("stopped")
        return
    leftovers = asyncio.run(stop_leftovers(data_dir.absolute()))
    if not leftovers:
        raise CliError(f"no system is running in {data_dir}", "Start one with `skydriver up`, or check --data-dir")
    out.print(line("`skydriver up` was killed earlier; stopped what it had left running: ", ", ".join(leftovers)))


def demo(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    nsides: Nsides = DEMO_NSIDES,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Maximum number of sandbox workers.")] = 2,
) -> None:
    """Start the system, scan the sample event, show the result, and stop everything.

    Example: skydriver demo --nsides 8:0,64:12
    """
    from skydriver_cli.embedded.options import Options

    asyncio.run(_demo(Options(data_dir=data_dir.absolute(), workers=workers), parse_nsides(nsides)))


def migrate(
    database_url: Annotated[str, typer.Option("--database-url", envvar="SKYDRIVER_DATABASE_URL", help="URL of the database.")],
    with_roles: Annotated[
        bool, typer.Option("--roles", help="Also create the services' database roles and grant their privileges.")
    ] = False,
    amqp_url: Annotated[
        str | None,
        typer.Option("--amqp-url", envvar="SKYDRIVER_AMQP_URL", help="URL of the broker. If given, also declare its queues."),
    ] = None,
) -> None:
    """Migrate the database to this release's schema. With --amqp-url, also declare exchanges and queues.

    Services of the previous and of this release may keep running: no step holds a lock for long, and nothing they use is removed.

    Example: SKYDRIVER_DATABASE_URL=postgresql://… SKYDRIVER_AMQP_URL=amqp://… skydriver migrate --roles
    """
    from skydriver_cli.connections import schema_problems, trust_ca_file
    from skydriver_common.db import migrate as migrations
    from skydriver_ops.db import roles

    def print_progress(text: str) -> None:
        err.print(line(text), highlight=False, soft_wrap=True)

    trust_ca_file()
    with schema_problems():
        applied = migrations.migrate(database_url, say=print_progress)
        newer = migrations.compare_schema(database_url).newer
        if newer and with_roles:
            raise CliError(
                f"the database schema is newer than this release (migration {newer[-1]}); no roles were created",
                "Run `skydriver migrate --roles` of that release",
            )
        try:
            if with_roles:
                roles.apply_roles(database_url)
        except roles.NotAllowed as error:
            raise CliError(
                "this database user can't create roles or grant privileges", "Use the owner of the tables, with CREATEROLE"
            ) from error
    if amqp_url:
        asyncio.run(_declare_queues(amqp_url))
    done = f"applied: {', '.join(applied)}" if applied else "applied: nothing, the schema is up to date"
    out.print(line(f"{done}; it is of a newer release (migration {newer[-1]})" if newer else done), soft_wrap=True)
    if amqp_url:
        out.print("declared: exchanges, and the queues of every consumer")


async def _declare_queues(amqp_url: str) -> None:
    """Declare what must exist before anything is published, also for consumers that have never started. Raises CliError."""
    from skydriver_common.bus import topology
    from skydriver_common.bus.broker import connect
    from skydriver_common.bus.errors import broker_faults
    from skydriver_common.faults import TryLater

    try:
        bus = await connect(amqp_url, name="migrate")
        try:
            with broker_faults():
                async with bus.channel() as channel:
                    await topology.declare(channel)
        finally:
            await bus.close()
    except TryLater as fault:
        raise CliError(
            f"the database was migrated, but the queues were not declared: {fault.what}", "Check the broker and its URL"
        ) from fault


def parse_replicas(values: list[str]) -> dict[str, int]:
    """Parse ``["progress=2"]`` to ``{"progress": 2}``. Raises CliError."""
    replicas: dict[str, int] = {}
    for pair in (pair for value in values for pair in value.split(",")):
        name, _, count = pair.partition("=")
        if name not in REPLICABLE_SERVICES or not count.isdigit() or int(count) < 1:
            raise CliError(
                f"--replicas: invalid value {pair!r}",
                f"Write NAME=COUNT, where NAME is one of {', '.join(REPLICABLE_SERVICES)}",
                exit_code=2,
            )
        replicas[name] = int(count)
    return replicas


async def _up(options: "Options") -> None:
    from skydriver_cli.embedded.system import running

    stop = _stop_on_signals()
    async with contextlib.AsyncExitStack() as stack:
        system = await _unless_stopped(stack.enter_async_context(running(options, _print_status)), stop)
        if system is None:
            _print_status("stopped before the start was complete")
            return
        _show_system(system)
        await _unless_stopped(system.supervise(), stop)
        _print_status("stopping")


async def _demo(options: "Options", nsides: dict[str, int]) -> None:
    from skydriver_cli.embedded.system import running

    stop = _stop_on_signals()
    started_at = time.monotonic()
    event = await asyncio.to_thread(_sample_event)
    _print_status("starting the system …")
    async with contextlib.AsyncExitStack() as stack:
        system = await _unless_stopped(stack.enter_async_context(running(options, _print_status)), stop)
        if system is None:
            _print_status("stopped before the start was complete")
            return
        _print_status(f"ready after {time.monotonic() - started_at:.1f} s")
        supervisor = asyncio.create_task(system.supervise())
        try:
            result = await _unless_stopped(_demo_scan(options.data_dir, nsides, event), stop)
        finally:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
        if result is not None:
            show_result(result)
    _print_status(f"everything stopped ({time.monotonic() - started_at:.1f} s in total)")


async def _demo_scan(data_dir: Path, nsides: dict[str, int], event: dict[str, Any]) -> dict[str, Any]:
    """Scan the event and return the result. Raises CliError when the scan does not complete."""
    from skydriver_cli.client import Client, find_connection
    from skydriver_cli.watching import watch as follow

    body = {
        "docker_tag": "latest",
        "reco_algo": "dummy",
        "nsides": nsides,
        "request_clusters": {"osg": 2},
        "real_or_simulated_event": "simulated",
        "max_pixel_reco_time": 600,
        "priority": 100,
        "event_i3live_json": event,
    }
    async with Client(find_connection(None, None, data_dir)) as client:
        manifest = json.loads(await client.create("/scan", body))
        out.print(line("Requested scan ", (manifest["scan_id"], "bold")))
        final = await follow(client, manifest["scan_id"], out)
        if not final["scan_complete"]:
            raise CliError(
                f"the scan ended in state {final['scan_state']}", f"See the logs in {data_dir / 'logs'} and {data_dir / 'work'}"
            )
        result: dict[str, Any] = await client.get(f"/scan/{manifest['scan_id']}/result")
        return result


def _sample_event() -> dict[str, Any]:
    """Return the sandbox's sample event, which a process of its own prints. Raises CliError."""
    command = [sys.executable, "-m", "skydriver_sandbox.sample_event"]
    try:
        event: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        raise CliError(
            f"can't get the sample event ({type(error).__name__})", "Try `python -m skydriver_sandbox.sample_event`"
        ) from error
    return event


async def _unless_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """Return what the work returns, or None when ``stop`` is set first: then the work is cancelled and has cleaned up."""
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


def _print_status(text: str) -> None:
    err.print(text, highlight=False)


def _show_system(system: "System") -> None:
    table = Table("part", Column("where", overflow="fold"), "health", title="SkyDriver is up (Ctrl-C stops it)")
    for name, address in system.addresses.items():
        table.add_row(name, address, "")
    for component in system.components:
        table.add_row(component.name, component.ready_url.rpartition("/")[0], line(("ready", "green")))
    out.print(table)
