"""Canonical bytes: what is hashed is what is stored is what is sent."""

import json
from typing import Any

import orjson


def encode(value: Any) -> bytes:
    """JSON bytes of plain data, keys in the order given, no NaN.

    Falls back to the standard library for integers beyond 64 bits, which orjson refuses.
    Raises ValueError for NaN hidden in such a value, TypeError for what is not JSON.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decode(content: bytes) -> Any:
    """Parse JSON bytes. Raises ValueError when they are not strict JSON."""
    return orjson.loads(content)


def same_json(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal: key order ignored, ``1`` equals ``1.0``, booleans are not numbers.

    Source: REST contract, 4.10 (put once).
    """
    if isinstance(a, bool) or isinstance(b, bool):
        return isinstance(a, bool) and isinstance(b, bool) and a == b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_json(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same_json(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b) if not _both_numbers(a, b) else bool(a == b)


def _both_numbers(a: Any, b: Any) -> bool:
    return isinstance(a, int | float) and isinstance(b, int | float)
