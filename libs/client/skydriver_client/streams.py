"""Server-sent events: the parser, and the place in a scan's history that a stream has reached."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from skydriver_client.errors import ConnectionFailed, SkyDriverError, StatusError, Unauthorized
from skydriver_client.retries import MAX_STREAM_FAILURES, pause_of_stream
from skydriver_client.values import Event

_MAX_EVENT_BYTES = 128 * 1024 * 1024
_ENDED = "stream.ended"
_DELETED = "scan-deleted"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream."""

    event: str
    data: str


class Parser:
    """Messages from pieces of a stream, wherever it was cut. Comments (heartbeats) are passed over."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[Message]:
        """Yield the messages that this piece completes. Raises ConnectionFailed for one without an end."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > _MAX_EVENT_BYTES:
            raise ConnectionFailed(f"an event of the stream is larger than {_MAX_EVENT_BYTES} bytes")
        if b"\n" not in piece:
            return
        *blocks, rest = b"".join(self._pieces).replace(b"\r\n", b"\n").split(b"\n\n")
        self._pieces, self._size = [rest], len(rest)
        for block in blocks:
            name, data = "message", []
            for line in block.decode(errors="replace").split("\n"):
                field, _, value = line.partition(":")
                if field == "event":
                    name = value.removeprefix(" ")
                elif field == "data":
                    data.append(value.removeprefix(" "))
            if data:
                yield Message(name, "\n".join(data))


class Follower:
    """Where a stream of one scan's events has come to, through all connections. version: of the last event given out."""

    def __init__(self, after: int = 0) -> None:
        self.version = after
        self.is_ended = False
        self._failures = 0
        self._parser = Parser()

    def opened(self) -> None:
        """A new connection begins."""
        self._parser = Parser()

    def read(self, piece: bytes) -> Iterator[Event]:
        """Yield the events of a piece of the stream, each version once."""
        self._failures = 0
        for message in self._parser.feed(piece):
            raw = json.loads(message.data)
            if message.event == _ENDED:
                self.is_ended = raw.get("reason") == _DELETED
                continue
            event = Event.from_json(raw)
            if event.version > self.version:
                self.version = event.version
                yield event

    def pause_after(self, error: SkyDriverError | None) -> float:
        """Seconds before the stream is opened again after its end, or an error. Raises the error when that is no use."""
        self._failures += 1
        may_pass = error is None or isinstance(error, ConnectionFailed) or _passes(error)
        if error is not None and (not may_pass or self._failures > MAX_STREAM_FAILURES):
            raise error
        return pause_of_stream(self._failures, error.retry_after_s if isinstance(error, StatusError) else 0.0)


def _passes(error: SkyDriverError) -> bool:
    return isinstance(error, StatusError) and not isinstance(error, Unauthorized) and error.status in (408, 429, 502, 503, 504)
