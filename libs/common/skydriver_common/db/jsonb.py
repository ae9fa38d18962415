"""Values for jsonb columns. Postgres refuses some texts that JSON allows, so what goes into such a column is encoded here."""

from typing import Any

import orjson

_NOT_STORABLE = dict.fromkeys([0, *range(0xD800, 0xE000)], "\ufffd")
"""NUL and lone surrogates: Postgres stores neither."""


def jsonb_text(value: Any) -> str:
    """Return the value as JSON text that a jsonb column takes, whatever texts it holds.

    NUL and lone surrogates become U+FFFD. NaN and infinities become null. Integers beyond 64 bits become floats.
    """
    try:
        encoded = orjson.dumps(value)
    except TypeError:
        encoded = orjson.dumps(_storable(value))
    if b"\\u0000" in encoded:
        encoded = orjson.dumps(_storable(value))
    return encoded.decode()


def _storable(value: Any) -> Any:
    match value:
        case str():
            return value.translate(_NOT_STORABLE)
        case dict():
            return {_storable(str(key)): _storable(each) for key, each in value.items()}
        case list() | tuple():
            return [_storable(each) for each in value]
        case int() if not -(2**63) <= value < 2**64:
            return float(value) if abs(value) < 2**1000 else None
        case _:
            return value
