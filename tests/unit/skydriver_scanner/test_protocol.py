"""The wire format: what is packed comes out the same; whatever else arrives is refused with a reason, and never more."""

import gzip
import json
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from skydriver_scanner import protocol

HEADERS = {"token": "t.o.k", "producer": "p-1", "sequence": 7, "schema_version": "1.0"}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
OBJECTS = st.dictionaries(st.text(st.characters(codec="utf-8")), VALUES, max_size=5)


@given(content=OBJECTS, encoding=st.sampled_from(protocol.ENCODINGS), sequence=st.integers(0, protocol.MAX_SEQUENCE))
def test_what_is_packed_comes_out_the_same(content: dict[str, Any], encoding: str, sequence: int) -> None:
    packed = protocol.pack("progress", "abc1", content, token="t", producer="p", sequence=sequence, content_encoding=encoding)
    received = protocol.unpack(packed.routing_key, packed.headers, packed.body, content_encoding=packed.content_encoding)
    assert received == protocol.UnpackedMessage("progress", "abc1", "p", sequence, "1.0", content, "t")


@given(
    key=st.text() | st.sampled_from(["progress.a", "result.a", "failure.a"]),
    headers=st.just(HEADERS)
    | st.dictionaries(st.sampled_from([*HEADERS]), st.none() | st.integers() | st.text() | st.binary()),
    body=st.binary() | OBJECTS.map(lambda content: json.dumps(content).encode()),
    encoding=st.none() | st.sampled_from([*protocol.ENCODINGS, "br"]),
)
def test_whatever_arrives_is_read_or_refused_and_nothing_else(
    key: str, headers: dict[str, Any], body: bytes, encoding: str | None
) -> None:
    try:
        kind = protocol.unpack(key, headers, body, content_encoding=encoding).kind
    except protocol.MessageRejected:
        return
    assert kind in protocol.KINDS


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("token", "", "token"),
        ("token", b"t", "token"),
        ("producer", "a.b", "producer"),
        ("producer", "p\n", "producer"),
        ("sequence", True, "sequence"),
        ("sequence", -1, "sequence"),
        ("sequence", 2**63, "sequence"),
        ("sequence", "7", "sequence"),
        ("schema_version", "2.0", "must be 1.x"),
        ("schema_version", "1", "schema_version"),
    ],
)
def test_a_wrong_header_is_refused_by_its_name(name: str, value: object, reason: str) -> None:
    with pytest.raises(protocol.MessageRejected, match=reason):
        protocol.unpack("progress.a", HEADERS | {name: value}, b"{}", content_encoding=None)


@pytest.mark.parametrize("name", HEADERS)
def test_a_missing_header_is_refused_by_its_name(name: str) -> None:
    headers = {key: value for key, value in HEADERS.items() if key != name}
    with pytest.raises(protocol.MessageRejected, match=name):
        protocol.unpack("progress.a", headers, b"{}", content_encoding=None)


def test_a_newer_minor_version_and_its_fields_are_accepted() -> None:
    received = protocol.unpack("progress.a", HEADERS | {"schema_version": "1.9"}, b'{"new":1}', content_encoding="")
    assert (received.schema_version, received.content) == ("1.9", {"new": 1})


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"a":NaN}', b'{"a":-Infinity}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(protocol.MessageRejected, match=r"not (valid JSON|a JSON object)"):
        protocol.unpack("progress.a", HEADERS, body, content_encoding=None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_a_scanner_is_told_at_once_that_a_value_is_no_json(value: object) -> None:
    with pytest.raises(protocol.MessageRejected, match="not valid JSON"):
        protocol.pack("progress", "a", {"x": value}, token="t", producer="p", sequence=0)


@pytest.mark.parametrize(
    ("key", "content", "reason"),
    [
        ("result.a", {"is_final": True}, "skyscan_result"),
        ("result.a", {"skyscan_result": {}}, "is_final"),
        ("result.a", {"skyscan_result": {}, "is_final": 1}, "is_final"),
        ("failure.a", {"reason": ""}, "reason"),
        ("failure.a", {"reason": "x", "log_tail": 1}, "log_tail"),
        ("other.a", {}, "kind"),
        ("progress.a.b", {}, "scan id"),
        ("progress", {}, "scan id"),
    ],
)
def test_each_kind_has_its_content(key: str, content: dict[str, Any], reason: str) -> None:
    with pytest.raises(protocol.MessageRejected, match=reason):
        protocol.unpack(key, HEADERS, json.dumps(content).encode(), content_encoding=None)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_small_message_can_not_become_a_large_one(encoding: str) -> None:
    plain = b" " * (protocol.MAX_CONTENT_BYTES + 10)
    body = gzip.compress(plain) if encoding == "gzip" else zstandard.compress(plain)
    with pytest.raises(protocol.MessageTooLarge, match="over REST"):
        protocol.unpack("progress.a", HEADERS, body, content_encoding=encoding)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_compressed_body_that_was_cut_is_refused(encoding: str) -> None:
    packed = protocol.pack("progress", "a", {"x": "y" * 5000}, token="t", producer="p", sequence=0, content_encoding=encoding)
    with pytest.raises(protocol.MessageRejected):
        protocol.unpack("progress.a", HEADERS, packed.body[:-6], content_encoding=encoding)


def test_what_is_too_large_for_the_bus_is_refused_at_both_ends() -> None:
    text = "x" * protocol.MAX_WIRE_BYTES
    with pytest.raises(protocol.MessageTooLarge, match="over REST"):
        protocol.pack("progress", "a", {"x": text}, token="t", producer="p", sequence=0)
    with pytest.raises(protocol.MessageTooLarge, match="over REST"):
        protocol.unpack("progress.a", HEADERS, b" " * (protocol.MAX_WIRE_BYTES + 1), content_encoding=None)


def test_skymaps_may_be_larger_than_reports() -> None:
    text = "x" * (protocol.MAX_SMALL_WIRE_BYTES + 1)
    packed = protocol.pack(
        "result", "a", {"skyscan_result": {"a": text}, "is_final": True}, token="t", producer="p", sequence=0
    )
    assert protocol.unpack(packed.routing_key, HEADERS, packed.body, content_encoding=None).content["is_final"] is True
    for key in ("progress.a", "failure.a"):
        with pytest.raises(protocol.MessageTooLarge, match="over REST"):
            protocol.unpack(key, HEADERS, packed.body, content_encoding=None)


def test_the_token_is_in_no_repr() -> None:
    packed = protocol.pack("progress", "a", {}, token="s3cr3t", producer="p", sequence=0)
    received = protocol.unpack(packed.routing_key, packed.headers, packed.body, content_encoding="none")
    assert "s3cr3t" not in repr(packed) + repr(received)


def test_a_skymap_keeps_its_nan_and_infinity_and_nothing_else_may_hold_them() -> None:
    skymap = {"nside-1": {"columns": ["llh"], "data": [[float("nan")], [float("inf")], [float("-inf")]]}}
    packed = protocol.pack("result", "a", {"skyscan_result": skymap, "is_final": True}, token="t", producer="p", sequence=0)
    assert packed.body == (
        b'{"skyscan_result":{"nside-1":{"columns":["llh"],"data":[[NaN],[Infinity],[-Infinity]]}},"is_final":true}'
    )
    received = protocol.unpack(packed.routing_key, packed.headers, packed.body, content_encoding=None)
    assert repr(received.content) == repr({"skyscan_result": skymap, "is_final": True})
    with pytest.raises(protocol.MessageRejected, match="not valid JSON"):
        protocol.encode("result", {"skyscan_result": {}, "is_final": True, "more": float("nan")})


def test_what_is_sent_over_rest_is_what_would_be_sent_on_the_bus() -> None:
    content = {"reason": "the disk is full", "log_tail": "…"}
    packed = protocol.pack("failure", "a", content, token="t", producer="p", sequence=0, content_encoding="gzip")
    assert gzip.decompress(packed.body) == protocol.encode("failure", content)
