"""Events as they were written at some time, of every type and version: a file that only grows."""

import dataclasses
from pathlib import Path
from typing import Any

import orjson

from skydriver_common.model.events import Event

FILE = Path(__file__).resolve().parent / "recorded_events.ndjson"

_KNOWN: dict[str, Any] = {
    "request": {"priority": 0, "i3_event_id": "0c2f6f6a1d8e4b0c9a7a5f3e2d1c0b9a"},
    "progress": {"summary": "half", "processing_stats": {"rate": {}, "finished": False}},
}
_BY_KIND: tuple[tuple[str, Any], ...] = (
    ("bool", True),
    ("float", 1710000001.5),
    ("int", 1),
    ("str", "text"),
    ("dict", {"k": "v"}),
    ("list", []),
)


def recorded() -> list[dict[str, Any]]:
    """The lines of the file: type, schema_version, data."""
    return [orjson.loads(line) for line in FILE.read_bytes().splitlines()]


def line_for(cls: type[Event]) -> str:
    """A line for the file: this event with all its fields of today."""
    data = {field.name: _KNOWN.get(field.name, _filler(field)) for field in dataclasses.fields(cls)}
    return orjson.dumps({"type": cls.type, "schema_version": cls.schema_version, "data": data}).decode()


def _filler(field: "dataclasses.Field[Any]") -> Any:
    kind = getattr(field.type, "__name__", str(field.type))
    return next(value for name, value in _BY_KIND if kind.startswith(name))
