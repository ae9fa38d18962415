"""One queue of the scanners' exchange, consumed in batches over a connection of its own.

FastStream passes on one message at a time. Here the next transaction takes everything that has arrived meanwhile, and one
acknowledgement settles it all; so this consumer speaks to the broker through aio-pika.

Nothing is acknowledged before it is committed, or confirmed as a dead letter. What is held is bounded by the prefetch. While the
database is unavailable the consumer holds what it has. When that takes long it returns everything to the queue and consumes nothing
until the database takes writes.

A consumer whose sessions break again and again while they consume takes one message at a time for a while ("single mode"). Each
time that a connection ends, the broker counts a delivery of everything that was held on it, and dead-letters a message after too
many. In single mode only the message that breaks the session is counted.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import aio_pika
import structlog
from aio_pika.exceptions import AMQPError
from aiormq.abc import AbstractChannel as UnderlayChannel
from aiormq.abc import DeliveredMessage
from faststream.rabbit import RabbitQueue
from pamqp import commands as spec

from skydriver_common.bus import dead_letter, lenient_decoding, topology
from skydriver_common.bus.broker import watched
from skydriver_common.bus.errors import heartbeat_loss_as_connection_error
from skydriver_common.bus.settlement import pause_after
from skydriver_common.faults import TryLater
from skydriver_common.waiting import wait_first
from skydriver_progress import messages
from skydriver_progress.decide.rejections import MAX_KEPT, RejectionCounter, is_always_kept, is_kept
from skydriver_progress.incoming import IncomingReport, ReceivedMessage
from skydriver_progress.ingest import Ingest

logger = structlog.get_logger(__name__)

Settled = Callable[[str, str, float], None]
"""Called with (queue, outcome, seconds since the batch was begun) for metrics."""

_KEPT_BYTES_OF_TOO_LARGE = 4096
_RELEASE_AFTER_S = 120.0
_MAX_PAUSE_S = 5.0
_HEALTHY_S = 30.0
_DATABASE_POLL_S = 2.0
_SINGLE_MODE_AFTER = 4
"""Consecutive sessions that broke while they consumed."""
_SINGLE_MODE_S, _SINGLE_MODE_PAUSE_S = 10.0, 0.2
_MAX_CONCURRENT_DEAD_LETTERS = 32
_MAX_BURST_WAIT_S = 0.05
_BURST_POLL_S = 0.002
_BURST_SIZE = 4
"""Messages that arrive between two polls of a burst."""
_BACKLOG_SIZE = 50
"""Messages that wait in the queue, beyond those that are held."""
_FLOWING_WITHIN_S = 10.0

T = TypeVar("T")


class _SingleModeOver(Exception):
    """Single mode went well for a while."""


class BatchConsumer:
    """Consumes one queue until the service stops. ``run`` is a root task of the service."""

    def __init__(
        self, amqp_url: str, queue: RabbitQueue, ingest: Ingest, *, prefetch: int, max_batch: int,
        stopping: asyncio.Event, settled: Settled, can_write: Callable[[], Awaitable[bool]],
        dead_lettered: Callable[[str, str], None] = lambda *_: None,
    ) -> None:  # fmt: skip
        """max_batch: messages in one batch. can_write: whether the database takes writes; called before consuming again.

        dead_lettered: called with queue and code of each dead letter, for metrics.
        """
        lenient_decoding.install()
        self._amqp_url = amqp_url
        self._queue = queue
        self._ingest = ingest
        self._prefetch = prefetch
        self._max_batch = max_batch
        self._stopping = stopping
        self._settled = settled
        self._dead_lettered = dead_lettered
        self._can_write = can_write
        self._rejections = RejectionCounter()
        self._pending: deque[ReceivedMessage] = deque()
        self._arrived = asyncio.Event()
        self._n_held = 0
        self._last_settled_at = 0.0
        self._queue_stats_channel: aio_pika.abc.AbstractChannel | None = None
        self.is_consuming = False

    @property
    def name(self) -> str:
        """The name of its queue."""
        return self._queue.name

    async def has_no_backlog(self) -> bool:
        """Whether nothing waits for long: the queue has no backlog, and what is held is being handled."""
        if self._queue_stats_channel is None or not self.is_consuming:
            return False
        if self._n_held and time.monotonic() - self._last_settled_at > _FLOWING_WITHIN_S:
            return False
        try:
            found = await self._queue_stats_channel.declare_queue(self._queue.name, passive=True, timeout=5)
        except (AMQPError, OSError, TimeoutError, RuntimeError):
            return False
        return (found.declaration_result.message_count or 0) < _BACKLOG_SIZE

    async def run(self) -> None:
        """Consume, reconnecting with a pause, until ``stopping``."""
        failures = broken = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                with heartbeat_loss_as_connection_error():
                    await self._session(is_single=broken >= _SINGLE_MODE_AFTER)
                continue
            except _SingleModeOver:
                broken = _SINGLE_MODE_AFTER - 1
                continue
            except TryLater as fault:
                logger.warning("consumer.paused", queue=self._queue.name, what=fault.what)
                await self._wait_until_writable()
                continue
            # StopAsyncIteration: of a connection that was cut during its handshake
            except (AMQPError, OSError, TimeoutError, RuntimeError, StopAsyncIteration) as error:
                logger.warning("consumer.disconnected", queue=self._queue.name, error=type(error).__name__)
            except Exception:
                logger.exception("consumer.failed", queue=self._queue.name)
            finally:
                was_consuming, self.is_consuming = self.is_consuming, False
            was_healthy = time.monotonic() - began > _HEALTHY_S
            failures = 1 if was_healthy else failures + 1
            broken = 0 if was_healthy else broken + was_consuming
            max_pause_s = _SINGLE_MODE_PAUSE_S if broken > _SINGLE_MODE_AFTER and was_consuming else _MAX_PAUSE_S
            pause_s = min(max_pause_s, 0.2 * 2 ** min(failures, 6)) * random.uniform(0.5, 1)  # noqa: S311
            await wait_first(self._stopping.wait(), asyncio.sleep(pause_s))

    async def _session(self, *, is_single: bool) -> None:
        """Consume over one connection, as long as it lives. is_single: one message at a time, and not for long.

        Raises what aio-pika raises, TryLater when the database stays unavailable, _SingleModeOver.
        """
        connection = await aio_pika.connect(
            watched(self._amqp_url), timeout=10, client_properties={"connection_name": f"skydriver-{self._queue.name}"}
        )
        self._pending.clear()
        self._n_held = 0
        async with connection:
            channel = await connection.channel(publisher_confirms=False)
            await channel.set_qos(prefetch_count=1 if is_single else self._prefetch)
            declared = await channel.declare_queue(self._queue.name, durable=True, arguments=dict(self._queue.arguments or {}))
            await declared.bind(topology.SCANNER_EXCHANGE.name, self._queue.routing_key)
            dead_exchange = await (await connection.channel(publisher_confirms=True)).get_exchange(
                topology.DEAD_LETTER_EXCHANGE.name, ensure=False
            )
            self._queue_stats_channel = await connection.channel(publisher_confirms=False)
            underlay = await channel.get_underlay_channel()
            cancelled = asyncio.Event()
            underlay.on_consumer_cancel_callbacks.add(lambda *_: cancelled.set())
            tag = (await underlay.basic_consume(self._queue.name, self._on_message)).consumer_tag
            self.is_consuming = True
            work = asyncio.create_task(self._work(underlay, dead_exchange))
            ends = [self._stopping.wait(), underlay.closing, cancelled.wait(), _done(work)]
            try:
                await wait_first(*ends, *([asyncio.sleep(_SINGLE_MODE_S)] if is_single else []))
                if self._stopping.is_set() and not work.done() and not underlay.is_closed:
                    with suppress(AMQPError, OSError, TimeoutError):
                        await underlay.basic_cancel(str(tag), timeout=2)
                    await work  # what was begun is finished; the rest returns to the queue with the connection
                elif work.done():
                    work.result()
                elif is_single and not underlay.is_closed and not cancelled.is_set():
                    raise _SingleModeOver
                else:
                    raise ConnectionError("the consumer has ended")
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    async def _on_message(self, delivered: DeliveredMessage) -> None:
        properties, delivery = delivered.header.properties, delivered.delivery
        assert isinstance(delivery, spec.Basic.Deliver)
        headers: Mapping[str, Any] = properties.headers or {}
        # a redriven message comes straight to its queue, where no scanner may publish
        is_redriven = delivery.exchange == "" and dead_letter.REDRIVEN in headers
        headers = headers if is_redriven else dead_letter.sender_headers(headers)
        key = str(headers.get(dead_letter.KEY)) if is_redriven else delivery.routing_key or ""
        body, size = delivered.body, len(delivered.body)
        if size > messages.max_wire_bytes(key):
            body = body[:_KEPT_BYTES_OF_TOO_LARGE]
        if not self._n_held:
            self._last_settled_at = time.monotonic()
        self._n_held += 1
        self._pending.append(
            ReceivedMessage(
                key, headers, body, properties.content_encoding, properties.message_id, properties.correlation_id, size,
                delivery.delivery_tag or 0, dead_letter.first_failed_at(headers) if is_redriven else None,
            )
        )  # fmt: skip
        self._arrived.set()

    async def _work(self, underlay: UnderlayChannel, dead_exchange: aio_pika.abc.AbstractExchange) -> None:
        """Handle batch after batch: the next one is prepared while the one before is being written."""
        writing: asyncio.Task[None] | None = None
        try:
            while not self._stopping.is_set():
                if writing is not None and (writing.done() or len(self._pending) < self._max_batch):
                    # let a small batch grow while the one before is being written
                    await wait_first(_done(writing), self._wait_until_full())
                if writing is not None and writing.done():
                    writing.result()
                    writing = None
                if not self._pending:
                    self._arrived.clear()
                    await wait_first(self._arrived.wait(), self._stopping.wait())
                    continue
                await self._wait_for_rest_of_burst()
                batch = [self._pending.popleft() for _ in range(min(self._max_batch, len(self._pending)))]
                began = time.monotonic()
                items = await self._retry_until_available(partial(self._ingest.prepare, batch))
                self._pending.extendleft(reversed(batch[len(items) :]))
                if writing is not None:
                    await writing
                writing = asyncio.create_task(self._write(items, underlay, dead_exchange, began))
            if writing is not None:
                await writing
        finally:
            if writing is not None and not writing.done():
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)

    async def _wait_for_rest_of_burst(self) -> None:
        """Wait, some milliseconds at most, while many more arrive: a batch costs much the same whatever its size."""
        seen, end = 0, time.monotonic() + _MAX_BURST_WAIT_S
        while len(self._pending) - seen >= _BURST_SIZE and len(self._pending) < self._max_batch and time.monotonic() < end:
            seen = len(self._pending)
            await asyncio.sleep(_BURST_POLL_S)

    async def _wait_until_full(self) -> None:
        while len(self._pending) < self._max_batch:
            self._arrived.clear()
            await self._arrived.wait()

    async def _write(
        self,
        items: Sequence[IncomingReport],
        underlay: UnderlayChannel,
        dead_exchange: aio_pika.abc.AbstractExchange,
        began: float,
    ) -> None:
        rejected = await self._retry_until_available(partial(self._ingest.decide, items))
        kept = [item for item in rejected if self._is_kept(item)]
        for start in range(0, len(kept), _MAX_CONCURRENT_DEAD_LETTERS):
            await asyncio.gather(
                *(self._dead_letter(item, dead_exchange) for item in kept[start : start + _MAX_CONCURRENT_DEAD_LETTERS])
            )
        await underlay.basic_ack(items[-1].message.tag, multiple=True)
        self._n_held -= len(items)
        self._last_settled_at = time.monotonic()
        seconds = time.monotonic() - began
        dropped = {id(item) for item in rejected} - {id(item) for item in kept}
        for item in items:
            outcome = "done" if item.rejection is None else "dropped" if id(item) in dropped else "buried"
            self._settled(self._queue.name, outcome, seconds)

    async def _retry_until_available(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until it succeeds. Raises TryLater when that takes too long, or when the service stops."""
        began, failures = time.monotonic(), 0
        while True:
            try:
                return await attempt()
            except TryLater as fault:
                failures += 1
                if time.monotonic() - began > _RELEASE_AFTER_S or self._stopping.is_set():
                    raise
                pause_s = pause_after(fault, failures)
                logger.warning("batch.retrying", queue=self._queue.name, what=fault.what, retry_in_s=round(pause_s, 3))
                await wait_first(self._stopping.wait(), asyncio.sleep(pause_s))

    def _is_kept(self, item: IncomingReport) -> bool:
        """Whether a rejected message becomes a dead letter; it is counted, unless it always does."""
        rejection = item.rejection
        assert rejection is not None
        if is_always_kept(rejection, is_redriven=item.message.is_redriven):
            return True
        number = self._rejections.count(item.scan_id, rejection.code)
        if number == MAX_KEPT + 1:
            logger.warning(
                "reports.rejections-not-kept", kind=item.kind, scan_id=item.scan_id, code=rejection.code, kept=MAX_KEPT
            )
        return is_kept(number)

    async def _dead_letter(self, item: IncomingReport, dead_exchange: aio_pika.abc.AbstractExchange) -> None:
        """Publish it, confirmed, with the reason. Raises what aio-pika raises: then the message stays unsettled and is redelivered."""
        message, rejection = item.message, item.rejection
        assert rejection is not None
        headers = dead_letter.dead_letter_headers(
            message.headers, code=rejection.code, reason=rejection.reason, queue=self._queue.name, exchange=topology.SCANNER_EXCHANGE.name,
            key=message.key, trace=item.trace,
        )  # fmt: skip
        if message.size > len(message.body):
            headers["x-cut-from-bytes"] = message.size
        letter = dead_letter.dead_letter_message(
            message.body, headers, message_id=message.message_id, correlation_id=message.correlation_id,
            content_encoding=message.content_encoding, content_type="application/json",
        )  # fmt: skip
        await dead_exchange.publish(letter, lenient_decoding.short_text(message.key) or "unknown", timeout=30)
        self._dead_lettered(self._queue.name, rejection.code)
        logger.warning(
            "report.rejected", kind=item.kind, scan_id=item.scan_id, code=rejection.code, reason=rejection.reason[:300]
        )

    async def _wait_until_writable(self) -> None:
        """Wait until the database takes writes: the broker counts each delivery, so none is wanted that cannot succeed."""
        while not self._stopping.is_set():
            with suppress(OSError, TimeoutError, TryLater):
                if await self._can_write():
                    return
            await wait_first(self._stopping.wait(), asyncio.sleep(_DATABASE_POLL_S * random.uniform(0.5, 1)))  # noqa: S311


async def _done(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
