"""Child processes: started in a session of their own, recorded with an identity that survives us, and stopped by it.

The identity (`process_identity`) is in a file below the data directory. After a `kill -9` of everything, the next start finds what
still runs by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from skydriver_common import process_identity
from skydriver_common.process_identity import Identity, identify, is_alive

LOG_LIMIT_BYTES = 5 * 1024 * 1024
POLL_S = 0.02


def send(who: Identity, sig: signal.Signals) -> None:
    """Send a signal if it is still the same process. SIGKILL goes to the whole group when the process leads one."""
    if not is_alive(who):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sig == signal.SIGKILL and os.getpgid(who.pid) == who.pid:
            os.killpg(who.pid, sig)
        else:
            os.kill(who.pid, sig)


async def end(who: Identity, *, ask: Sequence[signal.Signals] = (signal.SIGTERM,), grace_s: float = 5.0) -> bool:
    """Stop a process: each signal of `ask` in turn, `grace_s` seconds for each, then SIGKILL. Return whether `ask` sufficed."""
    for sig in ask:
        send(who, sig)
        if await _gone(who, grace_s):
            return True
    send(who, signal.SIGKILL)
    await _gone(who, 5.0)
    return False


async def _gone(who: Identity, limit_s: float) -> bool:
    deadline = asyncio.get_running_loop().time() + limit_s
    while is_alive(who):
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True


class Child:
    """A process that this one started, with its identity file and its log."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, who: Identity, identity_file: Path, log: Path) -> None:
        self.name = name
        self.process = process
        self.who = who
        self.identity_file = identity_file
        self.log = log

    @property
    def has_ended(self) -> bool:
        return self.process.returncode is not None

    async def stop(self, *, ask: Sequence[signal.Signals] = (signal.SIGTERM,), grace_s: float = 5.0) -> bool:
        """Stop it as `end` does, and remove the identity file. Return whether `ask` sufficed."""
        politely = await end(self.who, ask=ask, grace_s=grace_s)
        await self.process.wait()
        self.identity_file.unlink(missing_ok=True)
        return politely

    def last_lines(self, count: int = 3) -> str:
        """Return the end of its log, for an error text."""
        return last_lines(self.log, count)


async def start(
    name: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    identity_file: Path,
    when_parent_dies: signal.Signals = signal.SIGTERM,
    privileges: Sequence[str] = (),
) -> Child:
    """Start `argv` in a session of its own, output appended to `log`, identity kept in `identity_file`.

    Call it from the main thread: `when_parent_dies` is sent when the *thread* that started the process ends (Linux).
    privileges: further options of setpriv(1), e.g. to run as another user.
    Raises FileNotFoundError when the program is missing.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    rotate(log)
    prefix: list[str] = []
    if setpriv := shutil.which("setpriv"):  # part of util-linux; without it, leftovers are stopped at the next start only
        prefix = [setpriv, *privileges, "--pdeathsig", when_parent_dies.name.removeprefix("SIG"), "--"]
    if shutil.which(argv[0], path=env.get("PATH")) is None:
        raise FileNotFoundError(argv[0])
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            *prefix,
            *argv,
            env=dict(env),
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sink,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    who = identify(process.pid) or Identity(process.pid, 0)  # 0: it has exited already; its log says why
    try:
        identity_file.parent.mkdir(parents=True, exist_ok=True)
        process_identity.write(identity_file, who)
    except OSError:
        # without the file, no later run could find the process
        send(who, signal.SIGKILL)
        await process.wait()
        raise
    return Child(name, process, who, identity_file, log)


def rotate(log: Path) -> None:
    """Keep a log from growing without bound: rename a large one to NAME.1, replacing the previous one."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_name(log.name + ".1"))


def last_lines(log: Path, count: int) -> str:
    """Return the last `count` non-empty lines of a log, joined with " | "; empty when there is none."""
    try:
        with log.open("rb") as source:
            source.seek(max(0, log.stat().st_size - 8192))
            tail = source.read().decode(errors="replace")
    except OSError:
        return ""
    return " | ".join([line.strip() for line in tail.splitlines() if line.strip()][-count:])


async def end_all(
    files: Sequence[Path], *, ask: Sequence[signal.Signals] = (signal.SIGTERM,), grace_s: float = 5.0
) -> list[str]:
    """Stop the processes of these identity files, all at once, and remove the files. Return the names of those that still ran."""
    running: list[str] = []

    async def stop_one(path: Path) -> None:
        who = process_identity.read(path)
        if who is not None and is_alive(who):
            running.append(path.name.removesuffix(".pid.json"))
            await end(who, ask=ask, grace_s=grace_s)
        path.unlink(missing_ok=True)

    await asyncio.gather(*(stop_one(path) for path in files))
    return sorted(running)
