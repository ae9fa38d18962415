"""AMQP 0-9-1 by hand: publishes messages whose properties are any bytes, which no client library writes."""

import asyncio
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import unquote, urlsplit

from hypothesis import strategies as st
from pamqp import commands, frame

_FLAGS = {
    "content_type": 15, "content_encoding": 14, "headers": 13, "delivery_mode": 12, "priority": 11, "correlation_id": 10,
    "reply_to": 9, "expiration": 8, "message_id": 7, "timestamp": 6, "type": 5, "user_id": 4, "app_id": 3, "cluster_id": 2,
}  # fmt: skip
"""Properties in their order on the wire, with their bits."""
SHORT_TEXTS = (
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "type",
    "app_id",
    "cluster_id",
)
_MOST_BODY = 131_072 - 8


def short(text: bytes) -> bytes:
    """A short string."""
    return bytes([len(text)]) + text


def table(content: bytes) -> bytes:
    """A field table."""
    return struct.pack(">I", len(content)) + content


def entry(name: str | bytes, value: object) -> bytes:
    """One entry of a field table: a whole number, or a long string."""
    if isinstance(value, int):
        return short(name if isinstance(name, bytes) else name.encode()) + struct.pack(">cq", b"l", value)
    raw = str(value).encode()
    return short(name if isinstance(name, bytes) else name.encode()) + b"S" + struct.pack(">I", len(raw)) + raw


@dataclass(frozen=True, slots=True)
class Outside:
    """What stands around a body: properties as they go over the wire. headers: entries beside the sender's own."""

    properties: Mapping[str, bytes]
    headers: bytes = b""

    def with_headers(self, entries: bytes) -> dict[str, bytes]:
        """The properties, with these headers too."""
        return {**self.properties, "headers": table(entries + self.headers)}


ANY_SHORT = st.one_of(
    st.binary(max_size=255),
    st.sampled_from(
        [b"", b"\0", b"\xff" * 255, b"\0" * 255, b"a" * 255, "é".encode() * 127, "\U0001f600".encode() * 63, b"\xc3" * 200]
    ),
)
_SIMPLE = st.one_of(
    st.binary(max_size=400).map(lambda raw: b"S" + struct.pack(">I", len(raw)) + raw),
    st.binary(max_size=40).map(lambda raw: b"x" + struct.pack(">I", len(raw)) + raw),
    st.tuples(st.sampled_from([b"b", b"B"]), st.binary(min_size=1, max_size=1)).map(b"".join),
    st.tuples(st.sampled_from([b"s", b"u"]), st.binary(min_size=2, max_size=2)).map(b"".join),
    st.tuples(st.sampled_from([b"I", b"i", b"f"]), st.binary(min_size=4, max_size=4)).map(b"".join),
    st.tuples(st.sampled_from([b"l", b"d", b"T"]), st.binary(min_size=8, max_size=8)).map(b"".join),
    st.binary(min_size=5, max_size=5).map(lambda raw: b"D" + raw),
    st.sampled_from([b"V", b"t\0", b"t\1", b"t\7"]),
)


def _tables(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(st.tuples(ANY_SHORT.map(short), values).map(b"".join), max_size=4).map(b"".join)


_VALUES = st.recursive(
    _SIMPLE,
    lambda inner: st.one_of(
        _tables(inner).map(lambda raw: b"F" + table(raw)),
        st.lists(inner, max_size=4).map(lambda many: b"A" + table(b"".join(many))),
    ),
    max_leaves=8,
)
OUTSIDES = st.builds(
    Outside,
    st.fixed_dictionaries(
        {},
        optional={
            **{name: ANY_SHORT.map(short) for name in SHORT_TEXTS},
            **{name: st.binary(min_size=1, max_size=1) for name in ("delivery_mode", "priority")},
            "timestamp": st.binary(min_size=8, max_size=8),
        },
    ),
    _tables(_VALUES),
)
"""Any properties, any headers. What the broker does not let through is among them."""


@dataclass
class RawSender:
    """A connection that publishes on one channel, with confirmations; it comes back when the broker ends it."""

    url: str
    _reader: asyncio.StreamReader | None = field(default=None, init=False)
    _writer: asyncio.StreamWriter | None = field(default=None, init=False)

    async def __aenter__(self) -> "RawSender":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()

    async def publish(self, exchange: str, routing_key: bytes, properties: Mapping[str, bytes], body: bytes) -> bool:
        """True: the broker has taken it. False: it ended the channel or the connection for it."""
        if self._writer is None:
            await self._open()
        assert self._writer is not None
        flags, values = 0, b""
        for name, bit in _FLAGS.items():
            if name in properties:
                flags |= 1 << bit
                values += properties[name]
        method = struct.pack(">HHH", 60, 40, 0) + short(exchange.encode()) + short(routing_key) + b"\0"
        header = struct.pack(">HHQH", 60, 0, len(body), flags) + values
        frames = _frame(1, method) + _frame(2, header)
        for start in range(0, len(body), _MOST_BODY):
            frames += _frame(3, body[start : start + _MOST_BODY])
        self._writer.write(frames)
        try:
            async with asyncio.timeout(120):
                answer = await self._answer()
        except (OSError, EOFError):
            answer = None
        if isinstance(answer, commands.Basic.Ack):
            return True
        self._drop()
        return False

    async def _open(self) -> None:
        url = urlsplit(self.url)
        self._reader, self._writer = await asyncio.open_connection(url.hostname, url.port)
        self._writer.write(b"AMQP\x00\x00\x09\x01")
        await self._answer()
        login = f"\0{unquote(url.username or '')}\0{unquote(url.password or '')}"
        self._send(commands.Connection.StartOk({}, "PLAIN", login, "en_US"), 0)
        await self._answer()
        self._send(commands.Connection.TuneOk(8, 131_072, 0), 0)
        self._send(commands.Connection.Open(unquote(url.path[1:]) or "/"), 0)
        await self._answer()
        self._send(commands.Channel.Open(), 1)
        await self._answer()
        self._send(commands.Confirm.Select(), 1)
        await self._answer()

    def _send(self, method: object, channel: int) -> None:
        assert self._writer is not None
        self._writer.write(frame.marshal(method, channel))  # type: ignore[arg-type]

    async def _answer(self) -> object:
        """The next method the broker sends."""
        assert self._reader is not None
        while True:
            head = await self._reader.readexactly(7)
            kind, _, size = struct.unpack(">BHI", head)
            whole = head + await self._reader.readexactly(size + 1)
            if kind == 1:
                return frame.unmarshal(whole)[2]

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, 1, len(payload)) + payload + b"\xce"
