"""A session's working parts, in a thread and event loop of their own, so that a busy scanner neither waits nor is waited for."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from skydriver_scanner import wire
from skydriver_scanner.bus import Bus
from skydriver_scanner.courier import Courier
from skydriver_scanner.errors import CallFailed, NotDelivered, ScannerProblem, ScanStopped
from skydriver_scanner.rest import Rest
from skydriver_scanner.settings import SessionSettings
from skydriver_scanner.spool import Spool
from skydriver_scanner.stops import Stop, StopCallback, StopWatch

log = logging.getLogger("skydriver_scanner")

T = TypeVar("T")
_SHORT_PATIENCE_S = 30.0
"""How long ``close`` tries when there is no final result to deliver."""
_PAUSE_AFTER_ERROR_S = 5.0
_REASON_CHARACTERS = 2000
_LOG_TAIL_CHARACTERS = 32 * 1024


async def _kept_up(loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A loop that goes on after an error that nobody foresaw."""
    while True:
        try:
            await loop()
        except Exception:
            log.exception("going on after an error")
            await asyncio.sleep(_PAUSE_AFTER_ERROR_S)


class Engine:
    """What both faces of a session share. The methods may be called from any thread; the ``async`` ones by ``submit`` only."""

    def __init__(self, settings: SessionSettings) -> None:
        """Raises SettingsProblem."""
        self._settings = settings
        producer = uuid.uuid4().hex
        self._spool = Spool(settings.folder, producer, max_bytes=settings.spool_max_bytes)
        self._loop = asyncio.new_event_loop()
        self._has_final_result = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name="skydriver-scanner", daemon=True)
        self._thread.start()
        self.submit(self._open(producer)).result()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run something in the session's loop. Raises ScannerProblem when the session is closed."""
        if self._is_closed:
            work.close()
            raise ScannerProblem("the session is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def report_progress(self, content: Mapping[str, Any]) -> None:
        """Hand over a report; never waits. Raises MessageRefused, ScannerProblem when the session is closed."""
        plain = wire.encode(wire.PROGRESS, content)
        self._check_open()
        self._spool.put_progress(plain)
        self._wake()

    def put_result(self, skyscan_result: Mapping[str, Any], *, is_final: bool) -> None:
        """Take a skymap; on disk when this returns. Raises MessageRefused, SpoolFull for a partial one, ScannerProblem."""
        plain = wire.encode(wire.RESULT, {"skyscan_result": skyscan_result, "is_final": is_final})
        self._check_open()
        self._spool.put(wire.RESULT, plain, is_final=is_final)
        if is_final:
            self._has_final_result = self._stops.has_final_result = True
        self._wake()

    def report_failure(self, reason: str, log_tail: str) -> None:
        """Take a failure; on disk when this returns. The scan's token is blotted out. Raises MessageRefused, ScannerProblem."""
        content = {
            "reason": self._without_secrets(reason)[:_REASON_CHARACTERS],
            "log_tail": self._without_secrets(log_tail)[-_LOG_TAIL_CHARACTERS:],
        }
        plain = wire.encode(wire.FAILURE, content)
        self._check_open()
        self._spool.put(wire.FAILURE, plain)
        self._wake()

    def on_stop(self, callback: StopCallback) -> None:
        """See StopWatch."""
        self._stops.add(callback)

    @property
    def stop(self) -> Stop | None:
        """See StopWatch."""
        return self._stops.stop

    async def event(self) -> dict[str, Any]:
        """The i3 event. Raises CallFailed."""
        return await self._rest.event()

    async def wait_for_workers(self, poll_s: float, timeout_s: float | None) -> int:
        """How many run, as soon as one does. Raises ScanStopped, TimeoutError of asyncio."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                if n_running := await self._rest.n_running():
                    return n_running
            except CallFailed as failure:
                log.warning("workforce unknown: %s", failure)
            left_s = poll_s if deadline is None else min(poll_s, deadline - time.monotonic())
            if left_s <= 0:
                raise asyncio.TimeoutError
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stops.wait(), left_s)
                assert self._stops.stop is not None
                raise ScanStopped(f"the scan must stop: {self._stops.stop.reason}")

    async def flush(self, timeout_s: float) -> bool:
        """Wait until all that was taken is delivered; False after timeout_s."""
        return await self._courier.until_empty(timeout_s)

    async def close(self, timeout_s: float | None) -> None:
        """Deliver what waits, then end. Raises NotDelivered with what is left after timeout_s."""
        if timeout_s is None:
            is_urgent = self._has_final_result and (self._stops.stop is None)
            timeout_s = (
                self._settings.close_patience_s if is_urgent else min(_SHORT_PATIENCE_S, self._settings.close_patience_s)
            )
        try:
            await self._courier.until_empty(timeout_s)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._rest.close()
            await asyncio.to_thread(self._spool.save_progress)
        if left := self._spool.left():
            raise NotDelivered(left, self._spool.folder)

    def end(self) -> None:
        """Stop the thread and give the spool back; after ``close``."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10.0)
            self._spool.close()

    async def _open(self, producer: str) -> None:
        settings = self._settings
        self._rest = Rest(settings.address, settings.token, settings.scan_id)
        self._stops = StopWatch(self._rest, interval_s=settings.status_interval_s)
        bus = None
        if settings.login_url is not None:
            bus = Bus(settings.login_url, settings.scan_id, producer, on_stop=self._stops.hear, on_up=self._on_bus_up)
        self._courier = Courier(
            self._spool, bus, self._rest,
            scan_id=settings.scan_id, token=settings.token, bus_patience_s=settings.bus_patience_s,
        )  # fmt: skip
        loops = [self._courier.run, self._stops.run, *([bus.run] if bus is not None else [])]
        self._tasks = [asyncio.ensure_future(_kept_up(loop)) for loop in loops]

    def _on_bus_up(self) -> None:
        self._courier.wake()
        self._stops.ask_now()

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._courier.wake)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ScannerProblem("the session is closed")

    def _without_secrets(self, text: str) -> str:
        return text.replace(self._settings.token, "***")

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
