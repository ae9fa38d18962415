"""Live events: one consumer of the event topic per process, fanned out to any number of watchers.

Nothing is listened to while nobody watches. A watcher is told of every event of its scan as long as it keeps up. When it can't,
or the broker was away, it is told that it is *behind* and reads what it missed from the log: so the log stays the system of
record, and costs one read per gap, not per event.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import structlog
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustConnection, AbstractRobustQueue
from aio_pika.exceptions import AMQPError

from skydriver_common.bus import topology
from skydriver_common.bus.translate import deaths_told
from skydriver_common.faults import TryLater

log = structlog.get_logger(__name__)

_MOST_WAITING = 256
_BIND_LIMIT_S = 5.0
_UNBIND_AFTER_S = 5.0
_QUEUE_ARGUMENTS = {"x-max-length": 20_000, "x-overflow": "drop-head"}
"""A gap is found by its version number and read from the log: dropping is safe, growing is not."""


class LiveEvent(NamedTuple):
    """body: JSON of the event with its envelope, as it is in the log."""

    version: int
    type: str
    body: bytes


class Watcher:
    """One reader of one scan's events."""

    def __init__(self) -> None:
        self._events: deque[LiveEvent] = deque()
        self._is_behind = True
        self._wake = asyncio.Event()
        self.is_closed = False

    def offer(self, event: LiveEvent) -> None:
        """Take an event, or note that too many are waiting."""
        if len(self._events) >= _MOST_WAITING:
            self.fall_behind()
        elif not self._is_behind:
            self._events.append(event)
        self._wake.set()

    def fall_behind(self) -> None:
        """Something may be missing: the log has to be read."""
        self._events.clear()
        self._is_behind = True
        self._wake.set()

    def catch_up(self) -> bool:
        """Whether the log has to be read now; events from here on are kept meanwhile."""
        was_behind, self._is_behind = self._is_behind, False
        return was_behind

    def take(self) -> list[LiveEvent]:
        """What has come."""
        events = list(self._events)
        self._events.clear()
        return events

    async def wait(self, limit_s: float) -> bool:
        """Wait for something to do; False when nothing came within the limit."""
        try:
            await asyncio.wait_for(self._wake.wait(), limit_s)
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def close(self) -> None:
        """End the stream."""
        self.is_closed = True
        self._wake.set()


class LiveEvents:
    """The fan-out. Open it before use."""

    def __init__(self, bus: AbstractRobustConnection) -> None:
        self._bus = bus
        self._queue: AbstractRobustQueue | None = None
        self._watchers: dict[str, set[Watcher]] = {}
        self._is_closed = False
        self._is_bound = False
        self._binding = asyncio.Lock()
        self._unbinding: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Declare the queue; events come into it while there are watchers. Raises TryLater."""
        try:
            channel = await self._bus.channel()
            queue = await channel.declare_queue(
                f"skydriver.live.{uuid.uuid4().hex}", exclusive=True, auto_delete=True, arguments=_QUEUE_ARGUMENTS
            )
            await queue.consume(self._on_event, no_ack=True)
        except (AMQPError, OSError, TimeoutError, RuntimeError) as error:
            raise TryLater("the message broker can't be reached") from error
        self._queue = queue
        self._bus.reconnect_callbacks.add(self._on_reconnection)

    @asynccontextmanager
    async def watching(self, scan_id: str) -> AsyncIterator[Watcher]:
        """A watcher of this scan, which is behind at first. Raises TryLater while the broker is away."""
        watcher = Watcher()
        if self._is_closed:
            watcher.close()
        watchers = self._watchers.setdefault(scan_id, set())
        watchers.add(watcher)
        try:
            await self._listen()
            yield watcher
        finally:
            watchers.discard(watcher)
            if not watchers and self._watchers.get(scan_id) is watchers:
                del self._watchers[scan_id]
            if not self._watchers and self._is_bound and not self._is_closed:
                if self._unbinding is not None:
                    self._unbinding.cancel()
                self._unbinding = asyncio.create_task(self._listen_no_more())

    async def _listen(self) -> None:
        """See to it that events come, before the log is read: so none falls in between."""
        async with self._binding:
            if self._is_bound or self._is_closed or self._queue is None:
                return
            try:
                with deaths_told():
                    await self._queue.bind(topology.EVENTS.name, "#", timeout=_BIND_LIMIT_S)
            except (AMQPError, OSError, TimeoutError, RuntimeError) as error:
                raise TryLater("the message broker can't be reached") from error
            self._is_bound = True

    async def _listen_no_more(self) -> None:
        """Once nobody has watched for a while, let events pass by."""
        await asyncio.sleep(_UNBIND_AFTER_S)
        async with self._binding:
            if self._watchers or not self._is_bound or self._queue is None:
                return
            with suppress(AMQPError, OSError, TimeoutError, RuntimeError):
                await self._queue.unbind(topology.EVENTS.name, "#", timeout=_BIND_LIMIT_S)
                self._is_bound = False

    def close(self) -> None:
        """End all streams, now and from now on."""
        self._is_closed = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.close()

    async def _on_event(self, message: AbstractIncomingMessage) -> None:
        watchers = self._watchers.get(str(message.headers.get("scan_id", "")))
        if not watchers:
            return
        version = message.headers.get("version")
        if not isinstance(version, int):
            log.warning("live.event-without-version", type=message.type)
            return
        event = LiveEvent(version, message.type or "", message.body)
        for watcher in watchers:
            watcher.offer(event)

    async def _on_reconnection(self, *_: Any) -> None:
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.fall_behind()
