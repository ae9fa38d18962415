"""Whether the scan must stop: signalled over the bus, and polled over REST at the start, after each connect and at intervals."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from skydriver_scanner.errors import CallFailed
from skydriver_scanner.protocol import DEACTIVATED, DELETED, stop_reason
from skydriver_scanner.rest import Rest

logger = logging.getLogger("skydriver_scanner")

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0


@dataclass(frozen=True)
class StopSignal:
    """Why the scan must stop. reason: ``deleted``, or ``deactivated`` when its workflow has ended; others may come."""

    reason: str


StopCallback = Callable[[StopSignal], object]


class StopSignalListener:
    """Calls each callback once; one that is added later, at once. Callbacks may be added from any thread, and must not block."""

    def __init__(self, rest: Rest, *, interval_s: float) -> None:
        self._rest = rest
        self._interval_s = interval_s
        self._check = asyncio.Event()
        self._stopped = asyncio.Event()
        self._lock = threading.RLock()  # a signal handler may add a callback while another one is being added
        self._callbacks: list[StopCallback] = []
        self._stop: StopSignal | None = None
        self.has_final_result = False
        """Then the end of the workflow is no reason to stop: SkyDriver ends it because the scan is done."""

    def add(self, callback: StopCallback) -> None:
        """Call back when the scan must stop; at once if it must already."""
        with self._lock:
            self._callbacks.append(callback)
            stop = self._stop
        if stop is not None:
            callback(stop)

    @property
    def stop(self) -> StopSignal | None:
        """Why the scan must stop, None while it may go on."""
        return self._stop

    async def wait(self) -> None:
        """Wait until the scan must stop."""
        await self._stopped.wait()

    def check_now(self) -> None:
        """Poll the status now: a stop signal may have been missed."""
        self._check.set()

    def on_signal(self, body: bytes) -> None:
        """Handle a signal from the bus."""
        reason = stop_reason(body)
        if reason is not None:
            self._notify(reason)

    async def run(self) -> None:
        """Poll the status until cancelled."""
        pause_s = _FIRST_PAUSE_S
        while True:
            self._check.clear()
            try:
                status = await self._rest.status()
            except CallFailed as failure:
                logger.info("cannot read the scan's status: %s", failure)
                wait_s, pause_s = pause_s, min(_MAX_PAUSE_S, self._interval_s, pause_s * 2)
            else:
                wait_s, pause_s = self._interval_s, _FIRST_PAUSE_S
                if status.is_deleted or status.ewms_deactivated:
                    self._notify(DELETED if status.is_deleted else DEACTIVATED)
            try:
                await asyncio.wait_for(self._check.wait(), wait_s)
            except asyncio.TimeoutError:
                continue

    def _notify(self, reason: str) -> None:
        if reason == DEACTIVATED and self.has_final_result:
            return
        with self._lock:
            if self._stop is not None:
                return
            self._stop = StopSignal(reason)
            callbacks = list(self._callbacks)
        logger.warning("the scan must stop: %s", reason)
        self._stopped.set()
        for callback in callbacks:
            callback(self._stop)
