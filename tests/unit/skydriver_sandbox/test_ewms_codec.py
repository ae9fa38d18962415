"""Messages and files between scanner and workers survive the way, and bad ones are told apart."""

import json
import math
from typing import Any

import pytest
import zstandard

from skydriver_sandbox import ewms_codec
from skydriver_sandbox.events import read_event
from skydriver_sandbox.likelihood import reconstruct
from skydriver_sandbox.sample_event import sample_event


def test_the_envelope_is_zstd_of_headers_and_data() -> None:
    body = ewms_codec.encode({"a": 1})
    assert json.loads(zstandard.ZstdDecompressor().decompress(body)) == {"headers": {}, "data": {"a": 1}}
    assert ewms_codec.decode(body) == {"a": 1}


def test_nan_may_not_go_into_an_envelope() -> None:
    with pytest.raises(ValueError, match="JSON"):
        ewms_codec.encode({"a": math.nan})


def test_a_pixel_travels_with_its_stream_name() -> None:
    task = ewms_codec.PixelTask("dummy", "2023a", 64, 16544, 0)
    message = task.as_json({"x": 0.0})
    assert message["pframe"]["sub_event_stream"] == "SCAN_nside0064_pixel16544_posvar0000"
    assert ewms_codec.read_pixel_task(ewms_codec.decode(ewms_codec.encode(message))) == task


@pytest.mark.parametrize("algorithm", ["dummy", "splinempe"], ids=["numbers", "nan"])
def test_an_answer_travels(algorithm: str) -> None:
    facts = read_event(sample_event(), is_real=True).facts
    answer = reconstruct(facts, algorithm, 8, 5, 0)
    found, runtime_s = ewms_codec.read_answer(ewms_codec.decode(ewms_codec.encode(ewms_codec.answer_json(answer, 41.7))))
    assert repr(found) == repr(answer)
    assert runtime_s == 41.7


def test_startup_json_has_the_documented_shape_and_carries_the_facts() -> None:
    event = read_event(sample_event(), is_real=True)
    content = ewms_codec.startup_json(event)
    document = json.loads(content)
    assert document.keys() == {"baseline_GCD_file", "GCDQp_packet"}
    assert [stream for stream, _ in document["GCDQp_packet"]["frames"]] == ["G", "C", "D", "Q", "p"]
    assert ewms_codec.read_startup(content) == event.facts


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"baseline_GCD_file": null, "GCDQp_packet": {"frames": []}}',
        b'{"baseline_GCD_file": "x", "GCDQp_packet": {"frames": []}}',
        b'{"baseline_GCD_file": "x", "GCDQp_packet": {"frames": [["P", ""]]}}',
        b'{"baseline_GCD_file": "x", "GCDQp_packet": {"frames": [["p", "e30="]]}}',
    ],
    ids=["empty", "list", "no-baseline", "no-frames", "raw-frame", "no-facts"],
)
def test_a_bad_startup_file_is_refused(content: bytes) -> None:
    with pytest.raises(ewms_codec.UndecodableError):
        ewms_codec.read_startup(content)


@pytest.mark.parametrize(
    "body",
    [b"", b"no zstd", zstandard.compress(b"[]"), zstandard.compress(b"{}"), zstandard.compress(b'{"headers": {}, "data": 1}')],
    ids=["empty", "plain", "list", "no-data", "number"],
)
def test_a_bad_envelope_is_refused(body: bytes) -> None:
    with pytest.raises(ewms_codec.UndecodableError):
        ewms_codec.decode(body)


@pytest.mark.parametrize(
    "message", [{}, {"reco_pixel_variation": 1}, {"pframe": {"nside": "x"}}], ids=["empty", "number", "text"]
)
def test_a_bad_message_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(ewms_codec.UndecodableError):
        ewms_codec.read_answer(message)
    with pytest.raises(ewms_codec.UndecodableError):
        ewms_codec.read_pixel_task(message)
