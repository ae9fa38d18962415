"""Reading the JSON object of a body without losing anything of the parts that must come back as they were sent.

orjson refuses NaN and the standard library rewrites numbers, so a payload is never parsed: a scanner made of regular
expressions checks the syntax, and finds where each member of the object begins and ends. It makes no objects, which keeps a
skymap of 100 MB at a second or two and at no memory (measured: 72 MB/s on rows of numbers).
The other members are parsed, each on its own.
"""

import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from skydriver_common.model.event_codec import may_hold_long_integers, read_json
from skydriver_common.payloads.field_errors import FieldError, InvalidBody, dotted

MAX_DEPTH = 200
"""Levels of nesting that are accepted; real bodies have ten. Whatever walks a value later may recurse."""

# Groups are repeated inside atomic ones and so many times at most: possessive repeats of groups match wrongly before Python
# 3.11.5, and an unbounded repeat would remember a place to go back to for each of a million rows.
_REPEATED = rb"{0,256}"
_WS = rb"[ \t\n\r]*+"
_ESCAPE = rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
_PLAIN = rb'[^"\\\x00-\x1f]*+'
_STRING = rb'"' + _PLAIN + rb"(?>(?:" + _ESCAPE + _PLAIN + rb")" + _REPEATED + rb')"'
_LONG_STRING = rb'"' + _PLAIN + rb"(?>(?:" + _ESCAPE + _PLAIN + rb'){0,10000})"'
_NUMBER = rb"-?(?:0|[1-9][0-9]*+)(?>(?:\.[0-9]++)?)(?>(?:[eE][+-]?[0-9]++)?)"
_SCALAR = rb"(?:" + _STRING + rb"|" + _NUMBER + rb"|true|false|null|NaN|-?Infinity)"
_FLAT_ARRAY = rb"\[" + _WS + rb"(?>(?:" + _SCALAR + _WS + rb"(?>(?:," + _WS + _SCALAR + _WS + rb")" + _REPEATED + rb"))?)\]"
_LEAF_TEXT = rb"(?:" + _SCALAR + rb"|" + _FLAT_ARRAY + rb")"
_KEY_TEXT = _STRING + _WS + rb":" + _WS

_SPACE = re.compile(_WS)
_LEAF = re.compile(_LEAF_TEXT)
_KEY = re.compile(rb"(" + _LONG_STRING + rb")" + _WS + rb":" + _WS)
_MORE_ELEMENTS = re.compile(rb"(?>(?:" + _WS + rb"," + _WS + _LEAF_TEXT + rb")" + _REPEATED + rb")" + _WS)
_MORE_MEMBERS = re.compile(rb"(?>(?:" + _WS + rb"," + _WS + _KEY_TEXT + _LEAF_TEXT + rb")" + _REPEATED + rb")" + _WS)
_PLAIN_TEXT = re.compile(_PLAIN)
_MORE_TEXT = re.compile(rb"(?>(?:" + _ESCAPE + _PLAIN + rb"){1,256})")

_TOKEN = re.compile(rb'"' + _PLAIN + rb"(?:\\." + _PLAIN + rb")*" + rb'(?:"|\Z)|[{}\[\]:,]', re.DOTALL)
_FARTHEST_PATH = 1_000_000
"""Bytes behind which no path is looked for: that costs more than the rest of the reading."""

_COMMA, _OPEN_ARRAY, _CLOSE_ARRAY, _OPEN_OBJECT, _CLOSE_OBJECT, _QUOTE = b',[]{}"'


class NotJson(ValueError):
    """The text is no JSON. position: where reading stopped, counted in bytes."""

    def __init__(self, why: str, position: int) -> None:
        super().__init__(why)
        self.why = why
        self.position = position


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON object as it arrived.

    values: the parsed members. payloads: the members that are kept as sent, as their own bytes. problems: what is wrong
    inside single members (a NaN, a character that cannot be stored); those members are in neither map.
    """

    values: dict[str, Any]
    payloads: dict[str, bytes]
    problems: tuple[FieldError, ...]

    @property
    def names(self) -> set[str]:
        """Names of all members that were sent."""
        return {*self.values, *self.payloads, *(problem.path.partition(".")[0] for problem in self.problems)}


def read_object(raw: bytes, *, payloads: Collection[str] = (), optional: bool = False) -> Body:
    """Read a body that has to be one JSON object.

    payloads: names of members to be kept as bytes, in which NaN and infinity are allowed. optional: no body at all is the
    same as ``{}``. A name given twice counts once, the last one. Source: REST contract 1.1, 1.8.
    Raises InvalidBody when the body is missing, is not JSON, or is not an object.
    """
    if not raw:
        if optional:
            return Body({}, {}, ())
        raise InvalidBody([FieldError("body", "a JSON object is required")])
    try:
        extents = member_extents(raw)
    except NotJson as error:
        raise InvalidBody([FieldError("body", located(raw, error))]) from None
    values: dict[str, Any] = {}
    kept: dict[str, bytes] = {}
    problems: list[FieldError] = []
    for name, (begin, end) in extents.items():
        piece = raw[begin:end]
        if name in payloads:
            kept[name] = piece
            continue
        value, found = _parse(piece, name)
        if found:
            problems += found
        else:
            values[name] = value
    return Body(values, kept, tuple(problems))


def located(raw: bytes, error: NotJson) -> str:
    """What is wrong and where: line and column, from 1 and in characters, and the path of what is read there."""
    begin = raw.rfind(b"\n", 0, error.position) + 1
    line = raw.count(b"\n", 0, begin) + 1
    column = len(raw[begin : error.position].decode(errors="replace")) + 1
    path = _path_at(raw, error.position)
    return f"{error.why} (line {line}, column {column}{f', in {path}' if path else ''})"


def _path_at(raw: bytes, position: int) -> str:
    """The path of the value that is read at a position; "" at the top, far behind the start, and where no JSON stands before it."""
    if position > _FARTHEST_PATH:
        return ""
    steps: list[str | int] = []  # of each open object the last name, of each open array the index
    text = b""
    for token in _TOKEN.finditer(raw, 0, position):
        found = token[0]
        if found == b"{":
            steps.append("")
        elif found == b"[":
            steps.append(0)
        elif found[0] == _QUOTE:
            text = found
        elif not steps:  # no JSON before what is no text
            return ""
        elif found in (b"}", b"]"):
            steps.pop()
        elif found == b":":
            steps[-1] = _shown_name(text)
        else:
            last = steps[-1]
            steps[-1] = last + 1 if isinstance(last, int) else ""
    return dotted(*(step for step in steps if step != ""))


def _shown_name(quoted: bytes) -> str:
    try:
        return _name(quoted, 0)
    except NotJson:
        return "?"


def member_extents(raw: bytes) -> dict[str, tuple[int, int]]:
    """Where the value of each member of a JSON object lies: name to (begin, end), in bytes.

    NaN, Infinity and -Infinity are accepted anywhere. Raises NotJson when the text is anything but one JSON object.
    """
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            raise NotJson("not valid UTF-8", error.start) from None
    position = _skip_space(raw, 0)
    if raw[position : position + 1] != b"{":
        raise NotJson(_why_no_object(raw, position), position)
    extents: dict[str, tuple[int, int]] = {}
    position = _skip_space(raw, position + 1)
    if raw[position : position + 1] == b"}":
        _expect_end(raw, position + 1)
        return extents
    while True:
        key = _KEY.match(raw, position)
        if key is None:
            raise NotJson('not valid JSON: expected a name in double quotes and ":"', position)
        begin = key.end()
        end = _value_end(raw, begin)
        extents[_name(key[1], position)] = (begin, end)
        position = _skip_space(raw, end)
        following = raw[position : position + 1]
        if following == b"}":
            _expect_end(raw, position + 1)
            return extents
        if following != b",":
            raise NotJson('not valid JSON: expected "," or "}"', position)
        position = _skip_space(raw, position + 1)


def _value_end(raw: bytes, position: int) -> int:
    """Position behind the value that begins here; checks its syntax on the way. Raises NotJson."""
    open_ones = bytearray()  # the closing character of each array and object that is still open
    while True:
        leaf = _LEAF.match(raw, position)
        opening = raw[position] if position < len(raw) else 0
        if leaf is not None:
            position = leaf.end()
        elif opening == _QUOTE:
            position = _string_end(raw, position)
        else:
            if len(open_ones) >= MAX_DEPTH - 1:
                raise NotJson(f"nested more than {MAX_DEPTH} levels deep", position)
            if opening == _OPEN_ARRAY:
                open_ones.append(_CLOSE_ARRAY)
                position = _skip_space(raw, position + 1)
                continue
            if opening != _OPEN_OBJECT:
                raise NotJson("not valid JSON: expected a value", position)
            position = _skip_space(raw, position + 1)
            if raw[position : position + 1] == b"}":
                position += 1
            else:
                open_ones.append(_CLOSE_OBJECT)
                position = _behind_key(raw, position)
                continue
        # a value has ended: go on in what it is part of, over as many plain neighbours as there are
        while open_ones:
            closing = open_ones[-1]
            more = (_MORE_ELEMENTS if closing == _CLOSE_ARRAY else _MORE_MEMBERS).match(raw, position)
            position = more.end() if more is not None else position
            following = raw[position] if position < len(raw) else 0
            if following == closing:
                open_ones.pop()
                position += 1
            elif following == _COMMA:
                position = _skip_space(raw, position + 1)
                if closing == _CLOSE_OBJECT:
                    position = _behind_key(raw, position)
                break
            else:
                raise NotJson(f'not valid JSON: expected "," or "{chr(closing)}"', position)
        else:
            return position


def _string_end(raw: bytes, position: int) -> int:
    """Position behind a string of any number of escapes, such as an event as text. Raises NotJson."""
    end = _skip(_PLAIN_TEXT, raw, position + 1)
    while (more := _MORE_TEXT.match(raw, end)) is not None:
        end = more.end()
    if raw[end : end + 1] != b'"':
        raise NotJson("not valid JSON: expected a value", position)
    return end + 1


def _behind_key(raw: bytes, position: int) -> int:
    key = _KEY.match(raw, position)
    if key is None:
        raise NotJson('not valid JSON: expected a name in double quotes and ":"', position)
    return key.end()


def _skip_space(raw: bytes, position: int) -> int:
    return _skip(_SPACE, raw, position)


def _skip(pattern: re.Pattern[bytes], raw: bytes, position: int) -> int:
    found = pattern.match(raw, position)
    return position if found is None else found.end()


def _expect_end(raw: bytes, position: int) -> None:
    position = _skip_space(raw, position)
    if position != len(raw):
        raise NotJson("not valid JSON: unexpected content after the object", position)


def _why_no_object(raw: bytes, position: int) -> str:
    try:
        _expect_end(raw, _value_end(raw, position))
    except NotJson as error:
        return error.why
    return "must be a JSON object"


def _name(quoted: bytes, position: int) -> str:
    try:
        name: str = orjson.loads(quoted)
    except orjson.JSONDecodeError:
        raise NotJson("has a name with an unpaired surrogate", position) from None
    return name


def _parse(piece: bytes, name: str) -> tuple[Any, list[FieldError]]:
    """The value of a piece whose syntax is right, or what in it cannot be taken."""
    try:
        value = orjson.loads(piece)
    except orjson.JSONDecodeError:
        found = list(_unfit(json.loads(piece, parse_int=float), (name,)))  # of thousands of digits an int would be refused
        return None, found or [FieldError(dotted(name), "cannot be read as JSON")]
    if may_hold_long_integers(piece):
        value = read_json(piece)
    if b"\\u0000" in piece:
        return value, list(_unfit(value, (name,)))
    return value, []


def _unfit(value: Any, path: tuple[str | int, ...]) -> Iterator[FieldError]:
    """Numbers that are no numbers, and texts that a database of Unicode text cannot hold, with their paths."""
    if isinstance(value, float) and not math.isfinite(value):
        yield FieldError(dotted(*path), "must be a finite number: NaN and infinity are not allowed here")
    elif isinstance(value, str):
        if _is_unstorable(value):
            yield FieldError(dotted(*path), "must not contain the NUL character or an unpaired surrogate")
    elif isinstance(value, dict):
        for key, item in value.items():
            if _is_unstorable(key):
                yield FieldError(dotted(*path, key), "the name must not contain the NUL character or an unpaired surrogate")
            yield from _unfit(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unfit(item, (*path, index))


def _is_unstorable(text: str) -> bool:
    return "\0" in text or any("\ud800" <= char <= "\udfff" for char in text)
