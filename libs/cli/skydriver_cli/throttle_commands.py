"""``skydriver throttle …``: how fast scans below priority 100 are launched, changed while the system runs."""

import asyncio
import uuid
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import asyncpg
import typer
from rich.table import Table

from skydriver_cli.connections import database
from skydriver_cli.dead_commands import actor
from skydriver_cli.errors import CliError
from skydriver_cli.options import DEFAULT_DATA_DIR, AsJson, DatabaseUrl, DataDir
from skydriver_cli.output import Terminal, line, print_json
from skydriver_common.db.notifier import DUE_CHANNEL, LOG_CHANNEL
from skydriver_common.log import system_chain
from skydriver_common.model.commands import Context
from skydriver_common.model.events import ThrottleChanged
from skydriver_common.model.launch_limits import MAX_INTERVAL_S
from skydriver_ops.db.throttle import Change, Throttle, read_throttle, set_throttle

throttle = typer.Typer()
out = Terminal()


@throttle.command()
def show(data_dir: DataDir = DEFAULT_DATA_DIR, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Show the current throttle and how many scans are waiting.

    Example: skydriver throttle show --json
    """

    async def work() -> Throttle:
        async with database(database_url, data_dir) as connection:
            return await read_throttle(connection)

    _print(asyncio.run(work()), as_json)


@throttle.command("set")
def set_(
    interval: Annotated[
        float | None, typer.Option(min=0, help="Minimum seconds between launches; 0 disables the interval.")
    ] = None,
    max_running: Annotated[
        int | None,
        typer.Option(min=0, max=2**31 - 1, help="Maximum number of running scans; 0 launches nothing below priority 100."),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Change the throttle for all dispatchers. Recorded in the event log (`skydriver log history system`).

    Example: skydriver throttle set --interval 30 --max-running 200
    """
    if interval is not None and not interval <= MAX_INTERVAL_S:
        raise CliError(f"--interval: must be at most {MAX_INTERVAL_S:.0f} s", "Give a smaller value", exit_code=2)
    if interval is None and max_running is None:
        raise CliError("give --interval, --max-running or both", "See `skydriver throttle show`", exit_code=2)
    change = Change(
        interval_s=interval, is_interval_given=interval is not None,
        max_running=max_running, is_max_running_given=max_running is not None,
    )  # fmt: skip
    _print(asyncio.run(_change(change, database_url, data_dir)), as_json)


@throttle.command()
def reset(data_dir: DataDir = DEFAULT_DATA_DIR, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Return to the throttle in the dispatchers' settings. Recorded in the event log.

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
                "this database user can't change the throttle", "Use a user with the role skydriver_operator"
            ) from error
        await connection.execute("SELECT pg_notify($1, 'launch'), pg_notify($2, '')", DUE_CHANNEL, LOG_CHANNEL)
        return now


def _print(now: Throttle, as_json: bool) -> None:
    if as_json:
        print_json(asdict(now))
        return
    table = Table("below priority 100", "now", "set by")
    source = {True: f"{now.changed_by}, {_format_time(now.changed_at)}", False: "the settings"}
    table.add_row("interval between launches", f"{now.interval_s:g} s", source[now.is_interval_set])
    cap = "no limit" if now.max_running is None else str(now.max_running)
    table.add_row("running", f"{now.running} of {cap}", source[now.is_max_running_set])
    table.add_row("waiting", str(now.waiting), f"plus {now.waiting_urgent} urgent")
    out.print(table)
    if now.is_held:
        out.print(line((f"launches are on hold until {_format_time(now.held_until)}: ", "yellow"), str(now.held_because)))
    elif now.next_at is not None and now.waiting:
        out.print(f"next launch not before {_format_time(now.next_at)}")


def _format_time(when: datetime | None) -> str:
    return "" if when is None else when.strftime("%Y-%m-%d %H:%M:%S UTC")
