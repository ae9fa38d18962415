"""A session's working parts, in a thread and event loop of their own, so that a busy scanner neither waits nor is waited for."""

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
from skydriver_scanner.stop_signals import Stop, StopCallback, StopSignalListener

log = logging.getLogger("skydriver_scanner")

T = TypeVar("T")
_SHORT_RETRY_S = 30.0
"""How long ``close`` tries when neither a final result nor a failure is to be delivered."""
_PAUSE_AFTER_ERROR_S = 5.0
_PARTS = ("progress", "event_metadata", "scan_metadata")
_REASON_CHARACTERS = 2000
_LOG_TAIL_CHARACTERS = 32 * 1024
_NO_REASON = "no reason given"
_LAST_PUTS_S = 60.0


async def _restart_on_error(loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A loop that goes on after an error that nobody foresaw."""
    while True:
        try:
            await loop()
        except Exception:
            log.exception("going on after an error")
            await asyncio.sleep(_PAUSE_AFTER_ERROR_S)


def _descriptors(selector: selectors.BaseSelector) -> set[int]:
    """Those that are waited for, and the selector's own; none when it is closed."""
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
    """What both faces of a session share. The methods may be called from any thread; the ``async`` ones by ``submit`` only."""

    def __init__(self, settings: SessionSettings) -> None:
        """Raises SettingsProblem."""
        self._settings = settings
        producer = uuid.uuid4().hex
        if settings.spool_dir == default_spool_dir():
            make_private(settings.spool_dir)
        self._spool = Spool(settings.folder, producer, max_bytes=settings.spool_max_bytes)
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._is_shut = False
        """Nothing more is taken."""
        self._is_closed = False
        self._closing: Future[None] | None = None
        self._door = threading.RLock()
        self._inside: list[int] = []
        """Threads that hold a lock of ours, or may: once for each call that they are in."""
        self._puts = 0
        self._thread = threading.Thread(target=self._serve, name="skydriver-scanner", daemon=True)
        _ENGINES.add(self)
        self._thread.start()
        self.submit(self._open(producer)).result()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run something in the session's loop. Raises ScannerProblem when the session is closed."""
        if self._is_closed:
            work.close()
            raise ScannerError("the session is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def check_may_wait(self) -> None:
        """To be called before a thread waits for the loop, which may wait for a lock that the thread holds.

        Raises ScannerProblem in a signal handler that interrupted a call of this session in the same thread.
        """
        if threading.get_ident() in self._inside:
            raise ScannerError(
                "a signal handler that interrupted a call of the session can't wait for the session: report a failure in it, "
                "close the session after it"
            )

    def report_progress(self, content: Mapping[str, Any]) -> None:
        """Hand over a report; never waits. What it does not say is kept from one that still waits.

        Raises MessageRefused, ScannerProblem when the session is closed.
        """
        plain = protocol.encode(protocol.PROGRESS, content)

        def merged(older: bytes, is_mine: bool) -> bytes:
            said = {name: part for name, part in content.items() if part}
            more = {
                name: part for name, part in json.loads(older).items() if name not in said and (is_mine or name != "progress")
            }
            return protocol.encode(protocol.PROGRESS, {**more, **said}) if more else plain

        with self._putting():
            self._spool.put_progress(plain, None if all(content.get(name) for name in _PARTS) else merged)

    def put_result(self, skyscan_result: Mapping[str, Any], *, is_final: bool) -> None:
        """Take a skymap; on disk when this returns. Raises MessageRefused, SpoolFull for a partial one, ScannerProblem."""
        plain = protocol.encode(protocol.RESULT, {"skyscan_result": skyscan_result, "is_final": is_final})
        with self._putting():
            self._spool.put(protocol.RESULT, plain, is_final=is_final)
            if is_final:
                self._stops.has_final_result = True

    def report_failure(self, reason: str, log_tail: str) -> None:
        """Take a failure, whatever its texts are; on disk when this returns. The scan's token is blotted out.

        Raises ScannerProblem when the session is closed.
        """
        why = self._sendable(reason).strip()[:_REASON_CHARACTERS] or _NO_REASON
        tail = self._sendable(log_tail)[-_LOG_TAIL_CHARACTERS:]
        while (
            len(plain := protocol.encode(protocol.FAILURE, {"reason": why, "log_tail": tail})) > protocol.MAX_SMALL_WIRE_BYTES
        ):
            tail = tail[len(tail) // 2 + 1 :]
        with self._putting():
            self._spool.put(protocol.FAILURE, plain)

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
        """Wait until nothing waits. False after timeout_s, and when what decides over the scan never will arrive."""
        is_empty = await self._courier.until_empty(timeout_s)
        return is_empty and not any(one.is_final or one.kind == protocol.FAILURE for one in self.left())

    def left(self) -> tuple[UndeliveredMessage, ...]:
        """See ``Spool.left``."""
        return self._spool.left()

    def begin_close(self, timeout_s: float | None) -> Future[None] | None:
        """Deliver what waits, then take nothing more; ``end`` must follow. None: it is closed already.

        The outcome is NotDelivered with what is left after timeout_s. Who calls it while another one closes shares the outcome.
        """
        with self._in_the_door():
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
            await self._courier.until_empty(timeout_s)
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
        """Stop the thread and give the spool back; after ``begin_close``."""
        with self._in_the_door():
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
            bus = Bus(settings.login_url, settings.scan_id, producer, on_stop=self._stops.hear, on_up=self._on_bus_up)
        self._courier = DeliveryWorker(
            self._spool, bus, self._rest,
            scan_id=settings.scan_id, token=settings.token, bus_patience_s=settings.bus_patience_s,
        )  # fmt: skip
        loops = [self._courier.run, self._stops.run, *([bus.run] if bus is not None else [])]
        self._tasks = [asyncio.ensure_future(_restart_on_error(loop)) for loop in loops]

    def _on_bus_up(self) -> None:
        self._courier.wake()
        self._stops.ask_now()

    def forget_after_fork(self) -> None:
        """In a child process: the session is the parent's, with its thread, its loop and its folder.

        The connections are shared with the parent, the selector too. When the child drops its copies of their objects, some would
        say good-bye on a connection, or take it out of the selector, for the parent as well: in the child they are /dev/null.
        """
        self._door = threading.RLock()
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
    def _in_the_door(self) -> Iterator[None]:
        """While the door is held; see ``check_may_wait``."""
        me = threading.get_ident()
        self._inside.append(me)
        try:
            with self._door:
                yield
        finally:
            self._inside.remove(me)

    @contextmanager
    def _putting(self) -> Iterator[None]:
        """While something is taken: it is told as left behind, if it came too late to be delivered."""
        me = threading.get_ident()
        self._inside.append(me)
        try:
            with self._door:
                if self._is_shut:
                    raise ScannerError("the session is closed")
                self._puts += 1
            try:
                yield
            finally:
                with self._door:
                    self._puts -= 1
                # also after one that was not taken: others may have waited for it
                with suppress(RuntimeError):  # the loop has ended meanwhile
                    self._loop.call_soon_threadsafe(self._on_put)
        finally:
            self._inside.remove(me)

    def _on_put(self) -> None:
        self._put_ended.set()
        self._courier.wake()

    async def _shut(self) -> None:
        """Take nothing more; who is just handing something over is waited for."""
        with self._door:
            self._is_shut = True
        deadline = time.monotonic() + _LAST_PUTS_S
        while self._puts and time.monotonic() < deadline:
            self._put_ended.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._put_ended.wait(), 1.0)

    def _sendable(self, text: str) -> str:
        """Without the token, and without what is no UTF-8 or can't be stored."""
        plain = str(text).replace(self._settings.token, "***").replace("\0", "\ufffd")
        return plain.encode("utf-8", "replace").decode()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
