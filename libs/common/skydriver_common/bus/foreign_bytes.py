"""What others wrote on the outside of a message, read whatever it is.

The broker passes on properties that our AMQP library can't read (a text that is no UTF-8, a header of an unknown type, a time
before the calendar). The library then ends the whole connection, everything held on it goes back, and the same message comes
again: one sender could stop a consumer for all, and nobody could look at the dead letters. So what can't be read is read as a text
with marks in it, as no headers at all, or as no time; the consumer refuses the message for what it lacks.
"""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pamqp import decode, encode

_Decoder = Callable[[bytes], tuple[int, Any]]
_UNREADABLE = (ValueError, OverflowError, OSError, RecursionError)
_UNWRITABLE = (TypeError, struct.error, *_UNREADABLE)
_NO_TIME = datetime.fromtimestamp(0, UTC)
_LONGEST_NAME = 128


def tolerate() -> None:
    """From now on what comes in is read so, on every connection of this process. Repeating it changes nothing."""
    decode.METHODS["shortstr"] = _short_text
    decode.METHODS["timestamp"] = decode.TABLE_MAPPING[b"T"] = _time
    decode.METHODS["table"] = decode.TABLE_MAPPING[b"F"] = _table


def writable(headers: dict[str, Any], *, most_bytes: int) -> dict[str, Any]:
    """Those of the headers that can be written again, the small ones first, up to so many bytes together."""
    sizes: dict[str, int] = {}
    for name, value in headers.items():
        try:
            if len(name.encode()) <= _LONGEST_NAME:
                sizes[name] = len(encode.field_table({name: value}))
        except _UNWRITABLE:
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
    return length + 1, value[1 : length + 1].decode(errors="replace")


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
