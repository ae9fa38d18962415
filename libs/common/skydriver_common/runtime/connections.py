"""Bounds on the connections of an HTTP server, so that silent or very many clients never take the process's last descriptor.

A connection above the bounds is accepted, answered 503 and closed: one that is only left in the kernel's queue hangs until its
client gives up, and tells nobody.
"""

import asyncio
import resource
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import structlog
from aiohttp import web

from skydriver_common.runtime.requests import Answer, ClientRequests, ClientServer, OnFault

logger = structlog.get_logger(__name__)

MAX_DESCRIPTORS = 65_536
"""More are not asked for, even where the hard limit is far higher: some libraries step through all of them."""
RESERVED_DESCRIPTORS = 200
"""Kept for the health server, the database, the broker, files, and connections that are being refused."""
_REFUSING_S = 2.0
"""So long a refused client may take to read its answer."""
_MAX_REFUSING = 50
"""Refused clients that are given that time at once; beyond that they are cut off."""
_WARN_EVERY_S = 10.0

_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b"
)

OnRefused = Callable[[str], None]
"""Called with the reason, ``connections`` or ``address``, for metrics."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard one, at most MOST_DESCRIPTORS; return what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # a sandbox may forbid it: the process has to do with what it has
        return soft
    return wanted


def connection_cap(wanted: int, descriptors: int) -> int:
    """Return how many connections may be open: as many as wanted, if the descriptors allow it (at least one)."""
    return max(1, min(wanted, descriptors - RESERVED_DESCRIPTORS))


class ConnectionLimits:
    """The protocol factory of a server with bounds. Give it to ``create_server`` (see ``LimitedRunner``).

    server: makes aiohttp's protocol for each connection that is let in. most: connections at once. most_per_address: of one
    client address, unless ``is_proxy`` says that it stands for many. first_request_s: a connection on which no request has begun
    after so long is closed, and so is one on which a later request's head is not complete so long after its first byte. refusal:
    the body of the 503. n_open: connections that were let in and are open.
    """

    def __init__(
        self, server: Callable[[], asyncio.Protocol], *, most: int, most_per_address: int, first_request_s: float, refusal: bytes,
        on_refused: OnRefused = lambda _: None, is_proxy: Callable[[str], bool] = lambda _: False,
    ) -> None:  # fmt: skip
        self.n_open = 0
        self.most = most
        self.most_per_address = most_per_address
        self.first_request_s = first_request_s
        self.server = server
        self.refusal = _REFUSAL % (len(refusal), refusal)
        self.n_refusing = 0
        self._by_address: Counter[str] = Counter()
        self._on_refused = on_refused
        self._is_proxy = is_proxy
        self._warned_at = float("-inf")
        self._refused_since = 0

    def __call__(self) -> asyncio.Protocol:
        """Make the protocol of one connection."""
        return _Connection(self)

    def enter(self, address: str) -> bool:
        """Count a connection in; False when it has to be refused."""
        reason = ""
        if self.n_open >= self.most:
            reason = "connections"
        elif self._by_address[address] >= self.most_per_address and not self._is_proxy(address):
            reason = "address"
        if reason:
            self._refused(reason, address)
            return False
        self.n_open += 1
        self._by_address[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Count a connection out that was counted in."""
        self.n_open -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def _refused(self, reason: str, address: str) -> None:
        self._on_refused(reason)
        self._refused_since += 1
        now = asyncio.get_running_loop().time()
        if now - self._warned_at >= _WARN_EVERY_S:  # a flood must not become one of the log
            logger.warning(
                "connections.refused", reason=reason, address=address, refused=self._refused_since, open=self.n_open,
                most=self.most, most_per_address=self.most_per_address,
            )  # fmt: skip
            self._warned_at, self._refused_since = now, 0


class _Connection(asyncio.Protocol):
    """Stands before aiohttp's protocol, which does not exist for a connection that is refused."""

    __slots__ = ("_address", "_inner", "_limits", "_timer", "_transport")

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._inner: asyncio.Protocol | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        if self._limits.enter(self._address):
            self._inner = self._limits.server()
            self._inner.connection_made(transport)
            self._wait_for_request(self._limits.first_request_s)
        elif self._limits.n_refusing < _MAX_REFUSING:
            self._limits.n_refusing += 1
            self._wait_for_request(_REFUSING_S)
            self._transport.write(self._limits.refusal)
            if self._transport.can_write_eof():
                self._transport.write_eof()  # what the client still sends is read: closing at once would reset the answer
        else:
            self._transport.write(self._limits.refusal)
            self._transport.close()
            self._transport = None

    def request_begun(self) -> None:
        """Whoever has asked something has the limits of requests from here on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.data_received(data)
            if self._timer is None and isinstance(self._inner, ClientRequests) and self._inner.awaits_request:
                self._wait_for_request(self._limits.first_request_s)  # a part of a head, after earlier requests

    def _wait_for_request(self, seconds: float) -> None:
        assert self._transport is not None
        self._timer = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def eof_received(self) -> bool | None:
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._inner is not None:
            self._limits.leave(self._address)
            self._inner.connection_lost(exc)
        elif self._transport is not None:
            self._limits.n_refusing -= 1


class LimitedRunner(web.AppRunner):
    """aiohttp's runner, behind the limits once they are set, which is between ``setup`` and the start of the site.

    answer: the body of an answer to what is no HTTP. on_fault: called with the kind of a client's fault (``runtime.requests``).
    """

    __slots__ = ("_answer", "limits", "on_fault")

    def __init__(self, app: web.Application, *, answer: Answer = lambda _, __: b"{}", **options: Any) -> None:
        # bodies are unpacked by those who know how large they may become
        super().__init__(app, **{"auto_decompress": False, **options})
        self.limits: ConnectionLimits | None = None
        self.on_fault: OnFault = lambda _: None
        self._answer = answer

    async def _make_server(self) -> web.Server:
        return ClientServer(await super()._make_server(), answer=self._answer, on_fault=lambda kind: self.on_fault(kind))

    @property
    def server(self) -> Any:
        """What makes the protocols of new connections."""
        return self.limits or super().server


def note_request(request: web.Request) -> None:
    """Tell the request's connection that a request has begun. To be called first for each request."""
    protocol = None if request.transport is None else request.transport.get_protocol()
    if isinstance(protocol, _Connection):
        protocol.request_begun()
