"""Checked types of request fields, strict about JSON types. Source: REST contract 1.1, 4.5."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, WithJsonSchema

from skydriver_api.payloads.sizes import MAX_BYTES, InvalidSize, parse_size
from skydriver_common.model import scanner_variables
from skydriver_common.model.steering_variables import STEERING_REGEX, why_steering
from skydriver_common.payloads.field_errors import expected, expected_within
from skydriver_common.payloads.reports import INTEGER_SCHEMA, LARGEST_INTEGER, Boolean, JsonObject, Text, integer, number

__all__ = ["Boolean", "JsonObject", "Text"]  # the shared ones, under the one name that models know

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_RESERVED_CLASSIFIERS = frozenset({"rescan", "origin_scan_id"})
_EVENT_KINDS = ("real", "real_event", "sim", "simulated", "simulated_event")
_MAX_ENTRIES = 25
_MAX_NSIDES = 100
_MAX_PAIRS = 1000
_MAX_WORD_CHARS = 1000
_MAX_NAME_CHARS = 250
"""Of ids and places, which are indexed. Clients stay far below all of these; beyond, a message could be too large for the broker."""
_MAX_ADDRESS_CHARS = 2000


def priority(value: Any) -> int:
    """An integer of 64 bits."""
    if isinstance(value, int) and not isinstance(value, bool) and value == -LARGEST_INTEGER - 1:
        return value
    try:
        return integer(value)
    except ValueError:
        raise expected(f"must be an integer from {-LARGEST_INTEGER - 1} to {LARGEST_INTEGER}") from None


def positive(value: Any) -> int:
    """An integer of 1 or more."""
    number = integer(value)
    if number < 1:
        raise expected("must be an integer of 1 or more")
    return number


def workers(value: Any) -> int:
    """An integer of 1 or more; above 64 bits the largest of 64, so that the error names the limit of workers and not the width."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= LARGEST_INTEGER:
        return LARGEST_INTEGER
    return positive(value)


def seconds(value: Any) -> int:
    """Seconds, from 1 to what 32 bits hold (68 years)."""
    number = positive(value)
    if number >= 2**31:
        raise expected(f"must be an integer from 1 to {2**31 - 1}")
    return number


def non_blank(value: Any) -> str:
    """A string with at least one character that is not whitespace."""
    if not isinstance(value, str) or not value.strip():
        raise expected("must be a non-blank string")
    return value


def name(value: Any) -> str:
    """A non-blank string of moderate length."""
    return _at_most(_MAX_NAME_CHARS, non_blank(value))


def address(value: Any) -> str:
    """A non-blank string as long as a URL may be."""
    return _at_most(_MAX_ADDRESS_CHARS, non_blank(value))


def _at_most(characters: int, value: str) -> str:
    if len(value) > characters:
        raise expected(f"must have at most {characters} characters")
    return value


def one_word(value: Any) -> str:
    """A non-blank string without whitespace: it becomes one command-line word."""
    if len(non_blank(value).split()) != 1 or value != value.strip():
        raise expected("must not contain whitespace")
    return _at_most(_MAX_WORD_CHARS, str(value))


def reco_algo(value: Any) -> str:
    """One word that a command line does not take for an option."""
    word = one_word(value)
    if word.startswith("-"):
        raise expected("must not start with '-'")
    return word


def docker_tag(value: Any) -> str:
    """The syntax of an image tag (contract 8.2)."""
    if _TAG.fullmatch(non_blank(value)) is None:
        raise expected("must be an image tag: letters, digits, '.', '_', '-', at most 128 characters")
    return str(value)


def size_bytes(default: int) -> BeforeValidator:
    """Bytes from an integer or a string; 0 stands for the default."""

    def parse(value: Any) -> int:
        if isinstance(value, str):
            try:
                return parse_size(value)
            except InvalidSize as error:
                raise expected(str(error)) from None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise expected('must be a size such as "8GB" or a number of bytes')
        return min(integer(value), MAX_BYTES) or default

    return BeforeValidator(parse)


def event_kind(value: Any) -> str:
    """Whether the event is real or simulated."""
    if value not in _EVENT_KINDS:
        raise expected(f"must be one of {', '.join(_EVENT_KINDS)}")
    return str(value)


def threshold(value: Any) -> int | float:
    """The predictive scanning threshold of a request."""
    if not 0.1 < number(value) <= 1.0:
        raise expected("must be greater than 0.1 and at most 1.0")
    return number(value)


def nsides(value: Any) -> dict[str, int]:
    """nside to pixel extension, in the order posted."""
    problems: list[tuple[tuple[str | int, ...], str]] = []
    if not isinstance(value, dict) or not value:
        raise expected('must be a non-empty JSON object, such as {"8": 0, "64": 12}')
    if len(value) > _MAX_NSIDES:
        raise expected(f"must have at most {_MAX_NSIDES} entries")
    extensions: dict[str, int] = {}
    for nside, extension in value.items():
        if not (nside.isascii() and nside.isdigit()) or int(nside[:30]) < 1 or len(nside) > 18:
            problems.append(((nside,), "the nside must be a positive integer"))
            continue
        try:
            extensions[nside] = integer(extension)
        except ValueError:
            extensions[nside] = -1
        if extensions[nside] < 0:
            problems.append(((nside,), "the pixel extension must be an integer of 0 or more"))
    if problems:
        raise expected_within(problems)
    return extensions


def clusters(value: Any) -> list[tuple[str, int]]:
    """Pairs of cluster name and number of workers, from an object or a list of pairs."""
    if not isinstance(value, dict | list) or not value:
        raise expected('must be a non-empty {"cluster": workers, ...} or [["cluster", workers], ...]')
    if len(value) > _MAX_PAIRS:
        raise expected(f"must have at most {_MAX_PAIRS} entries")
    problems: list[tuple[tuple[str | int, ...], str]] = []
    pairs: list[tuple[str, int]] = []
    for place, entry in value.items() if isinstance(value, dict) else enumerate(value):
        pair = [place, entry] if isinstance(value, dict) else entry
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str) or not pair[0].strip():
            problems.append(((place,), "must be a pair of a cluster name and a number of workers"))
            continue
        try:
            pairs.append((pair[0], workers(pair[1])))
        except ValueError:
            problems.append(((place,), "the number of workers must be an integer of 1 or more"))
    if problems:
        raise expected_within(problems)
    return pairs


def debug_modes(value: Any) -> list[str]:
    """Debug modes without duplicates, from a string or an array of strings."""
    modes = [value] if isinstance(value, str) else value
    if not isinstance(modes, list) or any(mode != "client-logs" for mode in modes):
        raise expected('must be "client-logs", or an array of it')
    return list(dict.fromkeys(modes))


def classifiers(value: Any) -> dict[str, Any]:
    """A user's own labels."""
    problems = _entries(value, max_key_chars=25, max_value_chars=25)
    problems += [((key,), "reserved name; choose another") for key in value if key in _RESERVED_CLASSIFIERS]
    if problems:
        raise expected_within(problems)
    return dict(value)


def environment(value: Any) -> dict[str, Any]:
    """A user's own variables for the scanner server."""
    problems = _entries(value, max_key_chars=128, max_value_chars=4096)
    for key in value:
        if _VARIABLE.fullmatch(key) is None:
            problems.append(((key,), "must be a variable name: letters, digits, '_', not starting with a digit"))
        elif key in scanner_variables.RESERVED:
            problems.append(((key,), "reserved name; choose another"))
        elif (steering := why_steering(key)) is not None:
            problems.append(((key,), f"{steering}; SKYDRIVER_USER_ENV_ALLOW never lets it through"))
        elif isinstance(value[key], str | bool | int | float) and (why := scanner_variables.refusal(key, value[key])):
            problems.append(((key,), why))
    if problems:
        raise expected_within(problems)
    return dict(value)


def manifest_projection(value: Any) -> frozenset[str] | None:
    """Manifest fields to keep; None: all. Source: REST contract 1.6."""
    if value == "*":
        return None
    if not isinstance(value, list) or any(not isinstance(name, str) or not name.strip() for name in value):
        raise expected('must be "*" or an array of field names')
    if len(set(value)) != len(value):
        raise expected("must not name a field twice")
    return None if not value or "*" in value else frozenset(value)


def find_projection(value: Any) -> list[str] | None:
    """As ``manifest_projection``, names kept: the search refuses three of them by itself."""
    manifest_projection(value)
    return None if value == "*" else list(value)


def _entries(value: Any, *, max_key_chars: int, max_value_chars: int) -> list[tuple[tuple[str | int, ...], str]]:
    """Problems of an object of plain values."""
    if not isinstance(value, dict):
        raise expected("must be a JSON object")
    if len(value) > _MAX_ENTRIES:
        raise expected(f"must have at most {_MAX_ENTRIES} entries")
    problems: list[tuple[tuple[str | int, ...], str]] = []
    for key, entry in value.items():
        if len(key) > max_key_chars:
            problems.append(((key,), f"the name must have at most {max_key_chars} characters"))
        if isinstance(entry, str) and len(entry) > max_value_chars:
            problems.append(((key,), f"must have at most {max_value_chars} characters"))
        elif entry is not None and not isinstance(entry, str | bool | int | float):
            problems.append(((key,), "must be a string, boolean, number or null"))
    return problems


_POSITIVE = INTEGER_SCHEMA | {"minimum": 1}
_PLAIN_VALUE = {"type": ["boolean", "number", "null"]}


def _plain_values(*, max_key_chars: int, max_value_chars: int, **more: Any) -> WithJsonSchema:
    """An object of plain values."""
    return WithJsonSchema(
        {
            "type": "object",
            "maxProperties": _MAX_ENTRIES,
            "propertyNames": {"maxLength": max_key_chars, **more},
            "additionalProperties": {"anyOf": [{"type": "string", "maxLength": max_value_chars}, _PLAIN_VALUE]},
        }
    )


Priority = Annotated[
    int, PlainValidator(priority), WithJsonSchema({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1})
]
Positive = Annotated[int, PlainValidator(positive), WithJsonSchema(_POSITIVE)]
Workers = Annotated[int, PlainValidator(workers), WithJsonSchema(_POSITIVE)]
Seconds = Annotated[int, PlainValidator(seconds), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 2**31 - 1})]
Name = Annotated[str, PlainValidator(name), WithJsonSchema({"type": "string", "pattern": r"\S", "maxLength": _MAX_NAME_CHARS})]
Address = Annotated[
    str, PlainValidator(address), WithJsonSchema({"type": "string", "pattern": r"\S", "maxLength": _MAX_ADDRESS_CHARS})
]
PositiveIfGiven = Annotated[int | None, PlainValidator(positive), WithJsonSchema(_POSITIVE)]
"""None: not given; a null is refused like any other value that is no integer."""
NonBlankIfGiven = Annotated[str | None, PlainValidator(non_blank), WithJsonSchema({"type": "string", "pattern": r"\S"})]
RecoAlgo = Annotated[
    str, PlainValidator(reco_algo), WithJsonSchema({"type": "string", "pattern": r"^[^\s-]\S*$", "maxLength": _MAX_WORD_CHARS})
]
DockerTag = Annotated[
    str,
    PlainValidator(docker_tag),
    WithJsonSchema({"anyOf": [{"type": "string", "const": "latest"}, {"type": "string", "pattern": f"^{_TAG.pattern}$"}]}),
]
I3Event = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [{"type": "object"}, {"type": "string", "contentMediaType": "application/json"}],
            "description": "A realtime event: a JSON object or a string that contains one; empty beside i3_event_id only",
        }
    ),
]
EventKind = Annotated[str, PlainValidator(event_kind), WithJsonSchema({"type": "string", "enum": list(_EVENT_KINDS)})]
Threshold = Annotated[
    int | float, PlainValidator(threshold), WithJsonSchema({"type": "number", "exclusiveMinimum": 0.1, "maximum": 1.0})
]
Nsides = Annotated[
    dict[str, int],
    PlainValidator(nsides),
    WithJsonSchema(
        {
            "type": "object",
            "minProperties": 1,
            "maxProperties": _MAX_NSIDES,
            "propertyNames": {"pattern": "^0*[1-9][0-9]*$", "maxLength": 18},
            "additionalProperties": INTEGER_SCHEMA | {"minimum": 0},
            "description": "nside to pixel extension, coarse to fine",
        }
    ),
]
Clusters = Annotated[
    list[tuple[str, int]],
    PlainValidator(clusters),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": _MAX_PAIRS,
                    "propertyNames": {"pattern": r"\S"},
                    "additionalProperties": _POSITIVE,
                },
                {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": _MAX_PAIRS,
                    "items": {
                        "type": "array",
                        "prefixItems": [{"type": "string", "pattern": r"\S"}, _POSITIVE],
                        "minItems": 2,
                        "maxItems": 2,
                    },
                },
            ],
            "description": "Cluster names (the server knows which) to numbers of workers",
        }
    ),
]
_DEBUG_MODE = {"type": "string", "enum": ["client-logs"]}
DebugModes = Annotated[
    list[str],
    PlainValidator(debug_modes),
    WithJsonSchema({"anyOf": [_DEBUG_MODE, {"type": "array", "items": _DEBUG_MODE}]}),
]
Classifiers = Annotated[
    dict[str, Any],
    PlainValidator(classifiers),
    _plain_values(max_key_chars=25, max_value_chars=25, **{"not": {"enum": sorted(_RESERVED_CLASSIFIERS)}}),
]
Environment = Annotated[
    dict[str, Any],
    PlainValidator(environment),
    _plain_values(
        max_key_chars=128,
        max_value_chars=4096,
        pattern=f"^{_VARIABLE.pattern}$",
        **{"not": {"anyOf": [{"enum": sorted(scanner_variables.RESERVED)}, {"pattern": f"^({STEERING_REGEX})$"}]}},
    ),
]
_PROJECTION = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "const": "*"},
            {"type": "array", "items": {"type": "string", "pattern": r"\S"}, "uniqueItems": True},
        ],
        "description": "Manifest fields to keep",
    }
)
Projection = Annotated[frozenset[str] | None, PlainValidator(manifest_projection), _PROJECTION]
FindProjection = Annotated[list[str] | None, PlainValidator(find_projection), _PROJECTION]
SIZE_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*([a-zA-Z]+)?\s*$"},
        ],
        "description": "Bytes, or a size such as 8GB or 4GiB; 0: the default",
    }
)
