"""Launcher ``local``: a scanner server is a process of this machine, in a folder of its own.

Processes outlive the dispatcher and are found again by their identity file (``process_identity``), or by the folder they work in when
there is none. Their exits are observed by pidfds, not by polling. One dispatcher per work folder.
"""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from skydriver_common import process_identity
from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_common.process_identity import Identity
from skydriver_dispatcher.launcher_events import ScannerExit, ScannerStatus
from skydriver_dispatcher.pending_events import PendingEvents

logger = structlog.get_logger(__name__)

SANDBOX_SCANNER = (sys.executable, "-I", "-m", "skydriver_sandbox.scanner")
"""Isolated: it takes no module from its working folder, and nothing from variables of Python."""
_IMAGE_COMMAND = "python -m skymap_scanner.server "
_IDENTITY_FILE, _LOG_FILE = "scanner.pid.json", "scanner.log"
_TAIL_LINES, _TAIL_BYTES = 20, 8192
_KILL_AFTER_S = 5.0


@dataclass(slots=True)
class _Running:
    pidfd: int
    child: asyncio.subprocess.Process | None
    has_ended: asyncio.Event = field(default_factory=asyncio.Event)


class LocalLauncher:
    """Starts ``command`` as scanner server; see ``ports.Launcher``. command: words before the scanner's own arguments."""

    name = "local"
    can_restart_in_place = True

    def __init__(
        self, work_dir: Path, environment: Callable[[Scan, Path], dict[str, str]], *, command: Sequence[str] = SANDBOX_SCANNER
    ) -> None:
        self.events = PendingEvents()
        self._work_dir = work_dir
        self._environment = environment
        self._command = tuple(command)
        self._running: dict[ScanId, _Running] = {}
        self._ending: dict[ScanId, asyncio.Task[None]] = {}
        self._stopping: set[ScanId] = set()
        self._locks: WeakValueDictionary[ScanId, asyncio.Lock] = WeakValueDictionary()

    async def launch(self, scan: Scan) -> str:
        """Start the scan's process unless it runs. Raises TryLater when the system cannot start one now."""
        async with self._lock_of(scan.scan_id):
            try:
                if (identity := await self._find(scan.scan_id)) is not None:
                    return str(identity.pid)
                return str(await self._start(scan))
            except OSError as error:
                raise TryLater(f"cannot start the scanner server: {error.strerror}", 2.0) from error

    async def stop(self, scan_id: ScanId) -> None:
        """Send SIGTERM, and SIGKILL after 5 s. Raises TryLater when the process does not end even then."""
        async with self._lock_of(scan_id):
            await self._find(scan_id)
            running = self._running.get(scan_id)
            if running is None:
                return
            self._stopping.add(scan_id)
            for signal_number in (signal.SIGTERM, signal.SIGKILL):
                if not running.has_ended.is_set() and scan_id in self._running:
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(running.pidfd, signal_number)
                with suppress(TimeoutError):
                    await asyncio.wait_for(running.has_ended.wait(), _KILL_AFTER_S)
                    return
            raise TryLater("the scanner server does not end though it was killed", 5.0)

    async def running_scans(self) -> dict[ScanId, bool]:
        """Return the scans whose process is alive, those of an earlier dispatcher included, and those whose exit is still to be handled."""
        found = await asyncio.to_thread(_living, self._work_dir)
        for scan_id, identity in found.items():
            lock = self._locks.get(scan_id)
            if lock is not None and lock.locked():
                continue  # just being started or stopped
            try:
                self._adopt(scan_id, identity)
            except OSError as error:
                logger.warning("scanner.adoption-failed", scan_id=scan_id, pid=identity.pid, error=error.strerror)
        ended = dict.fromkeys((*self.events.exited_scans(), *self._ending), False)
        return ended | dict.fromkeys(self._running, True)

    async def missing_prerequisite(self, scan_id: ScanId) -> str:
        """See ``ports.Launcher``: a process lacks nothing."""
        return ""

    async def survey(self) -> list[ScannerExit | ScannerStatus]:
        """See ``ports.Launcher``: each process reports its exit, and there are no stages."""
        return []

    async def close(self) -> None:
        """Stop watching the processes; they keep running."""
        loop = asyncio.get_running_loop()
        for running in self._running.values():
            loop.remove_reader(running.pidfd)
            os.close(running.pidfd)
        self._running.clear()
        for reaper in self._ending.values():
            reaper.cancel()

    def _lock_of(self, scan_id: ScanId) -> asyncio.Lock:
        return self._locks.setdefault(scan_id, asyncio.Lock())

    async def _start(self, scan: Scan) -> int:
        folder = self._folder(scan.scan_id)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (folder / _LOG_FILE).open("ab") as output:
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
        if (identity := process_identity.identify(child.pid)) is not None:  # else it has ended already
            try:
                process_identity.write(folder / _IDENTITY_FILE, identity)
            except OSError as error:
                # it runs, and is found again by its folder
                logger.warning("scanner.identity-not-written", scan_id=scan.scan_id, pid=child.pid, error=error.strerror)
        self._watch(scan.scan_id, child.pid, child)
        return child.pid

    def _folder(self, scan_id: ScanId) -> Path:
        return self._work_dir / scan_id

    async def _find(self, scan_id: ScanId) -> Identity | None:
        """Return the scan's living process; watch it if an earlier dispatcher, or a call that was cancelled, has started it."""
        if (reaper := self._ending.get(scan_id)) is not None:
            await asyncio.wait([reaper])
        path = self._folder(scan_id) / _IDENTITY_FILE
        identity = process_identity.read(path)
        if identity is None or not process_identity.is_alive(identity):
            # none, or an unreadable one: its dispatcher may have died before the file was complete
            identity = (await asyncio.to_thread(_leaders, self._work_dir)).get(scan_id)
            if identity is None:
                return None
            with suppress(OSError):
                process_identity.write(path, identity)
        self._adopt(scan_id, identity)
        return identity if scan_id in self._running else None

    def _adopt(self, scan_id: ScanId, identity: Identity) -> None:
        """Watch a process that this dispatcher does not know yet. Raises OSError."""
        if scan_id in self._running or scan_id in self._ending or not process_identity.is_alive(identity):
            return
        self._watch(scan_id, identity.pid, None)
        logger.info("scanner.adopted", scan_id=scan_id, pid=identity.pid)

    def _watch(self, scan_id: ScanId, pid: int, child: asyncio.subprocess.Process | None) -> None:
        try:
            running = _Running(os.pidfd_open(pid), child)
        except ProcessLookupError:  # a process that ends at once can be gone before it is opened
            self._reap(scan_id, child, asyncio.Event())
            return
        self._running[scan_id] = running
        asyncio.get_running_loop().add_reader(running.pidfd, self._on_end, scan_id)

    def _on_end(self, scan_id: ScanId) -> None:
        running = self._running.pop(scan_id)
        asyncio.get_running_loop().remove_reader(running.pidfd)
        os.close(running.pidfd)
        self._reap(scan_id, running.child, running.has_ended)

    def _reap(self, scan_id: ScanId, child: asyncio.subprocess.Process | None, has_ended: asyncio.Event) -> None:
        self._ending[scan_id] = asyncio.ensure_future(self._report_exit(scan_id, child, has_ended))

    async def _report_exit(self, scan_id: ScanId, child: asyncio.subprocess.Process | None, has_ended: asyncio.Event) -> None:
        try:
            exit_code = await child.wait() if child else None
            with suppress(OSError):  # what is left of it names no living process
                (self._folder(scan_id) / _IDENTITY_FILE).unlink(missing_ok=True)
            if scan_id in self._stopping:
                self._stopping.discard(scan_id)
            else:
                self.events.put(ScannerExit(scan_id=scan_id, exit_code=exit_code, log_tail=self._tail(scan_id)))
        finally:
            del self._ending[scan_id]
            has_ended.set()

    def _tail(self, scan_id: ScanId) -> str:
        try:
            with (self._folder(scan_id) / _LOG_FILE).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                return "\n".join(deque(file.read().decode(errors="replace").splitlines(), _TAIL_LINES))
        except OSError:
            return ""


def _leaders(work_dir: Path) -> dict[ScanId, Identity]:
    leaders = process_identity.session_leaders(work_dir, output=_LOG_FILE)
    return {ScanId(name): identity for name, identity in leaders.items()}


def _living(work_dir: Path) -> dict[ScanId, Identity]:
    """Return the scanner servers that live in the folders of this one, by scan."""
    if not work_dir.is_dir():
        return {}
    living = _leaders(work_dir)
    for folder in work_dir.iterdir():
        identity = process_identity.read(folder / _IDENTITY_FILE)
        if identity is not None and process_identity.is_alive(identity):
            living[ScanId(folder.name)] = identity
    return living


def _arguments(scan: Scan, folder: Path) -> list[str]:
    """The contract's words (8.1) for a process instead of a container, without the program."""
    words = scan.scanner_server_args.removeprefix(_IMAGE_COMMAND).split()
    folders = {"/common-space": str(folder), "/common-space/startup.json": str(folder / "startup.json")}
    return [folders.get(word, word) for word in words]
