"""Events of all formats: metadata, direction, and what is refused."""

import base64
import copy
import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from skydriver_sandbox.events import EventRefusedError, equatorial, mjd_of_text, read_event, read_header
from skydriver_sandbox.sample_event import EVENT_ID, RUN_ID, sample_event

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not on this machine")


def _packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


def _header(run_id: int, event_id: int, year: int, ticks: int) -> bytes:
    return (
        b"I3EventHeader....\x01\x02\x00\x0d\x00\x00\x00I3EventHeader"
        + bytes(12)
        + struct.pack("<III", run_id, 0, event_id)
        + bytes(8)
        + struct.pack("<I", 10)
        + b"InIceSplit"
        + bytes(10)
        + struct.pack("<iq", year, ticks)
    )


def _format_a(p_frame: bytes) -> dict[str, Any]:
    frames = [[stream, _packed(stream.encode() * 10)] for stream in "GCDQ"] + [["P", _packed(p_frame)]]
    return {"varname": "heseEvent", "value": {"zmqnotify": {"topics": "heseEventFull"}, "data": frames}}


def test_the_summary_of_format_c_gives_the_metadata() -> None:
    event = read_event(sample_event(), is_real=True)
    assert event.metadata.as_json() == {
        "run_id": RUN_ID,
        "event_id": EVENT_ID,
        "event_type": "neutrino",
        "mjd": pytest.approx(60369.52426839135),
        "is_real_event": True,
        "version": 1,
    }
    assert (event.format_version, event.baseline) == ("2023a", f"baseline_gcd_{RUN_ID}.i3")


@needs_data
def test_the_real_2023a_event_has_the_metadata_of_its_archived_result() -> None:
    event = read_event(json.loads((DATA / "event_neutrino_2023a.json").read_text()), is_real=True)
    assert (event.metadata.run_id, event.metadata.event_id, event.metadata.event_type) == (138632, 31747601, "neutrino")
    assert event.metadata.mjd == pytest.approx(60280.71416774572, abs=1e-8)
    raw = zlib.decompress(base64.b64decode(event.frames[-1][1]))
    run_id, event_id, mjd = read_header(raw)
    assert (run_id, event_id) == (138632, 31747601)
    assert mjd == pytest.approx(60280.71416774572, abs=1e-8)


@needs_data
def test_the_real_2017_event_is_read_from_its_bytes() -> None:
    event = read_event(json.loads((DATA / "event_hese_2017.json").read_text()), is_real=True)
    assert (event.metadata.run_id, event.metadata.event_id, event.metadata.event_type) == (130322, 1414689, "HESE")
    assert 58086.0 < event.metadata.mjd < 58087.0
    assert event.format_version == ""
    assert -math.pi / 2 <= event.facts.dec <= math.pi / 2


@pytest.mark.parametrize(
    ("key", "event_type"),
    [(b"HESE_llhratio", "HESE"), (b"Estres_p_miss", "ESTRES"), (b"PoleEHEOphelia_ImpLF", "EHE"), (b"", None)],
    ids=["hese", "estres", "ehe", "none"],
)
def test_a_key_in_the_frame_tells_the_type_of_an_old_event(key: bytes, event_type: str | None) -> None:
    event = read_event(_format_a(_header(130000, 7, 2017, 864_000_000_000_000 // 2) + key), is_real=True)
    assert event.metadata.event_type == event_type
    assert event.metadata.mjd == pytest.approx(57754.5)


def test_a_frame_in_text_form_is_decoded_first() -> None:
    content = bytes(range(256)) + _header(130000, 7, 2017, 0)
    text = content.decode("latin-1").encode("utf-8")
    pickled = b"\x80\x02c_codecs\nencode\nq\x03X" + struct.pack("<I", len(text)) + text + b"X\x06\x00\x00\x00latin1"
    assert read_header(pickled)[:2] == (130000, 7)


def test_an_event_without_direction_gets_the_same_hashed_one_each_time() -> None:
    plain = sample_event()
    del plain["value"]["data"]["reco"]
    first, second = (read_event(copy.deepcopy(plain), is_real=False).facts for _ in range(2))
    assert first == second
    plain["value"]["data"]["event_id"] += 1
    assert read_event(plain, is_real=False).facts.ra != first.ra


@pytest.mark.parametrize("name", ["l2_online_bestfit", "onlineL2_bestfit"])
def test_the_best_fit_gives_the_direction_under_both_names(name: str) -> None:
    event = sample_event()
    event["value"]["data"]["reco"] = {name: {"zen": 1.0, "azi": 2.0}, "splinempe": {"zen": 2.0, "azi": 2.0}}
    assert read_event(event, is_real=True).facts.dec == pytest.approx(1.0 - math.pi / 2)


def test_the_zenith_at_the_pole_is_the_southern_sky() -> None:
    assert equatorial(0.0, 1.0, 60000.0)[1] == pytest.approx(-math.pi / 2)
    ra, _ = equatorial(1.0, 0.0, 0.0)
    # The known offset of IceCube's azimuth against the hour angle at MJD 0.
    assert ra == pytest.approx(2.54199, abs=5e-3)


def test_a_time_keeps_its_microseconds() -> None:
    assert mjd_of_text("2000-01-01 12:00:00.000001") - 51544.5 == pytest.approx(1 / 86400e6, abs=5e-12)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ([], "no object 'value'"),
        ({"value": []}, "no object 'value'"),
        ({"value": {"data": {"frames": "x"}}}, "5 frames"),
        ({"value": {"data": [["Q", ""], ["G", ""], ["C", ""], ["D", ""], ["P", ""]]}}, "frame G is missing"),
        ({"value": {"data": [["G", 1], ["C", ""], ["D", ""], ["Q", ""], ["P", ""]]}}, "frame G is missing"),
        (_format_a(b"nothing"), "no event header"),
        (_format_a(_header(130000, 7, 2017, 0)[:-20]), "cut short"),
        (_format_a(_header(130000, 7, -5, 0)), "damaged"),
        (_format_a(_header(1_000_000, 7, 2017, 0)), "run_id of 100000"),
    ],
    ids=["list", "value", "text", "order", "number", "no-header", "cut", "year", "run"],
)
def test_an_event_that_cannot_be_scanned_says_why(event: object, reason: str) -> None:
    with pytest.raises(EventRefusedError, match=reason):
        read_event(event, is_real=True)


def test_a_simulated_event_may_have_any_run() -> None:
    assert read_event(_format_a(_header(3, 7, 2017, 0)), is_real=False).metadata.run_id == 3


def test_the_sample_event_is_moderate_and_always_the_same() -> None:
    text = json.dumps(sample_event())
    assert text == json.dumps(sample_event())
    assert 50_000 < len(text) < 150_000
