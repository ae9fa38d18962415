"""Delivers the messages in the spool: over the bus, or over REST when the bus is unavailable or does not accept them."""

from __future__ import annotations

import asyncio
import logging
import time
from importlib.util import find_spec

from skydriver_scanner import protocol
from skydriver_scanner.bus import Bus, BusRejected, BusUnavailable
from skydriver_scanner.errors import CallFailed
from skydriver_scanner.rest import Rest
from skydriver_scanner.spool import Entry, Spool

logger = logging.getLogger("skydriver_scanner")

_COMPRESS_FROM_BYTES = 8 * 1024
_ENCODING = protocol.ZSTD if find_spec("zstandard") is not None else protocol.GZIP
_BUS_PAUSE_S = 5.0
"""How long the bus is not used after it has rejected a message."""
_MAX_LOSSES = 3
"""After so many lost connections with the same message the connection is too slow for it, or the broker is full: REST may work."""
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0
_REST_KINDS = (protocol.PROGRESS, protocol.RESULT)
"""A failure has no REST route: it waits for the bus."""


class DeliveryWorker:
    """Sends one message at a time, oldest first, so that a final result arrives before the last progress report."""

    def __init__(self, spool: Spool, bus: Bus | None, rest: Rest, *, scan_id: str, token: str, bus_patience_s: float) -> None:
        self._spool = spool
        self._bus = bus
        self._rest = rest
        self._scan_id = scan_id
        self._token = token
        self._bus_patience_s = bus_patience_s
        self._wake = asyncio.Event()
        self._progressed = asyncio.Event()
        self._bus_not_before = 0.0
        self._losses: dict[int, int] = {}
        self._rest_not_before = 0.0
        self._rest_pause_s = _FIRST_PAUSE_S

    def wake(self) -> None:
        """Check again now: there is a new message, or the bus is up."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            self._wake.clear()
            try:
                pause_s = await self._step()
            except OSError as error:
                logger.error("cannot write the spool: %s", error.strerror)
                pause_s = _FIRST_PAUSE_S
            if pause_s != 0:
                await self._sleep(pause_s)

    async def until_empty(self, timeout_s: float) -> bool:
        """Wait until no message is left that could be sent, or is being written; False after timeout_s."""
        deadline = time.monotonic() + timeout_s
        kinds = protocol.KINDS if self._bus is not None else _REST_KINDS
        while not self._spool.is_empty(kinds):
            self._progressed.clear()
            try:
                await asyncio.wait_for(self._progressed.wait(), max(0.0, min(1.0, deadline - time.monotonic())))
            except asyncio.TimeoutError:
                if time.monotonic() >= deadline:
                    return self._spool.is_empty(kinds)
        return True

    async def _step(self) -> float | None:
        """Try to send one message. Returns seconds until there may be more to do, None: when woken."""
        now = time.monotonic()
        bus = self._bus if self._bus is not None and self._bus.is_up and now >= self._bus_not_before else None
        entry = self._spool.first(protocol.KINDS if bus is not None else _REST_KINDS)
        if entry is None:
            return None
        if bus is None and (wait_s := self._bus_wait_left_s(now)) > 0:
            await asyncio.to_thread(self._spool.save_progress)
            return wait_s
        plain = await asyncio.to_thread(self._spool.read, entry)
        if plain is None:
            self._progressed.set()
            return 0
        packed = await self._pack(entry, plain) if bus is not None else None
        if bus is not None and packed is not None:
            return await self._send_over_bus(bus, entry, packed)
        if entry.kind not in _REST_KINDS:
            await asyncio.to_thread(self._spool.reject, entry, "too large for the bus")
            self._progressed.set()
            return 0
        if now < self._rest_not_before:
            return self._rest_not_before - now
        return await self._send_over_rest(entry, plain)

    def _bus_wait_left_s(self, now: float) -> float:
        """Return how many seconds to wait for the bus before REST is used."""
        if self._bus is None or self._bus.down_since is None or now < self._bus_not_before:
            return 0.0
        return max(0.0, self._bus.down_since + self._bus_patience_s - now)

    async def _pack(self, entry: Entry, plain: bytes) -> protocol.PackedMessage | None:
        """Return the message for the bus, or None when the bus does not take it."""

        def pack() -> protocol.PackedMessage:
            return protocol.pack_encoded(
                entry.kind, self._scan_id, plain, token=self._token, producer=entry.producer, sequence=entry.sequence,
                content_encoding=_ENCODING if len(plain) >= _COMPRESS_FROM_BYTES else protocol.NONE,
            )  # fmt: skip

        try:
            return pack() if len(plain) < _COMPRESS_FROM_BYTES else await asyncio.to_thread(pack)
        except protocol.MessageRejected as error:
            logger.info("this %s is not sent over the bus: %s", entry.kind, error.reason)
            return None

    async def _send_over_bus(self, bus: Bus, entry: Entry, packed: protocol.PackedMessage) -> float | None:
        try:
            await bus.publish(packed)
        except BusUnavailable:
            self._losses[entry.order] = self._losses.get(entry.order, 0) + 1
            if self._losses[entry.order] >= _MAX_LOSSES and entry.kind in _REST_KINDS:
                logger.warning(
                    "sending this %s over REST: the bus connection was lost %d times while sending it", entry.kind, _MAX_LOSSES
                )
                self._losses.clear()
                self._bus_not_before = time.monotonic() + _BUS_PAUSE_S
            return 0
        except BusRejected as rejection:
            logger.warning("sending this %s over REST: %s", entry.kind, rejection)
            self._bus_not_before = time.monotonic() + _BUS_PAUSE_S
            return 0 if entry.kind in _REST_KINDS else _BUS_PAUSE_S
        self._mark_delivered(entry)
        return 0

    async def _send_over_rest(self, entry: Entry, plain: bytes) -> float | None:
        try:
            await self._rest.send(entry.kind, plain, producer=entry.producer, sequence=entry.sequence)
        except CallFailed as failure:
            if failure.is_final:
                logger.error("SkyDriver rejected this %s; it will not be sent again: %s", entry.kind, failure)
                await asyncio.to_thread(self._spool.reject, entry, str(failure))
                self._progressed.set()
                return 0
            logger.warning("this %s is not delivered yet; retrying: %s", entry.kind, failure)
            await asyncio.to_thread(self._spool.save_progress)
            pause_s = max(self._rest_pause_s, failure.wait_s)
            self._rest_not_before = time.monotonic() + pause_s
            self._rest_pause_s = min(_MAX_PAUSE_S, self._rest_pause_s * 2)
            return pause_s
        self._mark_delivered(entry)
        return 0

    def _mark_delivered(self, entry: Entry) -> None:
        self._losses.clear()
        self._rest_pause_s = _FIRST_PAUSE_S
        self._spool.delivered(entry)
        self._progressed.set()

    async def _sleep(self, pause_s: float | None) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), pause_s)
        except asyncio.TimeoutError:
            return
