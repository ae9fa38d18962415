"""What a scanner server works with: one session per life of the process, in a blocking and in an ``async`` form."""

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
from skydriver_scanner.stop_signals import Stop

__all__ = ["AsyncScannerSession", "ScannerSession"]

log = logging.getLogger("skydriver_scanner")

_WORKER_POLL_S = 30.0
_Json = Mapping[str, Any]
_AsyncCallback = Callable[[Stop], Optional[Awaitable[object]]]


def _manifest(progress: _Json | None, event_metadata: _Json | None, scan_metadata: _Json | None) -> dict[str, Any]:
    parts = {"progress": progress, "event_metadata": event_metadata, "scan_metadata": scan_metadata}
    return {name: part for name, part in parts.items() if part is not None}


async def _told(callback: Awaitable[object]) -> None:
    """A callback that fails must say so: nobody waits for it."""
    try:
        await callback
    except Exception:
        log.exception("the callback of on_stop has failed")


class ScannerSession:
    """A scanner's line to SkyDriver. Its methods may be called from any thread.

    Use as a context manager, or ``close`` it: only then is it sure that the final result has arrived.
    """

    def __init__(self, settings: SessionSettings) -> None:
        """Raises SettingsProblem."""
        self._engine = Engine(settings)

    @classmethod
    def from_env(cls) -> ScannerSession:
        """As the launcher says in ``SKYSCAN_SKYDRIVER_*``. Raises SettingsProblem."""
        return cls(SessionSettings.from_env())

    def event(self) -> dict[str, Any]:
        """The i3 event to scan. Patient for half an hour. Raises CallFailed."""
        self._engine.check_may_wait()
        return self._engine.submit(self._engine.event()).result()

    def report_progress(
        self, progress: _Json | None = None, *, event_metadata: _Json | None = None, scan_metadata: _Json | None = None
    ) -> None:
        """Hand over a report as in ``PATCH /scan/{id}/manifest``; returns at once, a newer part replaces one that waits.

        Raises MessageRefused for what is no JSON (NaN included).
        """
        self._engine.report_progress(_manifest(progress, event_metadata, scan_metadata))

    def put_result(self, skyscan_result: _Json, *, is_final: bool) -> None:
        """Hand over the whole skymap so far, in skyreader's format; NaN is allowed. On disk when this returns.

        A final one is never dropped, a partial one only for a later one when the spool is full. Raises MessageRefused for what is no
        JSON, SpoolFull when a partial result finds no room.
        """
        self._engine.put_result(skyscan_result, is_final=is_final)

    def report_failure(self, reason: str, log_tail: str = "") -> None:
        """Say that the scan has failed. On disk when this returns, never dropped; the scan's token is blotted out."""
        self._engine.report_failure(reason, log_tail)

    def wait_for_workers(self, *, poll_s: float = _WORKER_POLL_S, timeout_s: float | None = None) -> int:
        """Wait until a worker runs, return how many do. Raises ScanStopped, asyncio.TimeoutError."""
        self._engine.check_may_wait()
        return self._engine.submit(self._engine.wait_for_workers(poll_s, timeout_s)).result()

    def on_stop(self, callback: Callable[[Stop], object]) -> None:
        """Call back, once, in a thread of its own, when the scan was deleted or its workflow ended."""

        def in_a_thread(stop: Stop) -> None:
            threading.Thread(target=callback, args=(stop,), name="skydriver-stop", daemon=True).start()

        self._engine.on_stop(in_a_thread)

    @property
    def stop(self) -> Stop | None:
        """Why the scan must stop, None while it may go on."""
        return self._engine.stop

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing waits any more, nor is being written.

        False after timeout_s, and when a final result or a failure never will arrive, since SkyDriver refused it or its file is
        damaged or gone. ``left`` names those, and partial results that were refused.
        """
        self._engine.check_may_wait()
        return self._engine.submit(self._engine.flush(timeout_s)).result()

    def left(self) -> tuple[UndeliveredMessage, ...]:
        """All that was handed over and has not arrived: what waits, and what never will arrive, with the reason."""
        return self._engine.left()

    def close(self, timeout_s: float | None = None) -> None:
        """Deliver what waits, then end the session.

        timeout_s: None = an hour when a final result or a failure waits, else half a minute. Raises NotDelivered, which says what
        is left and where. Closing what is closed does nothing. Raises ScannerProblem in a signal handler that has interrupted a call
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
    """As ScannerSession, for a scanner that runs in an event loop. Use as an async context manager, or ``close`` it."""

    def __init__(self, settings: SessionSettings) -> None:
        """Raises SettingsProblem."""
        self._engine = Engine(settings)
        self._running: set[asyncio.Future[None]] = set()

    @classmethod
    def from_env(cls) -> AsyncScannerSession:
        """As the launcher says in ``SKYSCAN_SKYDRIVER_*``. Raises SettingsProblem."""
        return cls(SessionSettings.from_env())

    async def event(self) -> dict[str, Any]:
        """See ScannerSession."""
        return await asyncio.wrap_future(self._engine.submit(self._engine.event()))

    async def report_progress(
        self, progress: _Json | None = None, *, event_metadata: _Json | None = None, scan_metadata: _Json | None = None
    ) -> None:
        """See ScannerSession; never waits."""
        self._engine.report_progress(_manifest(progress, event_metadata, scan_metadata))

    async def put_result(self, skyscan_result: _Json, *, is_final: bool) -> None:
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

        def call(stop: Stop) -> None:
            answer = callback(stop)
            if inspect.isawaitable(answer):
                task = asyncio.ensure_future(_told(answer))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

        def hand_over(stop: Stop) -> None:
            with suppress(RuntimeError):  # the scanner's loop has ended
                loop.call_soon_threadsafe(call, stop)

        self._engine.on_stop(hand_over)

    @property
    def stop(self) -> Stop | None:
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
