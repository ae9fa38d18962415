"""The sessions of a scanner server: one per life of its process, in a blocking and in an ``async`` form."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Optional

from skydriver_scanner.engine import Engine
from skydriver_scanner.errors import UndeliveredMessage
from skydriver_scanner.settings import SessionSettings
from skydriver_scanner.stop_signals import StopSignal

__all__ = ["AsyncScannerSession", "ScannerSession"]

logger = logging.getLogger("skydriver_scanner")

_WORKER_POLL_S = 30.0
_JsonObject = Mapping[str, Any]
_AsyncCallback = Callable[[StopSignal], Optional[Awaitable[object]]]


def _manifest_parts(
    progress: _JsonObject | None, event_metadata: _JsonObject | None, scan_metadata: _JsonObject | None
) -> dict[str, Any]:
    parts = {"progress": progress, "event_metadata": event_metadata, "scan_metadata": scan_metadata}
    return {name: part for name, part in parts.items() if part is not None}


async def _run_callback(callback: Awaitable[object]) -> None:
    """Await a callback and log its failure: nobody else waits for it."""
    try:
        await callback
    except Exception:
        logger.exception("the on_stop callback failed")


class ScannerSession:
    """A scanner's connection to SkyDriver. Its methods may be called from any thread.

    Use it as a context manager, or ``close`` it: only then is it certain that the final result has arrived.
    """

    def __init__(self, settings: SessionSettings) -> None:
        """Raises SettingsError."""
        self._engine = Engine(settings)

    @classmethod
    def from_env(cls) -> ScannerSession:
        """Open a session with the settings in ``SKYSCAN_SKYDRIVER_*``, as the launcher sets them. Raises SettingsError."""
        return cls(SessionSettings.from_env())

    def event(self) -> dict[str, Any]:
        """Return the i3 event to scan. Retries for half an hour. Raises CallFailed."""
        self._engine.check_may_wait()
        return self._engine.submit(self._engine.event()).result()

    def report_progress(
        self,
        progress: _JsonObject | None = None,
        *,
        event_metadata: _JsonObject | None = None,
        scan_metadata: _JsonObject | None = None,
    ) -> None:
        """Report progress or metadata, as in ``PATCH /scan/{id}/manifest``; returns at once, a newer part replaces one that waits.

        Raises MessageRejected for what is not JSON (NaN included).
        """
        self._engine.report_progress(_manifest_parts(progress, event_metadata, scan_metadata))

    def put_result(self, skyscan_result: _JsonObject, *, is_final: bool) -> None:
        """Report the whole current skymap, in skyreader's format; NaN is allowed. On disk when this returns.

        A final one is never dropped; a partial one only when the spool is full and a later one is in it. Raises MessageRejected for
        what is not JSON, SpoolFull when there is no room for a partial result.
        """
        self._engine.put_result(skyscan_result, is_final=is_final)

    def report_failure(self, reason: str, log_tail: str = "") -> None:
        """Report that the scan has failed. On disk when this returns, never dropped; the scan's token is replaced by ``***``."""
        self._engine.report_failure(reason, log_tail)

    def wait_for_workers(self, *, poll_s: float = _WORKER_POLL_S, timeout_s: float | None = None) -> int:
        """Wait until a worker runs, return how many do. Raises ScanStopped, asyncio.TimeoutError."""
        self._engine.check_may_wait()
        return self._engine.submit(self._engine.wait_for_workers(poll_s, timeout_s)).result()

    def on_stop(self, callback: Callable[[StopSignal], object]) -> None:
        """Call back, once, in a thread of its own, when the scan was deleted or its workflow ended."""

        def start_thread(stop: StopSignal) -> None:
            threading.Thread(target=callback, args=(stop,), name="skydriver-stop", daemon=True).start()

        self._engine.on_stop(start_thread)

    @property
    def stop(self) -> StopSignal | None:
        """Why the scan must stop; None while it may go on."""
        return self._engine.stop

    def flush(self, timeout_s: float) -> bool:
        """Wait until no message waits or is being written.

        False after timeout_s, and when a final result or a failure will never arrive, because SkyDriver rejected it or its file is
        corrupt or gone. ``left`` names those, and partial results that were rejected.
        """
        self._engine.check_may_wait()
        return self._engine.submit(self._engine.flush(timeout_s)).result()

    def left(self) -> tuple[UndeliveredMessage, ...]:
        """Return all messages that have not arrived: those that wait, and those that will never arrive, with the reason."""
        return self._engine.left()

    def close(self, timeout_s: float | None = None) -> None:
        """Deliver what waits, then end the session.

        timeout_s: None: an hour when a final result or a failure waits, else half a minute. Raises NotDelivered, which says what
        is left and where. Closing again does nothing. Raises ScannerError in a signal handler that has interrupted a call
        of this session: the session is closed after the handler, or by ``with`` when the handler raises.
        """
        self._engine.check_may_wait()
        closing = self._engine.begin_close(timeout_s)
        if closing is None:
            return
        try:
            closing.result()
        finally:
            self._engine.end()

    def __enter__(self) -> ScannerSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncScannerSession:
    """A ScannerSession for a scanner that runs in an event loop. Use it as an async context manager, or ``close`` it."""

    def __init__(self, settings: SessionSettings) -> None:
        """Raises SettingsError."""
        self._engine = Engine(settings)
        self._running: set[asyncio.Future[None]] = set()

    @classmethod
    def from_env(cls) -> AsyncScannerSession:
        """Open a session with the settings in ``SKYSCAN_SKYDRIVER_*``, as the launcher sets them. Raises SettingsError."""
        return cls(SessionSettings.from_env())

    async def event(self) -> dict[str, Any]:
        """See ScannerSession."""
        return await asyncio.wrap_future(self._engine.submit(self._engine.event()))

    async def report_progress(
        self,
        progress: _JsonObject | None = None,
        *,
        event_metadata: _JsonObject | None = None,
        scan_metadata: _JsonObject | None = None,
    ) -> None:
        """See ScannerSession; never waits."""
        self._engine.report_progress(_manifest_parts(progress, event_metadata, scan_metadata))

    async def put_result(self, skyscan_result: _JsonObject, *, is_final: bool) -> None:
        """See ScannerSession; the skymap must not be changed before this returns."""
        await asyncio.to_thread(self._engine.put_result, skyscan_result, is_final=is_final)

    async def report_failure(self, reason: str, log_tail: str = "") -> None:
        """See ScannerSession."""
        await asyncio.to_thread(self._engine.report_failure, reason, log_tail)

    async def wait_for_workers(self, *, poll_s: float = _WORKER_POLL_S, timeout_s: float | None = None) -> int:
        """See ScannerSession."""
        return await asyncio.wrap_future(self._engine.submit(self._engine.wait_for_workers(poll_s, timeout_s)))

    def on_stop(self, callback: _AsyncCallback) -> None:
        """Call back, once, in this event loop; the callback may be a coroutine function."""
        loop = asyncio.get_running_loop()

        def call(stop: StopSignal) -> None:
            answer = callback(stop)
            if inspect.isawaitable(answer):
                task = asyncio.ensure_future(_run_callback(answer))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

        def call_in_loop(stop: StopSignal) -> None:
            with suppress(RuntimeError):  # the scanner's loop has ended
                loop.call_soon_threadsafe(call, stop)

        self._engine.on_stop(call_in_loop)

    @property
    def stop(self) -> StopSignal | None:
        """See ScannerSession."""
        return self._engine.stop

    async def flush(self, timeout_s: float) -> bool:
        """See ScannerSession."""
        return await asyncio.wrap_future(self._engine.submit(self._engine.flush(timeout_s)))

    def left(self) -> tuple[UndeliveredMessage, ...]:
        """See ScannerSession."""
        return self._engine.left()

    async def close(self, timeout_s: float | None = None) -> None:
        """See ScannerSession."""
        closing = self._engine.begin_close(timeout_s)
        if closing is None:
            return
        try:
            await asyncio.wrap_future(closing)
        finally:
            await asyncio.to_thread(self._engine.end)

    async def __aenter__(self) -> AsyncScannerSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
