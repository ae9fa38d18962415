"""``skydriver sandbox …``: inject faults into the embedded EWMS stand-in, to see how the system handles them."""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer
from rich.table import Table

from skydriver_cli.errors import CliError
from skydriver_cli.options import DEFAULT_DATA_DIR, AsJson, DataDir
from skydriver_cli.output import Terminal, line, print_json

sandbox = typer.Typer()
out = Terminal()
_TIMEOUT_S = 10.0


@sandbox.command()
def fault(
    words: Annotated[
        list[str] | None, typer.Argument(help="NAME=VALUE or worker.NAME=VALUE. Without arguments, show the current faults.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="First reset all faults.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Show or change the faults of the EWMS stand-in. They end with its process; sandbox/README.md lists them.

    Counts are consumed: with create_hangs=1 the next workflow is created but the response is lost. Other faults stay until they are
    reset.

    Example: skydriver sandbox fault create_hangs=1 worker.die=0.01 activation_stuck=true
    """
    wanted = parse_faults(words or [])
    url, token = _find_stand_in(data_dir)
    now = asyncio.run(_change(url, token, wanted, reset))
    if as_json:
        print_json(now)
        return
    table = Table("fault", "now")
    for name, value in (*now.items(), *((f"worker.{name}", value) for name, value in now["worker"].items())):
        if name != "worker":
            table.add_row(name, line((str(value), "bold yellow" if value else "")))
    out.print(table)


def parse_faults(words: list[str]) -> dict[str, Any]:
    """Parse ``["create_hangs=1", "worker.die=0.1"]`` to what the stand-in accepts. Raises CliError that names the word."""
    faults: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        try:
            value = json.loads({"on": "true", "off": "false", "none": "null"}.get(text.lower(), text.lower()))
        except ValueError:
            sign = ""
        if not (name and sign):
            raise CliError(
                f"invalid fault {word!r}", "Write NAME=VALUE, such as create_hangs=1 or activation_stuck=true", exit_code=2
            )
        group, dot, part = name.partition(".")
        if dot:
            faults.setdefault(group, {})[part] = value
        else:
            faults[name] = value
    return faults


def _find_stand_in(data_dir: Path) -> tuple[str, str]:
    try:
        stored = json.loads((data_dir / "connection.json").read_text())
        return str(stored["sandbox_url"]), str(stored["sandbox_token"])
    except (OSError, ValueError, KeyError):
        raise CliError(
            f"no EWMS stand-in is running in {data_dir}", "Start a system with `skydriver up` (without --no-sandbox)"
        ) from None


async def _change(url: str, token: str, wanted: dict[str, Any], reset: bool) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(f"{url}/", headers=headers, timeout=timeout) as session:
            if reset:
                await _ask(session, "DELETE", None)
            if "worker" in wanted:  # worker faults that are not named keep their values
                wanted = {**wanted, "worker": {**(await _ask(session, "GET", None))["worker"], **wanted["worker"]}}
            return await _ask(session, "POST" if wanted else "GET", wanted or None)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CliError(
            f"can't reach the EWMS stand-in at {url} ({type(error).__name__})", "Start it with `skydriver up`"
        ) from error


async def _ask(session: aiohttp.ClientSession, method: str, body: dict[str, Any] | None) -> dict[str, Any]:
    async with session.request(method, "sandbox/faults", json=body) as response:
        answer: dict[str, Any] = await response.json()
    if response.status != 200:
        raise CliError(
            f"the EWMS stand-in rejected the request: {answer.get('error')}", "sandbox/README.md lists the faults", exit_code=2
        )
    return answer
