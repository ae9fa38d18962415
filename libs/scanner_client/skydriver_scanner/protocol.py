"""The messages between a scanner and SkyDriver on the bus, to bytes and back: pure. Described in ``docs/reference/scanner-protocol.md``.

Runs on Python 3.9 and needs the standard library alone; ``zstandard`` only for messages that are compressed with it.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

EXCHANGE = "skydriver.scanner"
STOP_EXCHANGE = "skydriver.stop"
"""Topic exchange; the routing key is the scan id, the body ``{"reason": "deleted" or "deactivated"}``."""
DELETED, DEACTIVATED = "deleted", "deactivated"
SCHEMA_VERSION = "1.0"
CONTENT_TYPE = "application/json"
PROGRESS, RESULT, FAILURE = "progress", "result", "failure"
KINDS = (PROGRESS, RESULT, FAILURE)
NONE, GZIP, ZSTD = "none", "gzip", "zstd"
ENCODINGS = (NONE, GZIP, ZSTD)

MAX_WIRE_BYTES = 8 * 1024 * 1024
"""Largest body on the bus, as sent. What is larger goes over REST."""
MAX_CONTENT_BYTES = 32 * 1024 * 1024
"""Largest body once decompressed, so that a small message can't fill a consumer's memory."""
MAX_SMALL_WIRE_BYTES = 128 * 1024
MAX_SMALL_CONTENT_BYTES = 1024 * 1024
"""The same for progress and failure, of which a consumer holds many; real ones have some kB."""
MAX_SEQUENCE = 2**63 - 1
PRODUCER_HEADER, SEQUENCE_HEADER = "X-Scanner-Producer", "X-Scanner-Sequence"
"""The same two over REST, as HTTP headers: so that a report over the bus which comes later does not replace a newer one."""

_MAJOR = 1
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)
_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})", re.ASCII)


class MessageRefused(Exception):
    """A message that is not as the protocol says. reason: for people, without a value of the message."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MessageTooLarge(MessageRefused):
    """A message beyond a size limit; its content may still be sent over REST."""


@dataclass(frozen=True)
class Packed:
    """A message ready to be published, persistent, to ``EXCHANGE``. headers hold the token: never log them."""

    routing_key: str
    body: bytes = field(repr=False)
    content_encoding: str
    headers: Mapping[str, Any] = field(repr=False)
    content_type: str = CONTENT_TYPE


class Unwrapped(NamedTuple):
    """The outside of a message. plain: its content, decompressed and not parsed. The token has not been verified."""

    kind: str
    scan_id: str
    producer: str
    sequence: int
    schema_version: str
    plain: bytes
    token: str


@dataclass(frozen=True)
class Received:
    """A message as it was meant. content: the JSON object. The token has not been verified."""

    kind: str
    scan_id: str
    producer: str
    sequence: int
    schema_version: str
    content: dict[str, Any] = field(repr=False)
    token: str = field(repr=False)


def scan_id_of(text: str) -> str | None:
    """The text when it can be a scan id, else None."""
    return text if _NAME.fullmatch(text) else None


def limits(kind: str) -> tuple[int, int]:
    """Largest body of a kind of message, as sent and once decompressed, in bytes. What is larger goes over REST."""
    if kind == RESULT:
        return MAX_WIRE_BYTES, MAX_CONTENT_BYTES
    return MAX_SMALL_WIRE_BYTES, MAX_SMALL_CONTENT_BYTES


def routing_key(kind: str, scan_id: str) -> str:
    """``<kind>.<scan_id>``. Raises MessageRefused."""
    if kind not in KINDS:
        raise MessageRefused("the kind of the message is not known")
    if scan_id_of(scan_id) is None:
        raise MessageRefused("the scan id is none")
    return f"{kind}.{scan_id}"


def stop_queue(scan_id: str, name: str) -> str:
    """A queue in which a scanner hears of its scan's end. A scanner may use queues with this beginning and no other."""
    return f"skydriver.stop.{scan_id}.{name}"


def stop_signal(reason: str) -> bytes:
    """The body of a stop signal: ``deleted``, or ``deactivated`` when the scan's workflow has ended."""
    return json.dumps({"reason": reason}).encode()


def stop_reason(body: bytes) -> str | None:
    """The reason in a stop signal, None when it is none of ours."""
    try:
        content = json.loads(body)
    except ValueError:
        return None
    reason = content.get("reason") if isinstance(content, dict) else None
    return reason if isinstance(reason, str) and reason else None


def pack(
    kind: str,
    scan_id: str,
    content: Mapping[str, Any],
    *,
    token: str,
    producer: str,
    sequence: int,
    content_encoding: str = NONE,
) -> Packed:
    """A message from its content.

    producer: one life of one scanner process. sequence: grows with every message of a producer.
    Raises MessageTooLarge when only REST takes it, else MessageRefused.
    """
    plain = encode(kind, content)
    return pack_encoded(
        kind, scan_id, plain, token=token, producer=producer, sequence=sequence, content_encoding=content_encoding
    )


def encode(kind: str, content: Mapping[str, Any]) -> bytes:
    """The body of a message before it is compressed; the same bytes are the body of the REST call.

    NaN and infinity are kept, as bare tokens, inside ``skyscan_result`` and refused anywhere else (REST contract 1.8).
    Raises MessageRefused.
    """
    check_content(kind, content)
    try:
        if kind != RESULT:
            return _dumps(content, allow_nan=False)
        others = {name: value for name, value in content.items() if name != "skyscan_result"}
        skymap = _dumps(content["skyscan_result"], allow_nan=True)
        return b'{"skyscan_result":' + skymap + b"," + _dumps(others, allow_nan=False)[1:]
    except (TypeError, ValueError, RecursionError) as error:
        raise MessageRefused("the content is no JSON") from error


def pack_encoded(
    kind: str,
    scan_id: str,
    plain: bytes,
    *,
    token: str,
    producer: str,
    sequence: int,
    content_encoding: str = NONE,
) -> Packed:
    """A message from what ``encode`` gave. Raises as ``pack``."""
    headers = {"token": token, "producer": producer, "sequence": sequence, "schema_version": SCHEMA_VERSION}
    _check(headers)
    most_wire, most_content = limits(kind)
    if len(plain) > most_content:
        raise _too_large("content", most_content)
    body = _compress(plain, content_encoding)
    if len(body) > most_wire:
        raise _too_large("body", most_wire)
    return Packed(routing_key(kind, scan_id), body, content_encoding, headers)


def unwrap(key: str, headers: Mapping[str, Any], body: bytes, *, content_encoding: str | None) -> Unwrapped:
    """What is on the outside of a message, and its content as bytes, not parsed. Raises MessageRefused.

    content_encoding: None and ``""`` mean ``none``. Headers are looked at before the body is decompressed.
    """
    kind, _, scan_id = key.partition(".")
    routing_key(kind, scan_id)
    most_wire, most_content = limits(kind)
    if len(body) > most_wire:
        raise _too_large("body", most_wire)
    _check(headers)
    return Unwrapped(
        kind, scan_id, headers["producer"], headers["sequence"], headers["schema_version"],
        _decompress(body, content_encoding or NONE, most_content), headers["token"],
    )  # fmt: skip


def unpack(key: str, headers: Mapping[str, Any], body: bytes, *, content_encoding: str | None) -> Received:
    """What a message says. content_encoding: None and ``""`` mean ``none``. Raises MessageRefused.

    Newer minor versions and fields that are not known are accepted. The ``skyscan_result`` of a result may hold NaN and
    infinity: store it with an encoder that keeps them as bare tokens (``json.dumps``; orjson would write null).
    """
    outside = unwrap(key, headers, body, content_encoding=content_encoding)
    content = _parse(outside.plain, allow_nan=outside.kind == RESULT)
    check_content(outside.kind, content)
    return Received(
        kind=outside.kind,
        scan_id=outside.scan_id,
        producer=outside.producer,
        sequence=outside.sequence,
        schema_version=outside.schema_version,
        content=content,
        token=outside.token,
    )


def _check(headers: Mapping[str, Any]) -> None:
    token, producer, sequence = headers.get("token"), headers.get("producer"), headers.get("sequence")
    if not isinstance(token, str) or not token:
        raise MessageRefused("header token: is missing")
    checked_producer(producer)
    checked_sequence(sequence)
    version = headers.get("schema_version")
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise MessageRefused("header schema_version: must be <major>.<minor>")
    if int(match[1]) != _MAJOR:
        raise MessageRefused(f"header schema_version: only {_MAJOR}.x is understood")


def checked_producer(value: object) -> str:
    """The name of a producer. Raises MessageRefused."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise MessageRefused("header producer: must be 1 to 64 letters, digits, - or _")
    return value


def checked_sequence(value: object) -> int:
    """The number of a message. Raises MessageRefused."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SEQUENCE:
        raise MessageRefused("header sequence: must be a whole number from 0 to 2^63 - 1")
    return value


def parse_sequence(text: str) -> int | None:
    """A number written in decimal digits, None when it is none."""
    return int(text) if _DIGITS.fullmatch(text) else None


def check_content(kind: str, content: Mapping[str, Any]) -> None:
    """Whether the content is what its kind wants, as far as senders are checked. Raises MessageRefused."""
    if kind == RESULT:
        if not isinstance(content.get("skyscan_result"), dict):
            raise MessageRefused("skyscan_result: must be an object")
        if not isinstance(content.get("is_final"), bool):
            raise MessageRefused("is_final: must be true or false")
    elif kind == FAILURE:
        reason = content.get("reason")
        if not isinstance(reason, str) or not reason:
            raise MessageRefused("reason: must be a text")
        if not isinstance(content.get("log_tail", ""), str):
            raise MessageRefused("log_tail: must be a text")


def _dumps(value: Any, *, allow_nan: bool) -> bytes:
    return json.dumps(value, allow_nan=allow_nan, separators=(",", ":"), ensure_ascii=False).encode()


def _parse(plain: bytes, *, allow_nan: bool) -> dict[str, Any]:
    try:
        content = json.loads(plain.decode(), parse_constant=None if allow_nan else _no_constant)
    except (ValueError, RecursionError) as error:
        raise MessageRefused("the body is no JSON") from error
    if not isinstance(content, dict):
        raise MessageRefused("the body is no JSON object")
    return content


def _no_constant(_: str) -> NoReturn:
    raise ValueError("NaN and infinity are no JSON")


def _compress(plain: bytes, encoding: str) -> bytes:
    if encoding == NONE:
        return plain
    if encoding == GZIP:
        compressor = zlib.compressobj(wbits=31)
        return compressor.compress(plain) + compressor.flush()
    if encoding == ZSTD:
        return bytes(_zstandard().ZstdCompressor().compress(plain))
    raise MessageRefused(f"content_encoding: must be one of {', '.join(ENCODINGS)}")


def _decompress(body: bytes, encoding: str, most: int) -> bytes:
    """At most so many bytes, one whole stream and nothing after it."""
    if encoding == NONE:
        return body
    if encoding not in ENCODINGS:
        raise MessageRefused(f"content_encoding: must be one of {', '.join(ENCODINGS)}")
    if encoding == GZIP:
        stream = zlib.decompressobj(wbits=31)
        try:
            plain = stream.decompress(body, most + 1)
        except zlib.error as error:
            raise MessageRefused("the body can't be decompressed") from error
        is_whole = stream.eof and not stream.unused_data
    else:
        zstandard = _zstandard()
        reader = zstandard.ZstdDecompressor(max_window_size=MAX_CONTENT_BYTES).stream_reader(body)
        try:
            plain = bytes(reader.read(most + 1))
        except zstandard.ZstdError as error:
            raise MessageRefused("the body can't be decompressed") from error
        is_whole = True  # a stream that was cut is no whole JSON
    if len(plain) > most:
        raise _too_large("content", most)
    if not is_whole:
        raise MessageRefused("the body can't be decompressed")
    return plain


def _zstandard() -> Any:
    try:
        return import_module("zstandard")
    except ImportError as error:
        raise MessageRefused("content_encoding: zstd is not installed here") from error


def _too_large(what: str, limit: int) -> MessageTooLarge:
    return MessageTooLarge(f"the {what} is larger than {limit} bytes: send it over REST")
