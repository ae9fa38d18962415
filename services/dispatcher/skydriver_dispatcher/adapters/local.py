"""Launcher ``local``: a scanner server is a process of this machine, in a folder of its own.

Processes outlive the dispatcher and are found again by their identity file (pid and start time, so that a reused pid is not
mistaken for ours). Their ends are learned from pidfds, not by polling. One dispatcher per work folder.
"""

import asyncio
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from skydriver_common.faults import TryLater
from skydriver_common.model.scan import Scan
from skydriver_dispatcher.ports import News, ScannerExit

log = structlog.get_logger(__name__)

SANDBOX_SCANNER = (sys.executable, "-m", "skydriver_sandbox.scanner")
_IN_THE_IMAGE = "python -m skymap_scanner.server "
_TAIL_LINES, _TAIL_BYTES = 20, 8192
_KILL_AFTER_S = 5.0


@dataclass(slots=True)
class _Running:
    pid: int
    pidfd: int
    child: asyncio.subprocess.Process | None
    has_ended: asyncio.Event = field(default_factory=asyncio.Event)


class LocalLauncher:
    """Starts ``command`` as scanner server; see ``ports.Launcher``. command: words before the scanner's own arguments."""

    name = "local"
    revives = True

    def __init__(
        self, work_dir: Path, environment: Callable[[Scan, Path], dict[str, str]], *, command: Sequence[str] = SANDBOX_SCANNER
    ) -> None:
        self._work_dir = work_dir
        self._environment = environment
        self._command = tuple(command)
        self._running: dict[str, _Running] = {}
        self._stopping: set[str] = set()
        self._ended: deque[ScannerExit] = deque()
        self._wake: Callable[[], None] = _nobody
        self._reapers: set[asyncio.Task[None]] = set()

    async def launch(self, scan: Scan) -> str:
        """Start the scan's process unless it runs. Raises TryLater when the system has no room for it."""
        self._adopt(scan.scan_id)
        if scan.scan_id in self._running:
            return str(self._running[scan.scan_id].pid)
        folder = self._folder(scan.scan_id)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if (orphan := _session_leader_in(folder)) is not None:
                # a dispatcher was killed after it had started this one, before it could write down which it is
                _write_identity(folder, orphan)
                self._adopt(scan.scan_id)
                if scan.scan_id in self._running:
                    return str(orphan)
            with (folder / "scanner.log").open("ab") as output:
                child = await asyncio.create_subprocess_exec(
                    *self._command,
                    *_arguments(scan, folder),
                    cwd=folder,
                    env=self._environment(scan, folder),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise TryLater(f"the scanner server can't be started: {error.strerror}", 2.0) from error
        _write_identity(folder, child.pid)
        self._watch(scan.scan_id, child.pid, child)
        return str(child.pid)

    async def stop(self, scan_id: str) -> None:
        """Ask the process to end, insist after 5 s."""
        self._adopt(scan_id)
        running = self._running.get(scan_id)
        if running is None:
            return
        self._stopping.add(scan_id)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(running.pidfd, signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(running.has_ended.wait(), _KILL_AFTER_S)
        if scan_id in self._running:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(running.pidfd, signal.SIGKILL)

    async def present(self) -> dict[str, bool]:
        """Scans whose process is alive, those of an earlier dispatcher included, and those whose end is still to be told."""
        if self._work_dir.is_dir():
            for folder in self._work_dir.iterdir():
                self._adopt(folder.name)
        return {ended.scan_id: False for ended in self._ended} | dict.fromkeys(self._running, True)

    async def lack(self, scan_id: str) -> str:
        """See ``ports.Launcher``: a process has all it needs."""
        return ""

    def next_news(self) -> News | None:
        """The next end that nobody asked for, or None."""
        return self._ended.popleft() if self._ended else None

    def on_news(self, wake: Callable[[], None]) -> None:
        """Call this whenever there may be an exit to take."""
        self._wake = wake

    def _say(self, ended: ScannerExit) -> None:
        self._ended.append(ended)
        self._wake()

    async def close(self) -> None:
        """Let go of the processes; they run on."""
        loop = asyncio.get_running_loop()
        for running in self._running.values():
            loop.remove_reader(running.pidfd)
            os.close(running.pidfd)
        self._running.clear()
        for reaper in self._reapers:
            reaper.cancel()

    def _folder(self, scan_id: str) -> Path:
        return self._work_dir / scan_id

    def _adopt(self, scan_id: str) -> None:
        """Take over a live process that an earlier dispatcher has started."""
        if scan_id in self._running:
            return
        try:
            identity = json.loads((self._folder(scan_id) / "scanner.pid.json").read_text())
            pid, ticks = int(identity["pid"]), int(identity["start_ticks"])
        except (OSError, ValueError, KeyError):
            return
        if _start_ticks(pid) == ticks:
            self._watch(scan_id, pid, None)
            log.info("scanner.adopted", scan_id=scan_id, pid=pid)

    def _watch(self, scan_id: str, pid: int, child: asyncio.subprocess.Process | None) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._say(ScannerExit(scan_id=scan_id, exit_code=None, log_tail=self._tail(scan_id)))
            return
        self._running[scan_id] = _Running(pid, pidfd, child)
        asyncio.get_running_loop().add_reader(pidfd, self._on_end, scan_id)

    def _on_end(self, scan_id: str) -> None:
        running = self._running.pop(scan_id)
        running.has_ended.set()
        asyncio.get_running_loop().remove_reader(running.pidfd)
        os.close(running.pidfd)
        reaper = asyncio.ensure_future(self._tell(scan_id, running))
        self._reapers.add(reaper)
        reaper.add_done_callback(self._reapers.discard)

    async def _tell(self, scan_id: str, running: _Running) -> None:
        exit_code = await running.child.wait() if running.child else None
        (self._folder(scan_id) / "scanner.pid.json").unlink(missing_ok=True)
        if scan_id in self._stopping:
            self._stopping.discard(scan_id)
        else:
            self._say(ScannerExit(scan_id=scan_id, exit_code=exit_code, log_tail=self._tail(scan_id)))

    def _tail(self, scan_id: str) -> str:
        try:
            with (self._folder(scan_id) / "scanner.log").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                return "\n".join(deque(file.read().decode(errors="replace").splitlines(), _TAIL_LINES))
        except OSError:
            return ""


def _nobody() -> None:
    """Nobody listens yet."""


def _arguments(scan: Scan, folder: Path) -> list[str]:
    """The contract's words (8.1) for a process instead of a container, without the program."""
    words = scan.scanner_server_args.removeprefix(_IN_THE_IMAGE).split()
    places = {"/common-space": str(folder), "/common-space/startup.json": str(folder / "startup.json")}
    return [places.get(word, word) for word in words]


def _write_identity(folder: Path, pid: int) -> None:
    temporary = folder / "scanner.pid.json.new"
    temporary.write_text(json.dumps({"pid": pid, "start_ticks": _start_ticks(pid)}))
    temporary.replace(folder / "scanner.pid.json")


def _session_leader_in(folder: Path) -> int | None:
    """The process that leads a session and works in this folder: a scanner server, if there is one."""
    place = str(folder.resolve())
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):  # it ended meanwhile, or belongs to somebody else
            if os.readlink(entry / "cwd") == place and os.getsid(int(entry.name)) == int(entry.name):
                return int(entry.name)
    return None


def _start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot (field 22 of its stat), or None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
