"""Canonical bytes: what is hashed is what is stored is what is sent. And back: parsing events of every version."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from hashlib import sha256
from typing import Any, TypeVar, get_type_hints

import orjson

from skydriver_common.model.events import COMPACTABLE, EVENT_TYPES, CompactedPayload, Event
from skydriver_common.model.ids import ScanId
from skydriver_common.model.stages import StoredText

GENESIS = bytes(32)
"""What stands as ``prev_hash`` before a scan's first event."""

UPCASTS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""(type, schema version) to a pure function giving the data of the next version; empty while all events are version 1.

A field with a default may be added to an event without a new version: a release that does not know it ignores it. Any other change
is a new ``schema_version`` of its class and an entry here for the version before; what was written before stays in
``tests/support/recorded_events.ndjson``."""

COMPACTED_MARK = b"\x00"
"""How the data of an event begins whose payload was compacted; its SHA-256 follows. No JSON begins so."""

T = TypeVar("T")

_ANY_DIGIT = bytes.maketrans(b"123456789", b"000000000")
_MANY_DIGITS = b"0" * 19

_FIELDS: dict[type[Any], tuple[str, ...]] = {}
_ENUM_FIELDS: dict[type[Any], tuple[tuple[str, type[StoredText]], ...]] = {}


def _fields_of(cls: type[Any]) -> tuple[str, ...]:
    names = _FIELDS.get(cls)
    if names is None:
        names = _FIELDS[cls] = tuple(f.name for f in fields(cls))
    return names


def _enum_fields_of(cls: type[Any]) -> tuple[tuple[str, type[StoredText]], ...]:
    """The fields whose stored text becomes a member of an enumeration."""
    found = _ENUM_FIELDS.get(cls)
    if found is None:
        hints = get_type_hints(cls)
        found = _ENUM_FIELDS[cls] = tuple(
            (name, hints[name])
            for name in _fields_of(cls)
            if isinstance(hints[name], type) and issubclass(hints[name], StoredText)
        )
    return found


class UnknownEvent(Exception):
    """The log holds an event that this release cannot read: a newer release wrote it, or somebody altered it."""


def encode_event(event: Event) -> bytes:
    """The event's data as canonical JSON: fields in the order of the class."""
    return encode({name: getattr(event, name) for name in _fields_of(type(event))})


def parse_event(type_: str, schema_version: int, data: bytes) -> Event:
    """The event that stored bytes stand for, upcast to the newest version. Raises UnknownEvent."""
    if is_compacted(data) and type_ in COMPACTABLE:
        return CompactedPayload(of=type_)
    cls = EVENT_TYPES.get(type_)
    if cls is None or schema_version > cls.schema_version:
        raise UnknownEvent(f"{type_} in version {schema_version} was written by a newer release")
    try:
        content: dict[str, Any] = decode(data)
    except ValueError as error:
        what = "payload is missing" if is_compacted(data) else "payload is not valid JSON"
        raise UnknownEvent(f"{type_} cannot be read: {what}") from error
    for version in range(schema_version, cls.schema_version):
        content = UPCASTS[type_, version](content)
    try:
        return read_as(cls, content)
    except TypeError as error:
        raise UnknownEvent(f"{type_} in version {schema_version} lacks a field") from error


def read_as(cls: type[T], content: Mapping[str, Any]) -> T:
    """An object of this dataclass from stored content; keys that it does not know are left out, as a newer release may write more.

    Raises TypeError when a field without a default is missing.
    """
    values = {name: content[name] for name in _fields_of(cls) if name in content}
    for name, enum in _enum_fields_of(cls):
        if name in values:
            values[name] = enum(values[name])
    return cls(**values)


def is_compacted(data: bytes) -> bool:
    """Whether this stands in place of an event's data that was compacted."""
    return data.startswith(COMPACTED_MARK)


def compact_payload(data: bytes) -> bytes:
    """What stays of an event's data when it is compacted."""
    return data if is_compacted(data) else COMPACTED_MARK + sha256(data).digest()


def payload_digest(data: bytes) -> bytes:
    """SHA-256 of an event's data, also when it was compacted: what ``chain_hash`` covers."""
    return data[len(COMPACTED_MARK) :] if is_compacted(data) else sha256(data).digest()


def chain_hash(
    *,
    prev_hash: bytes,
    event_id: str,
    scan_id: ScanId,
    version: int,
    type_: str,
    schema_version: int,
    recorded_at_us: int,
    actor: str,
    command_id: str,
    correlation_id: str,
    data_digest: bytes,
) -> bytes:
    """SHA-256 that ties an event, all its columns included, to the one before it in the same scan.

    recorded_at_us: Unix microseconds. data_digest: SHA-256 of ``data``; hashing that and not the bytes lets a chain be
    verified whose payloads were compacted. Shape of what is hashed: ``prev_hash``, a JSON array of the columns, newline, digest.
    """
    header = orjson.dumps(
        [event_id, scan_id, version, type_, schema_version, recorded_at_us, actor, command_id, correlation_id]
    )
    return sha256(b"".join((prev_hash, header, b"\n", data_digest))).digest()


def encode(value: Any) -> bytes:
    """JSON bytes of plain data, keys in the order given, no NaN.

    Falls back to the standard library for integers beyond 64 bits, which orjson refuses. A space before such bytes tells
    ``decode``: orjson would read them as floats, and a fold would then differ from what it repeats.
    Raises ValueError for NaN hidden in such a value, TypeError for what is not JSON.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return b" " + json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decode(content: bytes) -> Any:
    """Parse JSON bytes. Raises ValueError when they are not strict JSON."""
    if content[:1] == b" ":  # see encode
        return json.loads(content, parse_constant=_no_constant)
    return orjson.loads(content)


def read_json(raw: bytes) -> Any:
    """Parse any JSON document that is stored or was sent: integers of any length keep their digits, as ``encode`` writes them.

    The one reader of documents whose content is not ours. Raises ValueError when they are not strict JSON.
    """
    if may_hold_long_integers(raw):
        return json.loads(raw, parse_constant=_no_constant, parse_float=_finite)
    return orjson.loads(raw)


def may_hold_long_integers(raw: bytes) -> bool:
    """Whether there may be integers beyond 64 bits, of which orjson makes floats: the standard library keeps their digits."""
    return _MANY_DIGITS in raw.translate(_ANY_DIGIT)  # ten times as fast as a regular expression


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large for a double")
    return number


def same_json(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal: key order ignored, ``1`` equals ``1.0``, booleans are not numbers.

    Source: REST contract, 4.10 (put once).
    """
    # Python's own comparison is fast and takes 1 for true as well: what it finds unequal is unequal
    return bool(a == b) and (encode(a) == encode(b) or _same_kinds(a, b))


def _same_kinds(a: Any, b: Any) -> bool:
    """Whether two values that Python finds equal are equal as JSON."""
    if isinstance(a, bool) or isinstance(b, bool):
        return isinstance(a, bool) and isinstance(b, bool) and a == b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same_kinds(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same_kinds(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    return type(a) is type(b) and bool(a == b)
