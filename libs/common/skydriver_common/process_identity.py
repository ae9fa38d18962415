"""Which process of this machine is meant: its number, and the moment it started, which no later process with the number shares.

An identity is kept in a file, ``{"pid": …, "start_ticks": …}``, by which a process is found again after whoever started it was killed.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import orjson
import psutil

from skydriver_common.atomic_write import atomic_write

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MAX_PID = 2**31 - 1


class Identity(NamedTuple):
    """One process. start_ticks: clock ticks from the boot to its start, which a step of the clock does not change."""

    pid: int
    start_ticks: int


def identify(pid: int) -> Identity | None:
    """Return the identity of a running process, or None; a zombie does not run."""
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return Identity(pid, _start_ticks(pid))
    except (psutil.Error, ValueError):  # ValueError: a number that no process has
        return None


def is_alive(identity: Identity) -> bool:
    """Return whether this very process still runs; a later one with its number does not count."""
    return identify(identity.pid) == identity


def read(path: Path) -> Identity | None:
    """Return the identity that a file holds; None: the file is missing, incomplete, or holds something else."""
    try:
        found = orjson.loads(path.read_bytes())
        pid, ticks = found["pid"], found["start_ticks"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not (isinstance(pid, int) and isinstance(ticks, int) and 0 < pid <= _MAX_PID):
        return None
    return Identity(pid, ticks)


def write(path: Path, identity: Identity) -> None:
    """Write it to the file, completely or not at all. Raises OSError."""
    # not to the disk: no process that it names outlives the machine
    with atomic_write(path, flush_to_disk=False) as file:
        file.write(json.dumps(identity._asdict()).encode())


def session_leaders(below: Path, *, output: str) -> dict[str, Identity]:
    """Return the living processes that work in a folder directly below this one, by its name.

    output: the file of that folder that their output goes to. Only leaders of a session: neither what they have started nor a shell
    that somebody has opened in such a folder is one of ours.
    """
    place, found = str(below.resolve()), {}
    for pid in psutil.pids():
        with suppress(OSError):  # it ended meanwhile, or belongs to somebody else
            # of thousands of processes a handful is ours: read the link first, by itself
            folder = os.readlink(f"/proc/{pid}/cwd")
            parent, _, name = folder.rpartition("/")
            if parent == place and os.getsid(pid) == pid and os.readlink(f"/proc/{pid}/fd/1") == f"{folder}/{output}":
                identity = identify(pid)
                if identity is not None:
                    found[name] = identity
    return found


def _start_ticks(pid: int) -> int:
    # psutil tells wall-clock time. What it added, the time of the boot, moves with the clock: take it off again
    while True:
        booted_at: float = psutil.boot_time()
        created_at: float = psutil.Process(pid).create_time()
        if psutil.boot_time() == booted_at:
            return round((created_at - booted_at) * _TICKS_PER_S)
