"""The one way a body or query is refused: all errors at once, each with the path of its field."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from skydriver_common.faults import BadMessage

MAX_LISTED = 1000
"""More problems than this are counted, not listed: an answer must not grow with a hostile body."""

_MAX_NAME = 100

PATTERN_TEXTS: dict[str, str] = {}
"""What a regular expression of a field means, in words; filled by the modules that declare such fields."""

_TEXTS: dict[str, str] = {
    "missing": "is required",
    "extra_forbidden": "unknown field",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "dict_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "list_type": "must be a JSON array",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
}


class FieldError(NamedTuple):
    """An invalid field. path: dotted path of the field. message: what was expected, never the value sent."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidBody(BadMessage):
    """A body or query string that does not fit its route: HTTP 400.

    The text lists all problems as ``path: expectation; path: expectation``. Source: REST contract 1.3.
    """

    def __init__(self, problems: Iterable[FieldError]) -> None:
        self.problems: tuple[FieldError, ...] = tuple(dict.fromkeys(problems))
        listed = "; ".join(map(str, self.problems[:MAX_LISTED]))
        more = len(self.problems) - MAX_LISTED
        super().__init__(f"{listed}; and {more} more problems" if more > 0 else listed)


def shown(name: str) -> str:
    """A name out of a request, fit to be printed in an error: cut when very long, unprintable characters replaced."""
    clean = "".join(char if char.isprintable() else "?" for char in name[:_MAX_NAME])
    return f"{clean}..." if len(name) > _MAX_NAME else clean


def dotted(*parts: str | int) -> str:
    """The path of a field: names and indices joined by dots."""
    return ".".join(shown(str(part)) for part in parts)


def expected(text: str) -> PydanticCustomError:
    """The error a validator raises. text: what was expected ("must be an integer")."""
    return PydanticCustomError("expected", "{text}", {"text": text})


def expected_within(problems: Iterable[tuple[tuple[str | int, ...], str]]) -> PydanticCustomError:
    """The error of a validator that looked at a whole structure. problems: (path below the field, expectation)."""
    return PydanticCustomError("within", "{count} problems", {"problems": tuple(problems), "count": 0})


def field_errors_of(error: ValidationError, *prefix: str) -> Iterator[FieldError]:
    """The problems that pydantic found, in our words. prefix: path of the object that was checked."""
    for detail in error.errors(include_url=False, include_input=False):
        path = (*prefix, *(part for part in detail["loc"] if part != "[key]"))
        context: dict[str, Any] = detail.get("ctx", {})
        if detail["type"] == "within":
            for below, text in context["problems"]:
                yield FieldError(dotted(*path, *below), text)
        else:
            yield FieldError(dotted(*path), _text_of(detail, context))


def _text_of(detail: ErrorDetails, context: dict[str, Any]) -> str:
    kind = detail["type"]
    if kind == "expected":
        return str(context["text"])
    if kind == "too_long":
        return f"must have at most {context['max_length']} entries"
    if kind == "too_short":
        return "must not be empty"
    if kind == "string_too_long":
        is_key = detail["loc"][-1] == "[key]"
        return f"{'the name ' if is_key else ''}must have at most {context['max_length']} characters"
    if kind == "string_pattern_mismatch":
        return PATTERN_TEXTS[context["pattern"]]
    return _TEXTS[kind].format_map(context)
