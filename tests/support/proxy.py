"""A TCP proxy between the services and one server, to cut, stall and refuse connections."""

import asyncio
import contextlib
import socket

from skydriver_cli.embedded.ports import LOOPBACK

_CHUNK_BYTES = 256 * 1024


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
        for writer in list(self._writers):
            # no orderly end: what is on its way is lost, as when a cable is cut and a firewall forgets
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
                )
            writer.transport.abort()
        return count

    def stall(self) -> None:
        """Keep connections open and take new ones, but let nothing through."""
        self._flows.clear()

    def flow(self) -> None:
        """Let through again."""
        self._flows.set()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(LOOPBACK, self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there_writer}
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while chunk := await source.read(_CHUNK_BYTES):
                await self._flows.wait()
                sink.write(chunk)
                await sink.drain()
        except OSError:
            sink.transport.abort()
        finally:
            self._writers.discard(sink)
            sink.close()
