"""``skydriver throttle …``: how fast scans below priority 100 are let go, changed while the system runs."""

import asyncio
import uuid
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import asyncpg
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skydriver_cli.connections import database
from skydriver_cli.dead_commands import actor
from skydriver_cli.errors import CliError
from skydriver_cli.options import DEFAULT_DATA_DIR, AsJson, DatabaseUrl, DataDir
from skydriver_cli.output import line, print_json
from skydriver_common.db.notifier import DUE_CHANNEL, LOG_CHANNEL
from skydriver_common.log import system_chain
from skydriver_common.model.commands import Context
from skydriver_common.model.events import ThrottleChanged
from skydriver_common.model.launch_limits import MAX_INTERVAL_S
from skydriver_ops.db.throttle import Change, Throttle, read_throttle, set_throttle

throttle = typer.Typer()
out = Console()


@throttle.command()
def show(data_dir: DataDir = DEFAULT_DATA_DIR, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Print what holds now, and what waits for it.

    Example: skydriver throttle show --json
    """

    async def work() -> Throttle:
        async with database(database_url, data_dir) as connection:
            return await read_throttle(connection)

    _print(asyncio.run(work()), as_json)


@throttle.command("set")
def set_(
    interval: Annotated[float | None, typer.Option(min=0, help="Seconds between two launches; 0: none.")] = None,
    max_running: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="Scans that may run at once; 0: nothing below priority 100 starts.")
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Change it for all dispatchers at once; noted in the log, as `skydriver log history system` shows.

    Example: skydriver throttle set --interval 30 --max-running 200
    """
    if interval is not None and not interval <= MAX_INTERVAL_S:
        raise CliError(f"--interval is at most {MAX_INTERVAL_S:.0f} s", "Give a smaller one", exit_code=2)
    if interval is None and max_running is None:
        raise CliError("nothing to set: give --interval, --max-running or both", "See `skydriver throttle show`", exit_code=2)
    change = Change(
        interval_s=interval, is_interval_given=interval is not None,
        max_running=max_running, is_max_running_given=max_running is not None,
    )  # fmt: skip
    _print(asyncio.run(_change(change, database_url, data_dir)), as_json)


@throttle.command()
def reset(data_dir: DataDir = DEFAULT_DATA_DIR, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Go back to what the dispatchers' settings say.

    Example: skydriver throttle reset
    """
    change = Change(is_interval_given=True, is_max_running_given=True)
    _print(asyncio.run(_change(change, database_url, data_dir)), as_json)


async def _change(change: Change, database_url: DatabaseUrl, data_dir: DataDir) -> Throttle:
    async with database(database_url, data_dir) as connection:
        try:
            async with connection.transaction():
                await system_chain.lock(connection)
                await set_throttle(connection, change, by=actor())
                now = await read_throttle(connection)
                command_id = str(uuid.uuid4())
                await system_chain.append(
                    connection, "operator", Context(command_id=command_id, correlation_id=command_id, actor=actor()),
                    [ThrottleChanged(interval_s=now.interval_s, max_running=now.max_running)],
                )  # fmt: skip
        except asyncpg.InsufficientPrivilegeError as error:
            raise CliError(
                "this database user may not change the throttle", "Use a user with the role skydriver_operator"
            ) from error
        await connection.execute("SELECT pg_notify($1, 'launch'), pg_notify($2, '')", DUE_CHANNEL, LOG_CHANNEL)
        return now


def _print(now: Throttle, as_json: bool) -> None:
    if as_json:
        print_json(asdict(now))
        return
    table = Table("below priority 100", "now", "from")
    where = {True: f"{now.changed_by}, {_moment(now.changed_at)}", False: "the settings"}
    table.add_row("between two launches", f"{now.interval_s:g} s", Text(where[now.is_interval_set]))
    cap = "no limit" if now.max_running is None else str(now.max_running)
    table.add_row("running at once", f"{now.running} of {cap}", Text(where[now.is_max_running_set]))
    table.add_row("waiting", str(now.waiting), f"and {now.waiting_urgent} urgent")
    out.print(table)
    if now.is_held:
        out.print(line((f"held until {_moment(now.held_until)}: ", "yellow"), str(now.held_because)))
    elif now.next_at is not None and now.waiting:
        out.print(f"the next one may start at {_moment(now.next_at)}")


def _moment(when: datetime | None) -> str:
    return "" if when is None else when.strftime("%Y-%m-%d %H:%M:%S UTC")
