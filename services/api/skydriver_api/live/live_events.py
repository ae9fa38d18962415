"""Live events: one consumer of the event topic per process, fanned out to any number of watchers.

Nothing is consumed while nobody watches. A watcher gets every event of its scan as long as it keeps up. When it cannot,
or when events may have been missed, it is *behind* and reads what it missed from the log: so the log stays the
system of record, and costs one read per gap, not per event.

Events may be missed whenever the connection, the channel or the consumer is lost, or the queue is full. A later event shows the gap
by its version, but the last event of a scan has none after it. So the newest versions of all watched scans are looked up from
time to time, in one query. That also carries streams through a time without any broker, at that pace.
"""

import asyncio
import hashlib
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import NamedTuple

import structlog
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustChannel, AbstractRobustConnection, AbstractRobustQueue
from aiormq.channel import Channel
from pamqp.common import FieldTable

from skydriver_common.bus import topology
from skydriver_common.bus.errors import broker_faults
from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId

logger = structlog.get_logger(__name__)

MAX_WAITING_EVENTS = 256
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Of buffered events of all watchers of the process; a watcher beyond that reads the log when its turn comes."""
_BROKER_TIMEOUT_S = 5.0
_UNBIND_AFTER_S = 5.0
_RETRY_PAUSES_S = (0.1, 0.5, 2.0)
"""Between tries to listen again."""
_SCANS_PER_QUERY = 1000
_QUEUE_ARGUMENTS: FieldTable = {"x-max-length": 20_000, "x-overflow": "drop-head"}
"""Dropping is safe, since versions show it; growing is not."""

Versions = Callable[[Sequence[ScanId]], Awaitable[Mapping[ScanId, int]]]
"""From scan ids to the versions of their newest events. Raises TryLater."""


class LiveEvent(NamedTuple):
    """body: JSON of the event with its envelope, as it is in the log."""

    version: int
    type: str
    body: bytes


class _BufferedBytes:
    """How many bytes of events wait for watchers."""

    def __init__(self) -> None:
        self.n_bytes = 0


class Watcher:
    """One reader of one scan's events. version: of the newest event that was written to its client."""

    def __init__(self, buffered: _BufferedBytes) -> None:
        self.version = 0
        self.is_closed = False
        self._buffered = buffered
        self._events: deque[LiveEvent] = deque()
        self._is_behind = True
        self._wake = asyncio.Event()

    def offer(self, event: LiveEvent) -> None:
        """Take an event, or note that too much is waiting."""
        if len(self._events) >= MAX_WAITING_EVENTS or self._buffered.n_bytes + len(event.body) > MAX_WAITING_BYTES:
            self.fall_behind()
        elif not self._is_behind:
            self._events.append(event)
            self._buffered.n_bytes += len(event.body)
        self._wake.set()

    def fall_behind(self) -> None:
        """Something may be missing: the log has to be read."""
        self._drop_events()
        self._is_behind = True
        self._wake.set()

    def compare(self, newest: int) -> None:
        """Fall behind if the scan has come to a version that neither is written nor waits to be."""
        if newest > max(self.version, self._events[-1].version if self._events else 0):
            self.fall_behind()

    def catch_up(self) -> bool:
        """Whether the log has to be read now; events from here on are kept meanwhile."""
        was_behind, self._is_behind = self._is_behind, False
        return was_behind

    def take(self) -> LiveEvent | None:
        """The oldest event that waits."""
        if not self._events:
            return None
        event = self._events.popleft()
        self._buffered.n_bytes -= len(event.body)
        return event

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

    def forget(self) -> None:
        """Nobody reads any more."""
        self._drop_events()
        self._is_behind = True  # so that nothing is kept from now on

    def _drop_events(self) -> None:
        self._buffered.n_bytes -= sum(len(event.body) for event in self._events)
        self._events.clear()


class LiveEvents:
    """The fan-out. ``listen`` runs as long as the process, ``compare_versions`` is the step of a loop.

    n_streams: how many watchers there are. is_listening: whether events come at present.
    """

    def __init__(self, versions: Versions, *, max_streams: int = 8_000, max_streams_per_token: int = 4_000) -> None:
        self._versions = versions
        self._max_streams = max_streams
        self._max_streams_per_token = max_streams_per_token
        self._watchers: dict[ScanId, set[Watcher]] = {}
        self._by_token: Counter[bytes] = Counter()
        self._buffered = _BufferedBytes()
        self._is_closed = False
        self._changed = asyncio.Event()
        self.n_streams = 0
        self.is_listening = False

    @contextmanager
    def admit(self, token: str) -> Iterator[None]:
        """Be one of the streams, for the time of the block. Raises TryLater when there are too many, of all or with this token."""
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        if self.n_streams >= self._max_streams:
            raise TryLater("too many concurrent live streams", 10.0)
        if self._by_token[digest] >= self._max_streams_per_token:
            raise TryLater("too many concurrent live streams with this token", 10.0)
        self.n_streams += 1
        self._by_token[digest] += 1
        try:
            yield
        finally:
            self.n_streams -= 1
            self._by_token[digest] -= 1
            if not self._by_token[digest]:
                del self._by_token[digest]

    @asynccontextmanager
    async def watching(self, scan_id: ScanId) -> AsyncIterator[Watcher]:
        """A watcher of this scan, which is behind at first. The broker may be unavailable: events then come from the log alone."""
        watcher = Watcher(self._buffered)
        if self._is_closed:
            watcher.close()
        watchers = self._watchers.setdefault(scan_id, set())
        watchers.add(watcher)
        self._changed.set()
        try:
            yield watcher
        finally:
            watcher.forget()
            watchers.discard(watcher)
            if not watchers and self._watchers.get(scan_id) is watchers:
                del self._watchers[scan_id]
            self._changed.set()

    async def listen(self, bus: AbstractRobustConnection, stopping: asyncio.Event) -> None:
        """Receive events while there are watchers, until the service stops; whatever is lost on the way is made again."""
        tries = 0
        while not stopping.is_set():
            try:
                await self._session(bus, stopping)
                tries = 0
            except TryLater as fault:
                pause_s = _RETRY_PAUSES_S[min(tries, len(_RETRY_PAUSES_S) - 1)]
                tries += 1
                logger.info("live.waiting", what=fault.what, retry_in_s=pause_s)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), pause_s)

    async def _session(self, bus: AbstractRobustConnection, stopping: asyncio.Event) -> None:
        """Listen on a channel and a queue of its own until one of them is lost. Raises TryLater when they cannot be opened.

        Nothing of it is restored by the client library, which would do so without a word: watchers have to learn of each gap.
        """
        with broker_faults():
            async with asyncio.timeout(_BROKER_TIMEOUT_S):
                await bus.ready()
                channel = await bus.channel(publisher_confirms=False)
        is_lost = asyncio.Event()
        try:
            with broker_faults():
                async with asyncio.timeout(_BROKER_TIMEOUT_S):
                    queue = await self._consume(channel, is_lost)
            await self._follow(queue, is_lost, stopping)
            if is_lost.is_set():
                logger.info("live.lost")
        finally:
            self.is_listening = False
            # not only quietly: what the library raises here is of a channel that is given up
            with suppress(Exception):
                async with asyncio.timeout(_BROKER_TIMEOUT_S):
                    await channel.close()

    async def _consume(self, channel: AbstractRobustChannel, is_lost: asyncio.Event) -> AbstractRobustQueue:
        underlay = await channel.get_underlay_channel()
        assert isinstance(underlay, Channel)
        underlay.closing.add_done_callback(lambda _: self._lose(is_lost))
        underlay.on_consumer_cancel_callbacks.add(lambda _: self._lose(is_lost))
        queue: AbstractRobustQueue = await channel.declare_queue(
            f"skydriver.live.{uuid.uuid4().hex}", exclusive=True, auto_delete=True, arguments=_QUEUE_ARGUMENTS, robust=False
        )
        await queue.consume(self._on_event, no_ack=True, robust=False)
        return queue

    def _lose(self, is_lost: asyncio.Event) -> None:
        is_lost.set()
        self._changed.set()

    async def _follow(self, queue: AbstractRobustQueue, is_lost: asyncio.Event, stopping: asyncio.Event) -> None:
        """Let events come into the queue while there are watchers. Raises TryLater."""
        ends = asyncio.create_task(stopping.wait())
        ends.add_done_callback(lambda _: self._changed.set())
        try:
            while not is_lost.is_set() and not stopping.is_set():
                self._changed.clear()
                if self._watchers and not self.is_listening:
                    with broker_faults():
                        await queue.bind(topology.EVENT_EXCHANGE.name, "#", timeout=_BROKER_TIMEOUT_S, robust=False)
                    self.is_listening = True
                    # what happened before the binding did not come: those who have read the log read it again
                    self.fall_behind()
                elif not self._watchers and self.is_listening:
                    if not await self._stay_alone(is_lost, stopping):
                        continue
                    with broker_faults():
                        await queue.unbind(topology.EVENT_EXCHANGE.name, "#", timeout=_BROKER_TIMEOUT_S)
                    self.is_listening = False
                    continue  # somebody may have come meanwhile
                await self._changed.wait()
        finally:
            ends.cancel()

    async def _stay_alone(self, is_lost: asyncio.Event, stopping: asyncio.Event) -> bool:
        """Whether nobody watches for a while; until then events pass by."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_UNBIND_AFTER_S):
                while not self._watchers and not is_lost.is_set() and not stopping.is_set():
                    await self._changed.wait()
                    self._changed.clear()
                return False
        return True

    async def compare_versions(self) -> bool:
        """Compare the versions that watchers have with the log, for all of them in one query. Raises TryLater."""
        scan_ids = list(self._watchers)
        for start in range(0, len(scan_ids), _SCANS_PER_QUERY):
            newest = await self._versions(scan_ids[start : start + _SCANS_PER_QUERY])
            for scan_id, version in newest.items():
                for watcher in self._watchers.get(scan_id, ()):
                    watcher.compare(version)
        return False

    def fall_behind(self) -> None:
        """Tell all watchers that they may have missed something."""
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.fall_behind()

    def close(self) -> None:
        """End all streams, now and from now on."""
        self._is_closed = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.close()

    async def _on_event(self, message: AbstractIncomingMessage) -> None:
        watchers = self._watchers.get(ScanId(str(message.headers.get("scan_id", ""))))
        if not watchers:
            return
        version = message.headers.get("version")
        if not isinstance(version, int):
            logger.warning("live.event-without-version", type=message.type)
            return
        event = LiveEvent(version, message.type or "", message.body)
        for watcher in watchers:
            watcher.offer(event)
