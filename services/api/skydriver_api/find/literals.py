"""Values inside a filter: what Postgres can hold, within the limits of the contract."""

import math

from skydriver_api.find.errors import BadFilter, Place
from skydriver_api.find.nodes import Json

__all__ = ["MAX_DEPTH", "MAX_ELEMENTS", "MAX_KEY", "checked_array", "checked_integer", "checked_literal", "checked_text"]

MAX_DEPTH = 20
MAX_ELEMENTS = 10_000
MAX_KEY = 1_000
_MAX_BITS = 4096  # an integer of 1,233 digits; Python refuses to print those above 4,300


def checked_text(text: str, path: Place | str) -> str:
    """The text itself. Raises BadFilter for what no stored text can hold: NUL, and half of a surrogate pair."""
    if "\0" in text:
        raise BadFilter("strings with U+0000 or an unpaired surrogate are not supported", path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadFilter("strings with U+0000 or an unpaired surrogate are not supported", path) from None
    return text


def checked_array(value: object, operator: str, path: Place | str) -> list[object]:
    """The array an operator takes. Raises BadFilter for anything else, and above 10,000 elements."""
    if not isinstance(value, list):
        raise BadFilter(f"{operator} takes an array", path)
    if len(value) > MAX_ELEMENTS:
        raise BadFilter(f"array has {len(value)} elements; at most {MAX_ELEMENTS} are allowed", path)
    return value


def checked_integer(value: object, what: str, path: Place | str) -> int:
    """A JSON number without fractional part (`3` and `3.0` both count), as int. Raises BadFilter for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadFilter(f"{what} must be an integer", path)
    if value.bit_length() > _MAX_BITS:
        raise BadFilter("number is too large", path)
    return value


def checked_literal(value: object, path: Place | str, depth: int = 0) -> Json:
    """A value to compare with: scalar, null, array or object. Raises BadFilter, also for `$` keys inside an object."""
    match value:
        case None | bool():
            return value
        case int():
            return checked_integer(value, "a number", path)
        case float():
            if not math.isfinite(value):
                raise BadFilter("NaN and Infinity are not supported", path)
            return value
        case str():
            return checked_text(value, path)
    if depth >= MAX_DEPTH:
        raise BadFilter(f"value is nested more than {MAX_DEPTH} levels deep", path)
    if isinstance(value, list):
        elements = checked_array(value, "a value", path)
        return [checked_literal(element, Place(path, i), depth + 1) for i, element in enumerate(elements)]
    if isinstance(value, dict):
        if len(value) > MAX_ELEMENTS:
            raise BadFilter(f"object has {len(value)} keys; at most {MAX_ELEMENTS} are allowed", path)
        for key in value:
            if key.startswith("$"):
                raise BadFilter(
                    f"{key} is not allowed inside a value; use a dotted path to query inside an object", Place(path, key)
                )
            if len(key) > MAX_KEY:
                raise BadFilter(f"key has {len(key)} characters; at most {MAX_KEY} are allowed", path)
        return {checked_text(key, path): checked_literal(item, Place(path, key), depth + 1) for key, item in value.items()}
    raise BadFilter(f"not a JSON value: {type(value).__name__}", path)
