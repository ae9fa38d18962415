"""The data directory of an embedded system: used by one system at a time, and cleaned of what a killed one left running."""

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from skydriver_cli.embedded import processes
from skydriver_cli.errors import CliError
from skydriver_common import process_identity


@contextlib.contextmanager
def locked_data_dir(data_dir: Path) -> Iterator[None]:
    """Keep other systems from starting in the same data directory. Raises CliError."""
    try:
        for directory in (data_dir, data_dir / "run", data_dir / "logs", data_dir / "work"):
            directory.mkdir(parents=True, exist_ok=True, mode=0o755 if directory == data_dir else 0o700)
        lock = (data_dir / "run" / "up.lock").open("w")
    except OSError as error:
        raise CliError(f"can't write the data directory {data_dir}: {error.strerror}", "Choose another --data-dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CliError(
                f"a system is already running in {data_dir}", "Stop it with `skydriver down`, or choose another --data-dir"
            ) from error
        identity = process_identity.identify(os.getpid())
        assert identity is not None
        process_identity.write(data_dir / "run" / "up.pid.json", identity)
        try:
            yield
        finally:
            (data_dir / "run" / "up.pid.json").unlink(missing_ok=True)


async def stop_leftovers(data_dir: Path) -> list[str]:
    """Stop what a killed ``up`` left running in this data directory, and remove ``connection.json``. Return what was stopped.

    Raises CliError while a system runs there, or when the directory cannot be used.
    """
    if not (data_dir / "run").is_dir():
        return []
    with locked_data_dir(data_dir):
        stopped = await kill_leftovers(data_dir)
        (data_dir / "connection.json").unlink(missing_ok=True)
    return stopped


async def kill_leftovers(data_dir: Path) -> list[str]:
    """Stop the processes that an earlier run left: services and scanners first, then servers. Return their names."""
    run = data_dir / "run"
    servers = [run / f"{name}.pid.json" for name in ("postgres", "rabbitmq", "epmd")]
    others = [
        path
        for path in (*run.glob("*.pid.json"), *scanner_and_worker_files(data_dir))
        if path not in servers and path.name != "up.pid.json"
    ]
    stopped = await processes.end_all(others, grace_s=2.0)
    stopped += await processes.end_all(servers[:1], ask=(signal.SIGINT,), grace_s=8.0)
    stopped += await processes.end_all(servers[1:2], grace_s=8.0)
    stopped += await processes.end_all(servers[2:], grace_s=2.0)
    return stopped


def scanner_and_worker_files(data_dir: Path) -> list[Path]:
    """Return the identity files of scanners and of the sandbox's workers."""
    return [*(data_dir / "work").glob("*/*.pid.json"), *(data_dir / "sandbox").rglob("*.pid.json")]
