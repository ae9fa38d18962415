"""The messages between a scanner and SkyDriver on the bus, to bytes and back. Pure. Described in ``docs/reference/scanner-protocol.md``.

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
"""Largest body once decompressed, so that a small message cannot fill a consumer's memory."""
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


class MessageRejected(Exception):
    """A message that does not follow the protocol. reason: for people, without a value of the message."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MessageTooLarge(MessageRejected):
    """A message beyond a size limit; its content may still be sent over REST."""


@dataclass(frozen=True)
class PackedMessage:
    """A message ready to be published, persistent, to ``EXCHANGE``. headers hold the token: never log them."""

    routing_key: str
    body: bytes = field(repr=False)
    content_encoding: str
    headers: Mapping[str, Any] = field(repr=False)
    content_type: str = CONTENT_TYPE


class Unwrapped(NamedTuple):
    """A message whose headers are checked. plain: its content, decompressed and not parsed. The token has not been verified."""

    kind: str
    scan_id: str
    producer: str
    sequence: int
    schema_version: str
    plain: bytes
    token: str


@dataclass(frozen=True)
class UnpackedMessage:
    """A message whose headers and content are checked. content: the JSON object. The token has not been verified."""

    kind: str
    scan_id: str
    producer: str
    sequence: int
    schema_version: str
    content: dict[str, Any] = field(repr=False)
    token: str = field(repr=False)


def scan_id_of(text: str) -> str | None:
    """Return the text if it can be a scan id, else None."""
    return text if _NAME.fullmatch(text) else None


def limits(kind: str) -> tuple[int, int]:
    """Return the largest body of this kind, as sent and decompressed, in bytes. What is larger goes over REST."""
    if kind == RESULT:
        return MAX_WIRE_BYTES, MAX_CONTENT_BYTES
    return MAX_SMALL_WIRE_BYTES, MAX_SMALL_CONTENT_BYTES


def routing_key(kind: str, scan_id: str) -> str:
    """``<kind>.<scan_id>``. Raises MessageRejected."""
    if kind not in KINDS:
        raise MessageRejected("unknown message kind")
    if scan_id_of(scan_id) is None:
        raise MessageRejected("invalid scan id")
    return f"{kind}.{scan_id}"


def stop_queue(scan_id: str, name: str) -> str:
    """Return the name of a queue for a scan's stop signal. A scanner may use queues with this prefix and no others."""
    return f"skydriver.stop.{scan_id}.{name}"


def stop_signal(reason: str) -> bytes:
    """Return the body of a stop signal: ``deleted``, or ``deactivated`` when the scan's workflow has ended."""
    return json.dumps({"reason": reason}).encode()


def stop_reason(body: bytes) -> str | None:
    """Return the reason in a stop signal; None when the body is not one."""
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
) -> PackedMessage:
    """Return a message with this content.

    producer: one life of one scanner process. sequence: grows with every message of a producer.
    Raises MessageTooLarge when only REST takes it, else MessageRejected.
    """
    plain = encode(kind, content)
    return pack_encoded(
        kind, scan_id, plain, token=token, producer=producer, sequence=sequence, content_encoding=content_encoding
    )


def encode(kind: str, content: Mapping[str, Any]) -> bytes:
    """Return the body of a message before compression; the same bytes are the body of the REST call.

    NaN and infinity are kept, as bare tokens, inside ``skyscan_result`` and rejected anywhere else (REST contract 1.8).
    Raises MessageRejected.
    """
    check_content(kind, content)
    try:
        if kind != RESULT:
            return _dumps(content, allow_nan=False)
        others = {name: value for name, value in content.items() if name != "skyscan_result"}
        skymap = _dumps(content["skyscan_result"], allow_nan=True)
        return b'{"skyscan_result":' + skymap + b"," + _dumps(others, allow_nan=False)[1:]
    except (TypeError, ValueError, RecursionError) as error:
        raise MessageRejected("the content is not valid JSON") from error


def pack_encoded(
    kind: str,
    scan_id: str,
    plain: bytes,
    *,
    token: str,
    producer: str,
    sequence: int,
    content_encoding: str = NONE,
) -> PackedMessage:
    """Return a message with a body that ``encode`` returned. Raises as ``pack``."""
    headers = {"token": token, "producer": producer, "sequence": sequence, "schema_version": SCHEMA_VERSION}
    _check(headers)
    max_wire, max_content = limits(kind)
    if len(plain) > max_content:
        raise _too_large("content", max_content)
    body = _compress(plain, content_encoding)
    if len(body) > max_wire:
        raise _too_large("body", max_wire)
    return PackedMessage(routing_key(kind, scan_id), body, content_encoding, headers)


def unwrap(key: str, headers: Mapping[str, Any], body: bytes, *, content_encoding: str | None) -> Unwrapped:
    """What is on the outside of a message, and its content as bytes, not parsed. Raises MessageRejected.

    content_encoding: None and ``""`` mean ``none``. Headers are looked at before the body is decompressed.
    """
    kind, _, scan_id = key.partition(".")
    routing_key(kind, scan_id)
    max_wire, max_content = limits(kind)
    if len(body) > max_wire:
        raise _too_large("body", max_wire)
    _check(headers)
    return Unwrapped(
        kind, scan_id, headers["producer"], headers["sequence"], headers["schema_version"],
        _decompress(body, content_encoding or NONE, max_content), headers["token"],
    )  # fmt: skip


def unpack(key: str, headers: Mapping[str, Any], body: bytes, *, content_encoding: str | None) -> UnpackedMessage:
    """What a message says. content_encoding: None and ``""`` mean ``none``. Raises MessageRejected.

    Newer minor versions and fields that are not known are accepted. The ``skyscan_result`` of a result may hold NaN and
    infinity: store it with an encoder that keeps them as bare tokens (``json.dumps``; orjson would write null).
    """
    outside = unwrap(key, headers, body, content_encoding=content_encoding)
    content = _parse(outside.plain, allow_nan=outside.kind == RESULT)
    check_content(outside.kind, content)
    return UnpackedMessage(
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
        raise MessageRejected("header token: required")
    checked_producer(producer)
    checked_sequence(sequence)
    version = headers.get("schema_version")
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise MessageRejected("header schema_version: must be <major>.<minor>")
    if int(match[1]) != _MAJOR:
        raise MessageRejected(f"header schema_version: must be {_MAJOR}.x")


def checked_producer(value: object) -> str:
    """Return the name of a producer. Raises MessageRejected."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise MessageRejected("header producer: must be 1 to 64 letters, digits, - or _")
    return value


def checked_sequence(value: object) -> int:
    """Return the number of a message. Raises MessageRejected."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SEQUENCE:
        raise MessageRejected("header sequence: must be an integer from 0 to 2^63 - 1")
    return value


def parse_sequence(text: str) -> int | None:
    """Parse a number in decimal digits; None when it is not one."""
    return int(text) if _DIGITS.fullmatch(text) else None


def check_content(kind: str, content: Mapping[str, Any]) -> None:
    """Check the content as far as senders are checked. Raises MessageRejected."""
    if kind == RESULT:
        if not isinstance(content.get("skyscan_result"), dict):
            raise MessageRejected("skyscan_result: must be a JSON object")
        if not isinstance(content.get("is_final"), bool):
            raise MessageRejected("is_final: must be true or false")
    elif kind == FAILURE:
        reason = content.get("reason")
        if not isinstance(reason, str) or not reason:
            raise MessageRejected("reason: must be a string")
        if not isinstance(content.get("log_tail", ""), str):
            raise MessageRejected("log_tail: must be a string")


def _dumps(value: Any, *, allow_nan: bool) -> bytes:
    return json.dumps(value, allow_nan=allow_nan, separators=(",", ":"), ensure_ascii=False).encode()


def _parse(plain: bytes, *, allow_nan: bool) -> dict[str, Any]:
    try:
        content = json.loads(plain.decode(), parse_constant=None if allow_nan else _no_constant)
    except (ValueError, RecursionError) as error:
        raise MessageRejected("the body is not valid JSON") from error
    if not isinstance(content, dict):
        raise MessageRejected("the body is not a JSON object")
    return content


def _no_constant(_: str) -> NoReturn:
    raise ValueError("NaN and infinity are not JSON")


def _compress(plain: bytes, encoding: str) -> bytes:
    if encoding == NONE:
        return plain
    if encoding == GZIP:
        compressor = zlib.compressobj(wbits=31)
        return compressor.compress(plain) + compressor.flush()
    if encoding == ZSTD:
        return bytes(_zstandard().ZstdCompressor().compress(plain))
    raise MessageRejected(f"content_encoding: must be one of {', '.join(ENCODINGS)}")


def _decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decompress at most so many bytes; the body must be one complete stream."""
    if encoding == NONE:
        return body
    if encoding not in ENCODINGS:
        raise MessageRejected(f"content_encoding: must be one of {', '.join(ENCODINGS)}")
    if encoding == GZIP:
        stream = zlib.decompressobj(wbits=31)
        try:
            plain = stream.decompress(body, max_bytes + 1)
        except zlib.error as error:
            raise MessageRejected("the body cannot be decompressed") from error
        is_whole = stream.eof and not stream.unused_data
    else:
        zstandard = _zstandard()
        reader = zstandard.ZstdDecompressor(max_window_size=MAX_CONTENT_BYTES).stream_reader(body)
        try:
            plain = bytes(reader.read(max_bytes + 1))
        except zstandard.ZstdError as error:
            raise MessageRejected("the body cannot be decompressed") from error
        is_whole = True  # a truncated stream is no complete JSON
    if len(plain) > max_bytes:
        raise _too_large("content", max_bytes)
    if not is_whole:
        raise MessageRejected("the body cannot be decompressed")
    return plain


def _zstandard() -> Any:
    try:
        return import_module("zstandard")
    except ImportError as error:
        raise MessageRejected("content_encoding: zstd is not available") from error


def _too_large(what: str, limit: int) -> MessageTooLarge:
    return MessageTooLarge(f"the {what} is larger than {limit} bytes: send it over REST")
