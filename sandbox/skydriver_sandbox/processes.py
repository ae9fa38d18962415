"""What a process of ours leaves on disk so that it can be found, and how it dies with its parent. Linux only."""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (field 22 of /proc/PID/stat); None if there is no such process.

    Together with the id it names a process for good: ids are used again, pairs are not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in field 2 may hold spaces and brackets; the last bracket ends it.
    return int(stat.rpartition(")")[2].split()[19])


def write_atomically(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace a file in one step: a reader sees the old content or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
    scratch.replace(path)


def write_identity(path: Path, pid: int, **more: Any) -> None:
    """Leave `{"pid", "start_ticks", …}` for whoever must end this process after a crash of its parent."""
    ticks = start_ticks(pid)
    if ticks is not None:
        write_atomically(path, json.dumps({"pid": pid, "start_ticks": ticks, **more}).encode())


def end_leftover(path: Path) -> bool:
    """Kill the process a left identity file names, if it is still that process; remove the file. True if one was killed."""
    try:
        identity = json.loads(path.read_bytes())
        pid, ticks = int(identity["pid"]), int(identity["start_ticks"])
    except (OSError, ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        return False
    killed = start_ticks(pid) == ticks
    if killed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            killed = False
    path.unlink(missing_ok=True)
    return killed


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent goes; exit at once if it has gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        sys.exit(1)
