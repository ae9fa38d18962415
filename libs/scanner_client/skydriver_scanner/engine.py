"""The inside of a session, in a thread and event loop of its own, so that neither the scanner nor the delivery waits for the other."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import selectors
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from skydriver_scanner import protocol
from skydriver_scanner.bus import Bus
from skydriver_scanner.delivery_worker import DeliveryWorker
from skydriver_scanner.errors import CallFailed, NotDelivered, ScannerError, ScanStopped, UndeliveredMessage
from skydriver_scanner.rest import Rest
from skydriver_scanner.settings import SessionSettings, default_spool_dir
from skydriver_scanner.spool import Spool, make_private
from skydriver_scanner.stop_signals import StopCallback, StopSignal, StopSignalListener

logger = logging.getLogger("skydriver_scanner")

T = TypeVar("T")
_SHORT_RETRY_S = 30.0
"""How long ``close`` tries when neither a final result nor a failure has to be delivered."""
_PAUSE_AFTER_ERROR_S = 5.0
PROGRESS_PARTS = ("progress", "event_metadata", "scan_metadata")
_MAX_REASON_CHARACTERS = 2000
_MAX_LOG_TAIL_CHARACTERS = 32 * 1024
_NO_REASON = "no reason given"
_PENDING_PUTS_TIMEOUT_S = 60.0


async def _restart_on_error(loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a loop, and start it again after an unforeseen error."""
    while True:
        try:
            await loop()
        except Exception:
            logger.exception("a background task failed; restarting it")
            await asyncio.sleep(_PAUSE_AFTER_ERROR_S)


def _descriptors(selector: selectors.BaseSelector) -> set[int]:
    """Return the descriptors that the selector watches, and its own; none when it is closed."""
    watched = {key.fd for key in list((selector.get_map() or {}).values())}
    own: Callable[[], int] | None = getattr(selector, "fileno", None)
    with suppress(ValueError, OSError):
        return watched | {own()} if own is not None else watched
    return watched


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


def _forget_after_fork() -> None:
    for engine in list(_ENGINES):
        engine.forget_after_fork()
    _ENGINES.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


class Engine:
    """What both forms of a session share. Its methods may be called from any thread; the ``async`` ones through ``submit`` only."""

    def __init__(self, settings: SessionSettings) -> None:
        """Raises SettingsError."""
        self._settings = settings
        producer = uuid.uuid4().hex
        if settings.spool_dir == default_spool_dir():
            make_private(settings.spool_dir)
        self._spool = Spool(settings.folder, producer, max_bytes=settings.spool_max_bytes)
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._is_shut = False
        """No further message is accepted."""
        self._is_closed = False
        self._closing: Future[None] | None = None
        self._entry_lock = threading.RLock()
        self._inside: list[int] = []
        """Threads that hold a lock of this session, or may hold one: one entry for each call they are in."""
        self._puts = 0
        self._thread = threading.Thread(target=self._serve, name="skydriver-scanner", daemon=True)
        _ENGINES.add(self)
        self._thread.start()
        self.submit(self._open(producer)).result()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the session's loop. Raises ScannerError when the session is closed."""
        if self._is_closed:
            work.close()
            raise ScannerError("the session is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def check_may_wait(self) -> None:
        """To be called before a thread waits for the loop, which may wait for a lock that the thread holds.

        Raises ScannerError in a signal handler that interrupted a call of this session in the same thread.
        """
        if threading.get_ident() in self._inside:
            raise ScannerError(
                "a signal handler that interrupted a call of the session cannot wait for the session: report a failure in the handler, "
                "close the session after it"
            )

    def report_progress(self, content: Mapping[str, Any]) -> None:
        """Accept a report; never waits. Parts that it leaves out are kept from a report that still waits.

        Raises MessageRejected, ScannerError when the session is closed.
        """
        plain = protocol.encode(protocol.PROGRESS, content)

        def merge(older: bytes, is_mine: bool) -> bytes:
            said = {name: part for name, part in content.items() if part}
            more = {
                name: part for name, part in json.loads(older).items() if name not in said and (is_mine or name != "progress")
            }
            return protocol.encode(protocol.PROGRESS, {**more, **said}) if more else plain

        with self._putting():
            self._spool.put_progress(plain, None if all(content.get(name) for name in PROGRESS_PARTS) else merge)

    def put_result(self, skyscan_result: Mapping[str, Any], *, is_final: bool) -> None:
        """Accept a skymap; on disk when this returns. Raises MessageRejected, SpoolFull for a partial one, ScannerError."""
        plain = protocol.encode(protocol.RESULT, {"skyscan_result": skyscan_result, "is_final": is_final})
        with self._putting():
            self._spool.put(protocol.RESULT, plain, is_final=is_final)
            if is_final:
                self._stops.has_final_result = True

    def report_failure(self, reason: str, log_tail: str) -> None:
        """Accept a failure, whatever its texts are; on disk when this returns. The scan's token is replaced by ``***``.

        Raises ScannerError when the session is closed.
        """
        why = self._sanitize(reason).strip()[:_MAX_REASON_CHARACTERS] or _NO_REASON
        tail = self._sanitize(log_tail)[-_MAX_LOG_TAIL_CHARACTERS:]
        while (
            len(plain := protocol.encode(protocol.FAILURE, {"reason": why, "log_tail": tail})) > protocol.MAX_SMALL_WIRE_BYTES
        ):
            tail = tail[len(tail) // 2 + 1 :]
        with self._putting():
            self._spool.put(protocol.FAILURE, plain)

    def on_stop(self, callback: StopCallback) -> None:
        """See StopSignalListener."""
        self._stops.add(callback)

    @property
    def stop(self) -> StopSignal | None:
        """See StopSignalListener."""
        return self._stops.stop

    async def event(self) -> dict[str, Any]:
        """The i3 event. Raises CallFailed."""
        return await self._rest.event()

    async def wait_for_workers(self, poll_s: float, timeout_s: float | None) -> int:
        """Return how many workers run, as soon as one does. Raises ScanStopped, asyncio.TimeoutError."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                if n_running := await self._rest.n_running():
                    return n_running
            except CallFailed as failure:
                logger.warning("cannot read the worker counts: %s", failure)
            left_s = poll_s if deadline is None else min(poll_s, deadline - time.monotonic())
            if left_s <= 0:
                raise asyncio.TimeoutError
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stops.wait(), left_s)
                assert self._stops.stop is not None
                raise ScanStopped(f"the scan must stop: {self._stops.stop.reason}")

    async def flush(self, timeout_s: float) -> bool:
        """Wait until no message waits. False after timeout_s, and when a final result or a failure will never arrive."""
        is_empty = await self._delivery.until_empty(timeout_s)
        return is_empty and not any(one.is_final or one.kind == protocol.FAILURE for one in self.left())

    def left(self) -> tuple[UndeliveredMessage, ...]:
        """See ``Spool.left``."""
        return self._spool.left()

    def begin_close(self, timeout_s: float | None) -> Future[None] | None:
        """Deliver what waits, then accept nothing more; ``end`` must follow. None: the session is closed already.

        The outcome is NotDelivered with what is left after timeout_s. A caller who comes while another one closes gets the same outcome.
        """
        with self._holding_entry_lock():
            if self._is_closed:
                return None
            if self._closing is None:
                self._closing = self.submit(self._close(timeout_s))
            return self._closing

    async def _close(self, timeout_s: float | None) -> None:
        if timeout_s is None:
            is_urgent = self._stops.stop is None and self._spool.holds_final_message()
            timeout_s = self._settings.close_patience_s if is_urgent else min(_SHORT_RETRY_S, self._settings.close_patience_s)
        try:
            await self._delivery.until_empty(timeout_s)
        finally:
            await self._shut()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._rest.close()
            await asyncio.to_thread(self._spool.save_progress)
        if left := self._spool.left():
            raise NotDelivered(left, self._spool.folder)

    def end(self) -> None:
        """Stop the thread and release the spool; after ``begin_close``."""
        with self._holding_entry_lock():
            is_first, self._is_closed, self._is_shut = not self._is_closed, True, True
        if is_first:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10.0)
            self._spool.close()
            _ENGINES.discard(self)

    async def _open(self, producer: str) -> None:
        settings = self._settings
        self._put_ended = asyncio.Event()
        self._rest = Rest(settings.address, settings.token, settings.scan_id)
        self._stops = StopSignalListener(self._rest, interval_s=settings.status_interval_s)
        bus = None
        if settings.login_url is not None:
            bus = Bus(settings.login_url, settings.scan_id, producer, on_stop=self._stops.on_signal, on_up=self._on_bus_up)
        self._delivery = DeliveryWorker(
            self._spool, bus, self._rest,
            scan_id=settings.scan_id, token=settings.token, bus_patience_s=settings.bus_patience_s,
        )  # fmt: skip
        loops = [self._delivery.run, self._stops.run, *([bus.run] if bus is not None else [])]
        self._tasks = [asyncio.ensure_future(_restart_on_error(loop)) for loop in loops]

    def _on_bus_up(self) -> None:
        self._delivery.wake()
        self._stops.check_now()

    def forget_after_fork(self) -> None:
        """Detach the session in a child process: it is the parent's, with its thread, its loop and its directory.

        The connections are shared with the parent, the selector too. When the child drops its copies of their objects, some would
        say good-bye on a connection, or take it out of the selector, for the parent as well: in the child they are /dev/null.
        """
        self._entry_lock = threading.RLock()
        self._inside = []
        self._is_shut = self._is_closed = True
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            for shared in _descriptors(self._selector):
                with suppress(OSError):
                    os.dup2(nothing, shared, inheritable=False)
        finally:
            os.close(nothing)

    @contextmanager
    def _holding_entry_lock(self) -> Iterator[None]:
        """Hold the entry lock; see ``check_may_wait``."""
        me = threading.get_ident()
        self._inside.append(me)
        try:
            with self._entry_lock:
                yield
        finally:
            self._inside.remove(me)

    @contextmanager
    def _putting(self) -> Iterator[None]:
        """Count the caller while a message is accepted: ``close`` waits for it, or names the message as undelivered."""
        me = threading.get_ident()
        self._inside.append(me)
        try:
            with self._entry_lock:
                if self._is_shut:
                    raise ScannerError("the session is closed")
                self._puts += 1
            try:
                yield
            finally:
                with self._entry_lock:
                    self._puts -= 1
                # also after a message that was not accepted: others may have waited for it
                with suppress(RuntimeError):  # the loop has ended meanwhile
                    self._loop.call_soon_threadsafe(self._on_put)
        finally:
            self._inside.remove(me)

    def _on_put(self) -> None:
        self._put_ended.set()
        self._delivery.wake()

    async def _shut(self) -> None:
        """Accept nothing more, and wait for callers whose message is being accepted."""
        with self._entry_lock:
            self._is_shut = True
        deadline = time.monotonic() + _PENDING_PUTS_TIMEOUT_S
        while self._puts and time.monotonic() < deadline:
            self._put_ended.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._put_ended.wait(), 1.0)

    def _sanitize(self, text: str) -> str:
        """Return the text without the token and without characters that are not UTF-8 or cannot be stored."""
        plain = str(text).replace(self._settings.token, "***").replace("\0", "\ufffd")
        return plain.encode("utf-8", "replace").decode()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
