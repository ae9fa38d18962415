"""Brings what waits in the spool to SkyDriver: over the bus, over REST when the bus stays away or won't take it."""

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

log = logging.getLogger("skydriver_scanner")

_COMPRESS_FROM_BYTES = 8 * 1024
_ENCODING = protocol.ZSTD if find_spec("zstandard") is not None else protocol.GZIP
_HOLD_S = 5.0
"""How long the bus is let be after it has refused a message."""
_MOST_LOSSES = 3
"""A connection that is lost as often with the same message is too slow for it, or the broker is full: REST may do better."""
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0
_OVER_REST = (protocol.PROGRESS, protocol.RESULT)
"""A failure has no REST route: it waits for the bus."""


class DeliveryWorker:
    """One message at a time, oldest first, so that a final result comes before the last progress."""

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
        self._lost_with: dict[int, int] = {}
        self._rest_not_before = 0.0
        self._rest_pause_s = _FIRST_PAUSE_S

    def wake(self) -> None:
        """There is something new to look at: a message, or the bus."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            try:
                pause_s = await self._step()
            except OSError as error:
                log.error("the spool fails: %s", error.strerror)
                pause_s = _FIRST_PAUSE_S
            if pause_s != 0:
                await self._sleep(pause_s)

    async def until_empty(self, timeout_s: float) -> bool:
        """Wait until nothing is left that could be sent, nor is being written; False after timeout_s."""
        deadline = time.monotonic() + timeout_s
        kinds = protocol.KINDS if self._bus is not None else _OVER_REST
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
        entry = self._spool.first(protocol.KINDS if bus is not None else _OVER_REST)
        if entry is None:
            return None
        if bus is None and (wait_s := self._bus_may_return_within(now)) > 0:
            await asyncio.to_thread(self._spool.save_progress)
            return wait_s
        plain = await asyncio.to_thread(self._spool.read, entry)
        if plain is None:
            self._progressed.set()
            return 0
        packed = await self._pack(entry, plain) if bus is not None else None
        if bus is not None and packed is not None:
            return await self._over_bus(bus, entry, packed)
        if entry.kind not in _OVER_REST:
            await asyncio.to_thread(self._spool.refused, entry, "too large for the bus")
            self._progressed.set()
            return 0
        if now < self._rest_not_before:
            return self._rest_not_before - now
        return await self._over_rest(entry, plain)

    def _bus_may_return_within(self, now: float) -> float:
        """How long the bus is still waited for before REST is used."""
        if self._bus is None or self._bus.down_since is None or now < self._bus_not_before:
            return 0.0
        return max(0.0, self._bus.down_since + self._bus_patience_s - now)

    async def _pack(self, entry: Entry, plain: bytes) -> protocol.Packed | None:
        """As a message for the bus, None when it is none that the bus takes."""

        def pack() -> protocol.Packed:
            return protocol.pack_encoded(
                entry.kind, self._scan_id, plain, token=self._token, producer=entry.producer, sequence=entry.sequence,
                content_encoding=_ENCODING if len(plain) >= _COMPRESS_FROM_BYTES else protocol.NONE,
            )  # fmt: skip

        try:
            return pack() if len(plain) < _COMPRESS_FROM_BYTES else await asyncio.to_thread(pack)
        except protocol.MessageRefused as error:
            log.info("a %s does not go over the bus: %s", entry.kind, error.reason)
            return None

    async def _over_bus(self, bus: Bus, entry: Entry, packed: protocol.Packed) -> float | None:
        try:
            await bus.publish(packed)
        except BusUnavailable:
            self._lost_with[entry.order] = self._lost_with.get(entry.order, 0) + 1
            if self._lost_with[entry.order] >= _MOST_LOSSES and entry.kind in _OVER_REST:
                log.warning("a %s goes over REST: the connection to the bus was lost with it again and again", entry.kind)
                self._lost_with.clear()
                self._bus_not_before = time.monotonic() + _HOLD_S
            return 0
        except BusRejected as refusal:
            log.warning("a %s goes over REST: %s", entry.kind, refusal)
            self._bus_not_before = time.monotonic() + _HOLD_S
            return 0 if entry.kind in _OVER_REST else _HOLD_S
        self._done(entry)
        return 0

    async def _over_rest(self, entry: Entry, plain: bytes) -> float | None:
        try:
            await self._rest.send(entry.kind, plain, producer=entry.producer, sequence=entry.sequence)
        except CallFailed as failure:
            if failure.is_final:
                log.error("SkyDriver refuses a %s for good: %s", entry.kind, failure)
                await asyncio.to_thread(self._spool.refused, entry, str(failure))
                self._progressed.set()
                return 0
            log.warning("a %s is not delivered yet: %s", entry.kind, failure)
            await asyncio.to_thread(self._spool.save_progress)
            pause_s = max(self._rest_pause_s, failure.wait_s)
            self._rest_not_before = time.monotonic() + pause_s
            self._rest_pause_s = min(_MAX_PAUSE_S, self._rest_pause_s * 2)
            return pause_s
        self._done(entry)
        return 0

    def _done(self, entry: Entry) -> None:
        self._lost_with.clear()
        self._rest_pause_s = _FIRST_PAUSE_S
        self._spool.delivered(entry)
        self._progressed.set()

    async def _sleep(self, pause_s: float | None) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), pause_s)
        except asyncio.TimeoutError:
            return
