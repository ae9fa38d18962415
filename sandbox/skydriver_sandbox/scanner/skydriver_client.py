"""How the scanner talks to SkyDriver: by the client library, over the bus first, or as scanners always did, by HTTP calls alone."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from skydriver_sandbox.scanner.rest_client import PERSISTENT, RetryPolicy
from skydriver_scanner import (
    AsyncScannerSession,
    CallFailed,
    NotDelivered,
    ScannerError,
    ScanStopped,
    SessionSettings,
    StopSignal,
)

log = logging.getLogger("sandbox.scanner")

_URGENT_S = 3600.0
_PARTING_S = 3.0
"""How long a scanner that has to stop, or has failed, tries to deliver its last reports."""
_TAIL_LINES = 50


class SkyDriverClient(Protocol):
    """What a scan needs of SkyDriver. All raise CallFailed where it does not respond, or rejects."""

    async def event(self) -> object:
        """The event to scan."""

    async def wait_for_workers(self, poll_s: float) -> None:
        """Return when one runs; there is no timeout."""

    async def report_progress(self, body: dict[str, Any], patience: RetryPolicy) -> None:
        """Body as in `PATCH /scan/{id}/manifest`. Urgent: returns when it has arrived."""

    async def send_result(self, result: dict[str, Any], *, is_final: bool, patience: RetryPolicy) -> None:
        """The whole map so far. Urgent: returns when it has arrived."""

    async def report_failure(self, reason: str) -> None:
        """Report why this scanner ends, if there is a way to."""

    async def until_stopped(self, poll_s: float) -> str:
        """Return why, when the scan must stop. poll_s: seconds between two polls where there is no stop signal."""


class TailHandler(logging.Handler):
    """Keeps the last lines of the log for a failure report."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=_TAIL_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class SessionClient:
    """Over the bus, by the client library. Use as an async context manager; leaving it delivers what still waits."""

    def __init__(
        self, *, scan_id: str, address: str, token: str, bus_url: str, spool_dir: Path, status_interval_s: float
    ) -> None:
        self._settings = SessionSettings(
            scan_id, address, token, bus_url, spool_dir=spool_dir, status_interval_s=status_interval_s
        )
        self._tail = TailHandler()
        self._stopped: asyncio.Future[StopSignal] = asyncio.get_running_loop().create_future()
        self._is_failing = False

    async def __aenter__(self) -> "SessionClient":
        self._session = AsyncScannerSession(self._settings)
        self._session.on_stop(self._stopped.set_result)
        logging.getLogger().addHandler(self._tail)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        logging.getLogger().removeHandler(self._tail)
        is_parting = kind is not None or self._is_failing or self._stopped.done()
        try:
            await self._session.close(_PARTING_S if is_parting else None)
        except NotDelivered as problem:
            if not is_parting:
                raise CallFailed(str(problem), None) from problem
            log.warning("%s", problem)

    async def event(self) -> object:
        return await self._session.event()

    async def wait_for_workers(self, poll_s: float) -> None:
        try:
            await self._session.wait_for_workers(poll_s=poll_s)
        except ScanStopped:
            await asyncio.shield(self._stopped)
            await asyncio.get_running_loop().create_future()  # the stop signal cancels this task

    async def report_progress(self, body: dict[str, Any], patience: RetryPolicy) -> None:
        await self._session.report_progress(**body)
        await self._arrived(patience)

    async def send_result(self, result: dict[str, Any], *, is_final: bool, patience: RetryPolicy) -> None:
        try:
            await self._session.put_result(result, is_final=is_final)
        except ScannerError as problem:
            raise CallFailed(str(problem), None) from problem
        await self._arrived(patience)

    async def report_failure(self, reason: str) -> None:
        self._is_failing = True
        await self._session.report_failure(reason, "\n".join(self._tail.lines))

    async def until_stopped(self, poll_s: float) -> str:
        return (await asyncio.shield(self._stopped)).reason

    async def _arrived(self, patience: RetryPolicy) -> None:
        if patience is PERSISTENT and not await self._session.flush(_URGENT_S):
            raise CallFailed(f"the end of the scan cannot be reported; it is kept in {self._settings.folder}", None)


async def stop_on_signal(client: SkyDriverClient, poll_s: float, stop: Callable[[], None]) -> None:
    """Call ``stop`` when the scan was deleted or its workflow has ended."""
    log.warning("stopping: %s", await client.until_stopped(poll_s))
    stop()
