"""One queue of the scanners' exchange, consumed in batches over a connection of its own.

FastStream hands over one message at a time; here the next transaction takes whatever has come meanwhile, and one
acknowledgement settles it all. So the lane speaks to the broker through aio-pika.

Nothing is acknowledged before it is committed or lies, confirmed, with the dead letters. What is held is bounded by the prefetch.
While the database is away the lane holds what it has; when that takes long it gives everything back and consumes nothing until
the database takes writes.

A lane that breaks again and again as soon as it consumes takes one message at a time for a while: each time that a connection ends,
the broker counts a delivery of all that was held on it, and gives a message up when there were too many. So only the one that breaks
it meets that end.
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
from aiormq.abc import AbstractChannel as WireChannel
from aiormq.abc import DeliveredMessage
from faststream.rabbit import RabbitQueue
from pamqp import commands as spec

from skydriver_common.bus import dead_letter as letters
from skydriver_common.bus import lenient_decoding, topology
from skydriver_common.bus.broker import watched
from skydriver_common.bus.errors import heartbeat_loss_as_connection_error
from skydriver_common.bus.settlement import pause_after
from skydriver_common.db.pool import first
from skydriver_common.faults import TryLater
from skydriver_progress import messages
from skydriver_progress.decide.rejections import MAX_KEPT, RejectionCounter, is_always_kept, is_kept
from skydriver_progress.incoming import IncomingReport, ReceivedMessage
from skydriver_progress.ingest import Ingest

logger = structlog.get_logger(__name__)

Settled = Callable[[str, str, float], None]
"""Called with (queue, outcome, seconds since it came) for metrics."""

_KEPT_OF_TOO_LARGE = 4096
_GIVES_BACK_AFTER_S = 120.0
_LONGEST_PAUSE_S = 5.0
_HEALTHY_S = 30.0
_LOOKS_AGAIN_S = 2.0
_CAREFUL_AFTER = 4
"""Sessions in a row that broke while they consumed."""
_CAREFUL_S, _CAREFUL_PAUSE_S = 10.0, 0.2
_DEAD_AT_ONCE = 32
_BURST_S = 0.05
_PAUSE_IN_A_BURST_S = 0.002
_IS_A_BURST = 4
"""Messages within the pause."""
_IS_A_BACKLOG = 50
"""Messages that wait in the queue, beyond those in hand."""
_FLOWS_S = 10.0

T = TypeVar("T")


class _CarefulLongEnough(Exception):
    """One message at a time went well for a while."""


class BatchConsumer:
    """Consumes one queue until it is told to stop. ``run`` is a root task of the service."""

    def __init__(
        self, amqp_url: str, queue: RabbitQueue, ingest: Ingest, *, prefetch: int, most: int,
        stopping: asyncio.Event, settled: Settled, store_takes: Callable[[], Awaitable[bool]],
    ) -> None:  # fmt: skip
        """most: messages in one batch. store_takes: whether what is handled now can be written; asked before consuming anew."""
        lenient_decoding.install()
        self._amqp_url = amqp_url
        self._queue = queue
        self._ingest = ingest
        self._prefetch = prefetch
        self._most = most
        self._stopping = stopping
        self._settled = settled
        self._store_takes = store_takes
        self._rejections = RejectionCounter()
        self._pending: deque[ReceivedMessage] = deque()
        self._came = asyncio.Event()
        self._in_hand = 0
        self._settled_at = 0.0
        self._asking: aio_pika.abc.AbstractChannel | None = None
        self.is_consuming = False

    @property
    def name(self) -> str:
        """Of its queue."""
        return self._queue.name

    async def is_clear(self) -> bool:
        """Whether nothing waits for long: no backlog in the queue, and what is in hand is being handled."""
        if self._asking is None or not self.is_consuming:
            return False
        if self._in_hand and time.monotonic() - self._settled_at > _FLOWS_S:
            return False
        try:
            found = await self._asking.declare_queue(self._queue.name, passive=True, timeout=5)
        except (AMQPError, OSError, TimeoutError, RuntimeError):
            return False
        return (found.declaration_result.message_count or 0) < _IS_A_BACKLOG

    async def run(self) -> None:
        """Consume, reconnecting with a pause, until ``stopping``."""
        failures = broken = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                with heartbeat_loss_as_connection_error():
                    await self._session(is_careful=broken >= _CAREFUL_AFTER)
                continue
            except _CarefulLongEnough:
                broken = _CAREFUL_AFTER - 1
                continue
            except TryLater as fault:
                logger.warning("lane.paused", queue=self._queue.name, what=fault.what)
                await self._until_the_store_takes()
                continue
            # StopAsyncIteration: of a connection that was cut in its first words
            except (AMQPError, OSError, TimeoutError, RuntimeError, StopAsyncIteration) as error:
                logger.warning("lane.lost", queue=self._queue.name, error=type(error).__name__)
            except Exception:
                logger.exception("lane.failed", queue=self._queue.name)
            finally:
                was_consuming, self.is_consuming = self.is_consuming, False
            was_healthy = time.monotonic() - began > _HEALTHY_S
            failures = 1 if was_healthy else failures + 1
            broken = 0 if was_healthy else broken + was_consuming
            longest_s = _CAREFUL_PAUSE_S if broken > _CAREFUL_AFTER and was_consuming else _LONGEST_PAUSE_S
            pause_s = min(longest_s, 0.2 * 2 ** min(failures, 6)) * random.uniform(0.5, 1)  # noqa: S311
            await first(self._stopping.wait(), asyncio.sleep(pause_s))

    async def _session(self, *, is_careful: bool) -> None:
        """One connection, as long as it lives. is_careful: one message at a time, and not for long.

        Raises what aio-pika raises, TryLater when the database stays away, _CarefulLongEnough.
        """
        connection = await aio_pika.connect(
            watched(self._amqp_url), timeout=10, client_properties={"connection_name": f"skydriver-{self._queue.name}"}
        )
        self._pending.clear()
        self._in_hand = 0
        async with connection:
            channel = await connection.channel(publisher_confirms=False)
            await channel.set_qos(prefetch_count=1 if is_careful else self._prefetch)
            declared = await channel.declare_queue(self._queue.name, durable=True, arguments=dict(self._queue.arguments or {}))
            await declared.bind(topology.SCANNER.name, self._queue.routing_key)
            dead = await (await connection.channel(publisher_confirms=True)).get_exchange(topology.DEAD.name, ensure=False)
            self._asking = await connection.channel(publisher_confirms=False)
            wire = await channel.get_underlay_channel()
            cancelled = asyncio.Event()
            wire.on_consumer_cancel_callbacks.add(lambda *_: cancelled.set())
            tag = (await wire.basic_consume(self._queue.name, self._on_message)).consumer_tag
            self.is_consuming = True
            work = asyncio.create_task(self._work(wire, dead))
            ends = [self._stopping.wait(), wire.closing, cancelled.wait(), _done(work)]
            try:
                await first(*ends, *([asyncio.sleep(_CAREFUL_S)] if is_careful else []))
                if self._stopping.is_set() and not work.done() and not wire.is_closed:
                    with suppress(AMQPError, OSError, TimeoutError):
                        await wire.basic_cancel(str(tag), timeout=2)
                    await work  # what is in hand is finished; the rest goes back with the connection
                elif work.done():
                    work.result()
                elif is_careful and not wire.is_closed and not cancelled.is_set():
                    raise _CarefulLongEnough
                else:
                    raise ConnectionError("the consumer has ended")
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    async def _on_message(self, delivered: DeliveredMessage) -> None:
        properties, delivery = delivered.header.properties, delivered.delivery
        assert isinstance(delivery, spec.Basic.Deliver)
        headers: Mapping[str, Any] = properties.headers or {}
        # one that was sent back from the dead letters comes straight to its queue, where no scanner may write
        is_redriven = delivery.exchange == "" and letters.REDRIVEN in headers
        headers = headers if is_redriven else letters.sender_headers(headers)
        key = str(headers.get(letters.KEY)) if is_redriven else delivery.routing_key or ""
        body, size = delivered.body, len(delivered.body)
        if size > messages.most_wire_bytes(key):
            body = body[:_KEPT_OF_TOO_LARGE]
        if not self._in_hand:
            self._settled_at = time.monotonic()
        self._in_hand += 1
        self._pending.append(
            ReceivedMessage(
                key, headers, body, properties.content_encoding, properties.message_id, properties.correlation_id, size,
                delivery.delivery_tag or 0, letters.first_failed_at(headers) if is_redriven else None,
            )
        )  # fmt: skip
        self._came.set()

    async def _work(self, wire: WireChannel, dead: aio_pika.abc.AbstractExchange) -> None:
        """Batch after batch: the next one is prepared while the one before is being written."""
        writing: asyncio.Task[None] | None = None
        try:
            while not self._stopping.is_set():
                if writing is not None and (writing.done() or len(self._pending) < self._most):
                    # a small batch is better left to grow while the one before is being written
                    await first(_done(writing), self._until_full())
                if writing is not None and writing.done():
                    writing.result()
                    writing = None
                if not self._pending:
                    self._came.clear()
                    await first(self._came.wait(), self._stopping.wait())
                    continue
                await self._let_a_burst_come_in()
                batch = [self._pending.popleft() for _ in range(min(self._most, len(self._pending)))]
                began = time.monotonic()
                items = await self._patiently(partial(self._ingest.prepare, batch))
                self._pending.extendleft(reversed(batch[len(items) :]))
                if writing is not None:
                    await writing
                writing = asyncio.create_task(self._write(items, wire, dead, began))
            if writing is not None:
                await writing
        finally:
            if writing is not None and not writing.done():
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)

    async def _let_a_burst_come_in(self) -> None:
        """Wait while many more come: a batch costs much the same whatever is in it. Some ms at most."""
        seen, end = 0, time.monotonic() + _BURST_S
        while len(self._pending) - seen >= _IS_A_BURST and len(self._pending) < self._most and time.monotonic() < end:
            seen = len(self._pending)
            await asyncio.sleep(_PAUSE_IN_A_BURST_S)

    async def _until_full(self) -> None:
        while len(self._pending) < self._most:
            self._came.clear()
            await self._came.wait()

    async def _write(
        self, items: Sequence[IncomingReport], wire: WireChannel, dead: aio_pika.abc.AbstractExchange, began: float
    ) -> None:
        refused = await self._patiently(partial(self._ingest.decide, items))
        kept = [item for item in refused if self._is_kept(item)]
        for start in range(0, len(kept), _DEAD_AT_ONCE):
            await asyncio.gather(*(self._bury(item, dead) for item in kept[start : start + _DEAD_AT_ONCE]))
        await wire.basic_ack(items[-1].message.tag, multiple=True)
        self._in_hand -= len(items)
        self._settled_at = time.monotonic()
        seconds = time.monotonic() - began
        dropped = {id(item) for item in refused} - {id(item) for item in kept}
        for item in items:
            outcome = "done" if item.rejection is None else "dropped" if id(item) in dropped else "buried"
            self._settled(self._queue.name, outcome, seconds)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until it succeeds. Raises TryLater when that takes too long, or the service stops."""
        began, failures = time.monotonic(), 0
        while True:
            try:
                return await attempt()
            except TryLater as fault:
                failures += 1
                if time.monotonic() - began > _GIVES_BACK_AFTER_S or self._stopping.is_set():
                    raise
                pause_s = pause_after(fault, failures)
                logger.warning("batch.waiting", queue=self._queue.name, what=fault.what, retry_in_s=round(pause_s, 3))
                await first(self._stopping.wait(), asyncio.sleep(pause_s))

    def _is_kept(self, item: IncomingReport) -> bool:
        """Whether a rejected message becomes a dead letter; it is counted, unless it always does."""
        rejection = item.rejection
        assert rejection is not None
        if is_always_kept(rejection, is_redriven=item.message.is_redriven):
            return True
        number = self._rejections.count(item.scan_id, rejection.code)
        if number == MAX_KEPT + 1:
            logger.warning("reports.refused_often", kind=item.kind, scan_id=item.scan_id, code=rejection.code, kept=MAX_KEPT)
        return is_kept(number)

    async def _bury(self, item: IncomingReport, dead: aio_pika.abc.AbstractExchange) -> None:
        """Confirmed, with the reason. Raises what aio-pika raises: then the message stays unsettled and comes again."""
        message, rejection = item.message, item.rejection
        assert rejection is not None
        headers = letters.dead_letter_headers(
            message.headers, reason=f"{rejection.code}: {rejection.reason}", queue=self._queue.name, exchange=topology.SCANNER.name,
            key=message.key, trace=item.trace,
        )  # fmt: skip
        if message.size > len(message.body):
            headers["x-cut-from-bytes"] = message.size
        letter = letters.message_of_burial(
            message.body, headers, message_id=message.message_id, correlation_id=message.correlation_id,
            content_encoding=message.content_encoding, content_type="application/json",
        )  # fmt: skip
        await dead.publish(letter, lenient_decoding.short_text(message.key) or "unknown", timeout=30)
        logger.warning(
            "report.refused", kind=item.kind, scan_id=item.scan_id, code=rejection.code, reason=rejection.reason[:300]
        )

    async def _until_the_store_takes(self) -> None:
        """Each attempt of a message counts with the broker, which gives it up in the end: so none before it can succeed."""
        while not self._stopping.is_set():
            with suppress(OSError, TimeoutError, TryLater):
                if await self._store_takes():
                    return
            await first(self._stopping.wait(), asyncio.sleep(_LOOKS_AGAIN_S * random.uniform(0.5, 1)))  # noqa: S311


async def _done(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
