"""Ports on loopback: free ones are chosen, remembered, and used again while they are still free.

Addresses in bookmarks, logs and open terminals so remain valid after a restart.
"""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path

from skydriver_common.atomic_write import atomic_write

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Return whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        return _bind(probe, port)


def choose(names: list[str], remembered: dict[str, int]) -> dict[str, int]:
    """Return a free port for each name: the remembered one if it is free, else any. All differ."""
    chosen: dict[str, int] = {}
    with ExitStack() as held:  # all stay bound until all are chosen, or the kernel could give one twice
        for name in names:
            probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            wanted = remembered.get(name, 0)
            if wanted in chosen.values() or not _bind(probe, wanted):
                probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                _bind(probe, 0)
            chosen[name] = int(probe.getsockname()[1])
    return chosen


def choose_and_remember(names: list[str], path: Path) -> dict[str, int]:
    """Choose as `choose` does, and remember the ports in the JSON file `path`; a damaged file is ignored."""
    try:
        stored = json.loads(path.read_text())
        remembered = {name: port for name, port in stored.items() if isinstance(port, int) and 0 < port < 65536}
    except (OSError, ValueError, AttributeError):
        remembered = {}
    chosen = choose(names, remembered)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, flush_to_disk=False) as file:
        file.write(json.dumps(remembered | chosen, indent=1).encode())
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
