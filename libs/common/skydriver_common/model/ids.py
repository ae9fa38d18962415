"""Identifiers and how they are made; every clock and every random source is an argument or a parameter default."""

import re
import secrets
import time
import uuid
from hashlib import sha256
from typing import NewType

ScanId = NewType("ScanId", str)
WorkflowId = NewType("WorkflowId", str)
Digest = NewType("Digest", str)

NOT_YET_REQUESTED = "not-yet-requested"

_SCAN_ID = re.compile(r"[0-9a-f]{11}x[0-9a-f]{20}")
_COMMAND_NAMESPACE = uuid.UUID("6f0d9a52-52a7-5d0c-9d2c-3c8a2c1d7e11")


def new_scan_id(now: float | None = None) -> ScanId:
    """A fresh scan id: 11 hex digits of Unix milliseconds, ``x``, the last 20 hex digits of a random UUIDv4.

    now: Unix seconds. Source: REST contract, section 6 (string order is order of creation, to the millisecond).
    """
    milliseconds = int((time.time() if now is None else now) * 1000)
    return ScanId(f"{milliseconds:011x}x{uuid.uuid4().hex[-20:]}")


def is_scan_id(text: str) -> bool:
    """Whether the text has the form of a scan id of today (very old ids are 32 hex digits and not meant here)."""
    return _SCAN_ID.fullmatch(text) is not None


def created_at(scan_id: ScanId) -> float:
    """When a scan with an id of today was requested, in Unix seconds; 0.0 for a very old id, which does not say."""
    return int(scan_id[:11], 16) / 1000 if is_scan_id(scan_id) else 0.0


def new_i3_event_id() -> str:
    """Id of a stored i3 event: a UUIDv4 as 32 hex digits. Source: REST contract, section 4.5."""
    return uuid.uuid4().hex


def new_uuid7(now: float | None = None) -> uuid.UUID:
    """A UUIDv7 (RFC 9562): sorts by time of creation, which keeps the unique index of the log append-only."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return uuid.UUID(int=value)


def command_id_for_key(subject: str, route: str, key: str) -> str:
    """The command id that one caller's Idempotency-Key stands for on one route: the same key, the same command."""
    return str(uuid.uuid5(_COMMAND_NAMESPACE, f"{subject}\n{route}\n{key}"))


def storable(text: str, *, most_bytes: int | None = None) -> str:
    """The text as Postgres stores it: without NUL and lone surrogates, which it refuses. most_bytes: of UTF-8, the rest is cut."""
    if text.isascii() and "\0" not in text and (most_bytes is None or len(text) <= most_bytes):
        return text
    encoded = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace")
    return encoded[:most_bytes].decode(errors="ignore")


def digest_of(content: bytes) -> Digest:
    """The content address of a blob: ``sha256:`` and 64 hex digits."""
    return Digest(f"sha256:{sha256(content).hexdigest()}")
