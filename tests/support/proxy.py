"""A TCP proxy on loopback before one server, to cut, stall, hold and refuse connections: what networks do to long-lived ones."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

from skydriver_cli.embedded.ports import LOOPBACK

_CHUNK_BYTES = 256 * 1024
_MORSEL_BYTES = 4096
"""Read at once where bytes are counted: so that a cut falls into the middle of a message."""
_RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"
"""SO_LINGER of no time: closing is a reset."""


class Proxy:
    """Listens on a loopback port of its own and passes bytes on to ``target``. Open it before use, close it after."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.port = 0
        self.connections = 0
        """Taken so far."""
        self.refuse = False
        """Let no new connections through."""
        self.cut_after_bytes: int | None = None
        """Cut once, when so many more bytes have come from the clients."""
        self.cut_each_after_bytes: int | None = None
        """Cut every time that a connection has carried so many bytes from its client."""
        self.observer: Callable[[], Callable[[bytes], None]] | None = None
        """Asked for each new connection; what it gives is called with every piece that the client sends."""

    async def open(self) -> None:
        """Listen; the port stays the same when opened again."""
        self._server = await asyncio.start_server(self._on_connection, LOOPBACK, self.port or None)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Refuse new connections and reset those that are there."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def cut(self) -> int:
        """Reset every connection, on both sides; returns how many there were."""
        count = len(self._writers) // 2
        for writer in self._writers:
            # no orderly end: what is on its way is lost, as when a cable is cut and a firewall forgets
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        self._writers.clear()
        return count

    def lead_to(self, target: int) -> None:
        """Take new connections to another server; those that are there stay."""
        self._target = target

    def stall(self) -> None:
        """Keep connections open and take new ones, but let nothing through."""
        self._flows.clear()

    def flow(self) -> None:
        """Let through again."""
        self._flows.set()

    def hold(self) -> None:
        """Let nothing more through on the connections that are there, and tell nobody; new ones work."""
        for pump in self._pumps:
            pump.cancel()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        self.connections += 1
        try:
            there_reader, there_writer = await asyncio.open_connection(LOOPBACK, self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there_writer}
        for pumping in (self._pump(reader, there_writer, counts=True), self._pump(there_reader, writer, counts=False)):
            pump = asyncio.create_task(pumping)
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counts: bool) -> None:
        carried, observe = 0, self.observer() if counts and self.observer is not None else None
        try:
            while chunk := await source.read(_MORSEL_BYTES if counts and self._is_counting else _CHUNK_BYTES):
                await self._flows.wait()
                carried += len(chunk)
                if observe is not None:
                    observe(chunk)
                if counts and self._is_to_be_cut(carried, len(chunk)):
                    self.cut()
                    return
                sink.write(chunk)
                await sink.drain()
        except OSError:
            sink.transport.abort()
        self._writers.discard(sink)
        sink.close()

    @property
    def _is_counting(self) -> bool:
        return self.cut_after_bytes is not None or self.cut_each_after_bytes is not None

    def _is_to_be_cut(self, carried: int, more: int) -> bool:
        if self.cut_each_after_bytes is not None and carried > self.cut_each_after_bytes:
            return True
        if self.cut_after_bytes is None:
            return False
        self.cut_after_bytes -= more
        if self.cut_after_bytes > 0:
            return False
        self.cut_after_bytes = None
        return True


@contextlib.asynccontextmanager
async def proxying(target: int) -> AsyncIterator[Proxy]:
    """An open proxy to this port, until left."""
    proxy = Proxy(target)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()
