"""SIGKILL to a whole system, as a machine that dies."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.acceptance.conftest import Running
from tests.support.waiting import wait_until


def kill_everything(running: Running) -> None:
    """Kill the starter and all it has started, servers included; returns when they are dead."""
    victims = _processes_of(running.process.pid, running.data_dir) - {os.getpid()}
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.process.wait(timeout=120)
    wait_until(lambda: not any(is_alive(pid) for pid in victims), 60, "all processes are dead")


def _processes_of(root_pid: int, data_dir: Path) -> set[int]:
    """The starter, all its descendants, and whatever left an identity file below the data folder."""
    found = {root_pid}
    parents = {int(p.name): _parent(p) for p in Path("/proc").iterdir() if p.name.isdigit()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found | set(identified(data_dir))


def identified(data_dir: Path) -> Iterator[int]:
    """Processes that an identity file below the folder names."""
    for path in data_dir.rglob("*.pid.json"):
        try:
            yield int(json.loads(path.read_text())["pid"])
        except (OSError, ValueError, KeyError):
            continue


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
