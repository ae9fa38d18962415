"""A TCP proxy on loopback that can be cut, held and taken away: what networks do to long-lived connections."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class TcpProxy:
    """Passes bytes to a port of this machine. ``cut``: drop all connections now; ``refuse``: let no new ones through."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.refuse = False
        self.connections = 0
        self.port = 0
        self.cut_after_bytes: int | None = None
        """Cut once, when so many more bytes have come from the clients."""
        self.cut_each_after_bytes: int | None = None
        """Cut every connection that has carried so many bytes from its client."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        self.connections += 1
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        for pump in (self._pump(reader, back, counts=True), self._pump(there, writer, counts=False)):
            task = asyncio.ensure_future(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while chunk := await reader.read(4096):
                carried += len(chunk)
                if counts and self.cut_each_after_bytes is not None and carried > self.cut_each_after_bytes:
                    self.cut()
                    return
                if counts and self.cut_after_bytes is not None:
                    self.cut_after_bytes -= len(chunk)
                    if self.cut_after_bytes <= 0:
                        self.cut_after_bytes = None
                        self.cut()
                        return
                writer.write(chunk)
                await writer.drain()
        self._writers.discard(writer)
        writer.close()

    def hold(self) -> None:
        """Let nothing more through on the connections that are there, and tell nobody."""
        for task in self._tasks:
            task.cancel()

    def cut(self) -> None:
        """Reset every connection: what is under way is lost."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


@contextlib.asynccontextmanager
async def proxying(target: int) -> AsyncIterator[TcpProxy]:
    """A proxy to this port, until left."""
    proxy = TcpProxy(target)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        for task in list(proxy._tasks):
            task.cancel()
        await asyncio.gather(*proxy._tasks, return_exceptions=True)
