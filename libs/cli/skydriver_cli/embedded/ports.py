"""Ports on loopback: chosen free, remembered, used again while they are still free.

Remembering them keeps addresses in bookmarks, logs and open terminals good over a restart.
"""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        return _bind(probe, port)


def choose(names: list[str], remembered: dict[str, int]) -> dict[str, int]:
    """A free port for each name: the remembered one if it is free, else any. All differ."""
    chosen: dict[str, int] = {}
    with ExitStack() as held:  # all are held until all are chosen, or the system could give one twice
        for name in names:
            probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            wanted = remembered.get(name, 0)
            if wanted in chosen.values() or not _bind(probe, wanted):
                probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                _bind(probe, 0)
            chosen[name] = int(probe.getsockname()[1])
    return chosen


def choose_and_remember(names: list[str], path: Path) -> dict[str, int]:
    """`choose`, with the memory in the JSON file `path`; a damaged file is forgotten."""
    try:
        stored = json.loads(path.read_text())
        remembered = {name: port for name, port in stored.items() if isinstance(port, int) and 0 < port < 65536}
    except (OSError, ValueError, AttributeError):
        remembered = {}
    chosen = choose(names, remembered)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".new")
    partial.write_text(json.dumps(remembered | chosen, indent=1))
    partial.replace(path)
    return chosen


def _bind(probe: socket.socket, port: int) -> bool:
    # As servers do: a port whose old connections are only winding down (TIME_WAIT) counts as free.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((LOOPBACK, port))
        if port:
            probe.listen(1)
    except OSError:
        return False
    return True
