"""The health ports of a running embedded system: what its services say of themselves."""

import asyncio
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from skydriver_cli.embedded.ports import LOOPBACK
from skydriver_cli.errors import CliError
from skydriver_common import process_identity

_PREFIX = "health_"
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Told:
    """What one service process returned. text: None when it did not respond in time."""

    process: str
    text: str | None


def processes_of(data_dir: Path) -> dict[str, int]:
    """Return the health port of each service process of the system in this directory. Raises CliError when none runs."""
    try:
        ports = json.loads((data_dir / "ports.json").read_text())
        found = {
            name.removeprefix(_PREFIX): int(port)
            for name, port in ports.items()
            if name.startswith(_PREFIX) and (data_dir / "run" / f"{name.removeprefix(_PREFIX)}.pid.json").exists()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        found = {}
    if not found:
        raise CliError(f"no system is running in {data_dir}", "Start one with `skydriver up`, or check --data-dir")
    return found


async def ask_all(data_dir: Path, path: str) -> list[Told]:
    """Return what each service process answers to this path of its health port, in the order of their names. Raises CliError."""
    ports = processes_of(data_dir)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
        return list(await asyncio.gather(*(_ask(session, name, port, path) for name, port in sorted(ports.items()))))


@dataclass(frozen=True, slots=True)
class Part:
    """One service process on this machine. state: a verb for people. not_ready: what is missing for it to be ready."""

    name: str
    state: str
    not_ready: tuple[str, ...] = ()


async def look(data_dir: Path) -> list[Part]:
    """Return how each service process is, by what it answers, not by whether there is one. Raises CliError when none runs."""
    parts = []
    for told in await ask_all(data_dir, "/readyz"):
        if told.text is None:
            runs = process_identity.read(data_dir / "run" / f"{told.process}.pid.json")
            alive = runs is not None and process_identity.is_alive(runs)
            parts.append(Part(told.process, "does not respond" if alive else "is not running"))
            continue
        try:
            missing = tuple(str(name) for name in json.loads(told.text)["not_ready"])
        except (ValueError, KeyError, TypeError):
            missing = ("an answer of another program",)
        parts.append(Part(told.process, "is not ready" if missing else "is ready", missing))
    return parts


def free_bytes(data_dir: Path) -> int:
    """Return how much room is left on the disk of the data directory."""
    return shutil.disk_usage(data_dir).free


async def _ask(session: aiohttp.ClientSession, name: str, port: int, path: str) -> Told:
    try:
        async with session.get(f"http://{LOOPBACK}:{port}{path}") as response:
            return Told(name, await response.text())
    except (aiohttp.ClientError, TimeoutError, OSError):
        return Told(name, None)
