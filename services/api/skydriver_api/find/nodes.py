"""A checked filter as a tree of frozen values: what `filters` makes and `compile` reads.

A `Field` asks whether a path of the document passes a test. An empty path stands for the value at hand itself: that is how the
operators inside `{"a": {"$elemMatch": {"$gt": 1}}}` look at one element without looking into it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from skydriver_api.find.errors import Place

__all__ = [
    "ALL",
    "All",
    "Any",
    "Compare",
    "ElementIs",
    "ElementMatches",
    "Equals",
    "Exists",
    "Field",
    "IsIn",
    "Json",
    "Matches",
    "Node",
    "Not",
    "Order",
    "Remainder",
    "Size",
    "Test",
    "TypeIs",
]

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Order: TypeAlias = Literal["<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Equals:
    value: Json


@dataclass(frozen=True, slots=True)
class IsIn:
    values: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """Order among values of one type: numbers, strings by code point, or booleans."""

    order: Order
    value: bool | int | float | str


@dataclass(frozen=True, slots=True)
class Exists:
    pass


@dataclass(frozen=True, slots=True)
class TypeIs:
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Matches:
    """A string in which the expression is found. pattern: as Postgres reads it, see `regex`; path: for error messages."""

    pattern: str
    path: Place | str


@dataclass(frozen=True, slots=True)
class Remainder:
    divisor: int
    remainder: int


@dataclass(frozen=True, slots=True)
class Size:
    length: int


@dataclass(frozen=True, slots=True)
class ElementMatches:
    """An array with an element (object or array) that is matched by a whole filter."""

    node: "Node"


@dataclass(frozen=True, slots=True)
class ElementIs:
    """An array with an element that itself passes; the paths of `node` are empty."""

    node: "Node"


Test: TypeAlias = Equals | IsIn | Compare | Exists | TypeIs | Matches | Remainder | Size | ElementMatches | ElementIs


@dataclass(frozen=True, slots=True)
class Field:
    path: tuple[str, ...]
    test: Test


@dataclass(frozen=True, slots=True)
class All:
    nodes: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Any:
    nodes: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    node: "Node"


Node: TypeAlias = Field | All | Any | Not

ALL = All(())
