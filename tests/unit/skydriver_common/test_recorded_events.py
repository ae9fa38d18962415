"""Whatever was written once can be read for ever. The file `tests/support/recorded_events.ndjson` is only ever added to."""

import dataclasses
from typing import Any, ClassVar

import orjson
import pytest

from skydriver_common.model import event_codec
from skydriver_common.model.event_codec import UnknownEvent
from skydriver_common.model.events import EVENT_TYPES, Event, ScanRequested, SystemEvent
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import evolve
from tests.support.recorded import FILE, line_for, recorded

_SCAN = ScanId("18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c")


def _parsed(line: dict[str, Any]) -> Event:
    return event_codec.parse_event(line["type"], line["schema_version"], orjson.dumps(line["data"]))


@pytest.mark.parametrize(
    "line", recorded(), ids=lambda line: f"{line['type']} {line['schema_version']} {len(line['data'])} fields"
)
def test_every_recorded_event_is_read_and_folded(line: dict[str, Any]) -> None:
    event = _parsed(line)
    assert type(event) is EVENT_TYPES[line["type"]]
    written = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    if line["schema_version"] == event.schema_version:
        assert line["data"].items() <= written.items()
    if isinstance(event, SystemEvent):
        return
    requested = _parsed(next(one for one in recorded() if one["type"] == ScanRequested.type))
    scan = None if isinstance(event, ScanRequested) else evolve(None, requested, scan_id=_SCAN, recorded_at=1.0)
    after = evolve(scan, event, scan_id=_SCAN, recorded_at=2.0)
    assert after.version == (1 if scan is None else 2)
    assert after.state
    assert after.manifest()["scan_id"] == _SCAN


def test_the_file_holds_every_type_in_every_version_and_with_the_fields_of_today() -> None:
    held: dict[tuple[str, int], list[set[str]]] = {}
    for line in recorded():
        held.setdefault((line["type"], line["schema_version"]), []).append(set(line["data"]))
    for type_, cls in EVENT_TYPES.items():
        for version in range(1, cls.schema_version + 1):
            assert (type_, version) in held, (
                f"{type_} in version {version} is not in {FILE.name}: it was written once, so keep it"
            )
        today = {field.name for field in dataclasses.fields(cls)}
        assert today in held.get((type_, cls.schema_version), []), f"add this line to {FILE.name}: {line_for(cls)}"


def test_every_old_version_has_its_way_up() -> None:
    ways = {(type_, version) for type_, cls in EVENT_TYPES.items() for version in range(1, cls.schema_version)}
    assert set(event_codec.UPCASTS) == ways


def test_versions_are_upcast_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Measured(Event):
        type: ClassVar[str] = "scan.measured"
        schema_version: ClassVar[int] = 3
        length_m: float
        by: str

    monkeypatch.setitem(EVENT_TYPES, Measured.type, Measured)
    monkeypatch.setitem(event_codec.UPCASTS, (Measured.type, 1), lambda data: {"length_m": data["length_km"] * 1000})
    monkeypatch.setitem(event_codec.UPCASTS, (Measured.type, 2), lambda data: {**data, "by": "unknown"})
    assert event_codec.parse_event(Measured.type, 1, b'{"length_km": 2}') == Measured(length_m=2000, by="unknown")
    assert event_codec.parse_event(Measured.type, 2, b'{"length_m": 3.0}') == Measured(length_m=3.0, by="unknown")
    assert event_codec.parse_event(Measured.type, 3, b'{"length_m": 3.0, "by": "me"}') == Measured(length_m=3.0, by="me")
    with pytest.raises(UnknownEvent):
        event_codec.parse_event(Measured.type, 4, b"{}")
    with pytest.raises(UnknownEvent):
        event_codec.parse_event(Measured.type, 3, b'{"length_m": 3.0}')
    with pytest.raises(UnknownEvent):
        event_codec.parse_event("scan.never-heard-of", 1, b"{}")


@pytest.mark.parametrize(
    "value", [{"a": 2**70, "b": 1e-7, "c": [-(2**64)]}, {"a": 2**64 - 1, "b": 1e22}, {"a": 1.5}, {" ": [None]}]
)
def test_what_is_read_back_is_written_the_same(value: dict[str, Any]) -> None:
    written = event_codec.encode(value)
    assert event_codec.decode(written) == value
    assert event_codec.encode(event_codec.decode(written)) == written
    with pytest.raises(ValueError, match="NaN"):
        event_codec.decode(b" [NaN]")
