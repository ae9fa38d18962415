"""What others wrote on the outside of a message, read whatever it is.

The broker passes on properties that our AMQP library can't read (a text that is no UTF-8, a header of an unknown type, a time
before the calendar). The library then ends the whole connection, everything held on it goes back, and the same message comes
again: one sender could stop a consumer for all, and nobody could look at the dead letters. So what can't be read is read as a text
with marks in it, as no headers at all, or as no time; the consumer refuses the message for what it lacks.

And what was read can be written again, by whoever publishes it anew (dead letters) or what came of it (the relay): a text with
marks in it is three times as long as its bytes were, so it is cut to what a property may hold.
"""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import aio_pika
from pamqp import commands, decode, encode

_Decoder = Callable[[bytes], tuple[int, Any]]
_UNREADABLE = (ValueError, OverflowError, OSError, RecursionError)
UNWRITABLE = (TypeError, struct.error, ValueError, OverflowError, RecursionError)
"""What the library raises for a message that it can't write; nothing of it was sent then."""
_MAX_HEADER_BYTES = 64 * 1024
"""All of a message's properties must fit into one frame."""
_NO_TIME = datetime.fromtimestamp(0, UTC)
_MAX_NAME_LENGTH = 128
MAX_SHORT_TEXT_BYTES = 255
"""Of UTF-8, in a property of a message and in a routing key."""

_read_properties = commands.Basic.Properties.unmarshal


def install() -> None:
    """From now on what comes in is read so, on every connection of this process. Repeating it changes nothing."""
    decode.METHODS["shortstr"] = _short_text
    decode.METHODS["timestamp"] = decode.TABLE_MAPPING[b"T"] = _time
    decode.METHODS["table"] = decode.TABLE_MAPPING[b"F"] = _table
    commands.Basic.Properties.unmarshal = _properties  # type: ignore[method-assign,assignment]


def short_text(text: str) -> str:
    """The text, cut to what a property may hold."""
    if len(text) * 4 <= MAX_SHORT_TEXT_BYTES:
        return text
    return text.encode(errors="replace")[:MAX_SHORT_TEXT_BYTES].decode(errors="ignore")


def without_unwritable(message: aio_pika.Message) -> list[str]:
    """Take off the message what can't be written, so that it can be published whatever stands in it; the names of that.

    It writes the message to see, so where many are published call it only for one that raised UNWRITABLE.
    """
    properties = message.properties
    try:
        properties.marshal()
    except UNWRITABLE:
        pass
    else:
        return []
    taken = []
    for name in ("message_id", "correlation_id", "type", "content_type", "content_encoding", "reply_to", "timestamp", "app_id"):
        attribute = "message_type" if name == "type" else name
        try:
            commands.Basic.Properties(**{attribute: getattr(properties, attribute)}).marshal()
        except UNWRITABLE:
            setattr(message, name, None)
            taken.append(name)
    kept = writable_headers(message.headers, most_bytes=_MAX_HEADER_BYTES)
    taken += [f"headers.{name}"[:_MAX_NAME_LENGTH] for name in message.headers if name not in kept]
    message.headers = kept
    return taken


def writable_headers(headers: dict[str, Any], *, most_bytes: int) -> dict[str, Any]:
    """Those of the headers that can be written again, the small ones first, up to so many bytes together."""
    sizes: dict[str, int] = {}
    for name, value in headers.items():
        try:
            if len(name.encode()) <= _MAX_NAME_LENGTH:
                sizes[name] = len(encode.field_table({name: value}))
        except UNWRITABLE:
            continue
    kept, size = set(), 0
    for name in sorted(sizes, key=sizes.__getitem__):
        size += sizes[name]
        if size > most_bytes:
            break
        kept.add(name)
    return {name: value for name, value in headers.items() if name in kept}


def _short_text(value: bytes) -> tuple[int, str]:
    length = value[0]
    return length + 1, short_text(value[1 : length + 1].decode(errors="replace"))


def _properties(self: commands.Basic.Properties, flags: int, data: bytes) -> None:
    """Leave out what the library makes no message of: a delivery mode that there is not, an expiration that is no number."""
    _read_properties(self, flags, data)
    if self.delivery_mode not in (1, 2):
        self.delivery_mode = None
    if self.expiration is not None and not (self.expiration.isascii() and self.expiration.isdigit()):
        self.expiration = None


def _time(value: bytes) -> tuple[int, datetime]:
    try:
        return decode.timestamp(value)
    except _UNREADABLE:
        return 8, _NO_TIME


def _table(value: bytes) -> tuple[int, dict[str, Any]]:
    try:
        return decode.field_table(value)
    except _UNREADABLE:
        return 4 + int.from_bytes(value[:4], "big"), {}
