"""Calls that may block for ever, such as those into a network file system, in threads of their own.

A timeout ends the waiting for a call and not the call: its thread goes on. In the loop's default executor each such call would
take one of the few threads that everybody shares, until nothing runs there any more. Here it keeps a place of its own until it
returns, and whoever comes meanwhile is told at once. The threads are daemons: one that hangs does not hold up the process's end.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from aiohttp.abc import AbstractResolver, ResolveResult

__all__ = ["BlockingCalls", "CallsHang", "IsolatedResolver"]

T = TypeVar("T")

_LOOKUP_LIMIT_S = 5.0
_MAX_LOOKUPS = 4


class CallsHang(TimeoutError):
    """All threads are taken by calls that have not returned; nothing was begun."""


class BlockingCalls:
    """At most ``max_threads`` calls at once, each in a thread of its own. name: of the threads.

    n_running: calls that have not returned, those included that nobody waits for any more.
    """

    def __init__(self, name: str, *, max_threads: int = 1) -> None:
        self._name = name
        self._max_threads = max_threads
        self.n_running = 0

    async def run(self, call: Callable[[], T], *, limit_s: float) -> T:
        """Return what the call returns. Raises what it raises, TimeoutError after the limit, CallsHang when no thread is free."""
        if self.n_running >= self._max_threads:
            raise CallsHang(f"{self.n_running} earlier calls have not returned: {self._name}")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self.n_running += 1

        def settle(result: T | None, error: BaseException | None) -> None:
            self.n_running -= 1
            if answer.done():
                return
            if error is None:
                answer.set_result(result)  # type: ignore[arg-type]
            else:
                answer.set_exception(error)

        def work() -> None:
            result, error = None, None
            try:
                result = call()
            except BaseException as caught:  # noqa: BLE001 - whoever waits gets it
                error = caught
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, result, error)

        try:
            threading.Thread(target=work, name=self._name, daemon=True).start()
        except RuntimeError:
            self.n_running -= 1
            raise
        async with asyncio.timeout(limit_s):
            return await answer


class IsolatedResolver(AbstractResolver):
    """Resolves names of hosts in threads of its own: a name server that does not answer holds up nobody else's look-ups."""

    def __init__(self, *, limit_s: float = _LOOKUP_LIMIT_S, look_up: Callable[..., list[Any]] = socket.getaddrinfo) -> None:
        self._limit_s = limit_s
        self._look_up = look_up
        self._calls = BlockingCalls("name-lookup", max_threads=_MAX_LOOKUPS)

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """The addresses of a host. Raises OSError, TimeoutError included."""
        found = await self._calls.run(
            lambda: self._look_up(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG),
            limit_s=self._limit_s,
        )
        return [
            ResolveResult(
                hostname=host, host=address[0], port=address[1], family=family_, proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for family_, _, protocol, _, address in found
        ]  # fmt: skip

    async def close(self) -> None:
        """Nothing is kept open."""
