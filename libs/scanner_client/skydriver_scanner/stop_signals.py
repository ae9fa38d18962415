"""Whether the scan must stop: heard over the bus, asked for over REST at the start, after each connect and now and then."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from skydriver_scanner.errors import CallFailed
from skydriver_scanner.protocol import DEACTIVATED, DELETED, stop_reason
from skydriver_scanner.rest import Rest

log = logging.getLogger("skydriver_scanner")

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0


@dataclass(frozen=True)
class Stop:
    """Why the scan must stop. reason: ``deleted``, or ``deactivated`` when its workflow has ended; others may come."""

    reason: str


StopCallback = Callable[[Stop], object]


class StopSignalListener:
    """Tells callbacks once; those that come later at once. Callbacks may be added from any thread, and must not block."""

    def __init__(self, rest: Rest, *, interval_s: float) -> None:
        self._rest = rest
        self._interval_s = interval_s
        self._ask = asyncio.Event()
        self._stopped = asyncio.Event()
        self._lock = threading.RLock()  # a signal handler may add a callback in the midst of another
        self._callbacks: list[StopCallback] = []
        self._stop: Stop | None = None
        self.has_final_result = False
        """From then on a workflow that ends is no reason to stop: SkyDriver ends it because the scan is done."""

    def add(self, callback: StopCallback) -> None:
        """Call back when the scan must stop; at once when it must already."""
        with self._lock:
            self._callbacks.append(callback)
            stop = self._stop
        if stop is not None:
            callback(stop)

    @property
    def stop(self) -> Stop | None:
        """Why the scan must stop, None while it may go on."""
        return self._stop

    async def wait(self) -> None:
        """Until the scan must stop."""
        await self._stopped.wait()

    def ask_now(self) -> None:
        """A stop signal may have been missed."""
        self._ask.set()

    def hear(self, body: bytes) -> None:
        """A signal from the bus."""
        reason = stop_reason(body)
        if reason is not None:
            self._tell(reason)

    async def run(self) -> None:
        """Ask for the status; until cancelled."""
        pause_s = _FIRST_PAUSE_S
        while True:
            self._ask.clear()
            try:
                status = await self._rest.status()
            except CallFailed as failure:
                log.info("status unknown: %s", failure)
                wait_s, pause_s = pause_s, min(_MAX_PAUSE_S, self._interval_s, pause_s * 2)
            else:
                wait_s, pause_s = self._interval_s, _FIRST_PAUSE_S
                if status.is_deleted or status.ewms_deactivated:
                    self._tell(DELETED if status.is_deleted else DEACTIVATED)
            try:
                await asyncio.wait_for(self._ask.wait(), wait_s)
            except asyncio.TimeoutError:
                continue

    def _tell(self, reason: str) -> None:
        if reason == DEACTIVATED and self.has_final_result:
            return
        with self._lock:
            if self._stop is not None:
                return
            self._stop = Stop(reason)
            callbacks = list(self._callbacks)
        log.warning("the scan must stop: %s", reason)
        self._stopped.set()
        for callback in callbacks:
            callback(self._stop)
