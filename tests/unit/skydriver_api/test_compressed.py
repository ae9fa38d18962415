"""Compressed bodies are counted before they are kept."""

import gzip
import tracemalloc
import zlib

import pytest

from skydriver_api.http.compressed import BadlyPacked, UnknownEncoding, unpack, unpacked_size

MIB = 1024 * 1024
BODY = b'{"a": "%b"}' % (b"text " * 100_000)


def _raw(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("packed", "encoding"),
    [
        (gzip.compress(BODY), "gzip"),
        (gzip.compress(BODY[:1000]) + gzip.compress(BODY[1000:]), "gzip"),
        (gzip.compress(BODY) + b"\0" * 100, "gzip"),
        (zlib.compress(BODY), "deflate"),
        (_raw(BODY), "deflate"),
    ],
    ids=["gzip", "two members", "padding", "zlib", "raw deflate"],
)
def test_what_clients_call_gzip_and_deflate_is_unpacked(packed: bytes, encoding: str) -> None:
    assert unpacked_size(packed, encoding, 10 * MIB) == len(BODY)
    assert unpack(packed, encoding) == BODY


@pytest.mark.parametrize(
    ("packed", "encoding"),
    [(BODY, "gzip"), (gzip.compress(BODY)[:-100], "gzip"), (gzip.compress(BODY)[:12], "gzip"), (zlib.compress(BODY)[:-5], "deflate"),
     (b"\xff" * 50, "deflate")],
    ids=["no gzip", "cut gzip", "head only", "cut zlib", "no deflate"],
)  # fmt: skip
def test_what_is_no_such_thing_or_ends_too_early_is_refused(packed: bytes, encoding: str) -> None:
    with pytest.raises(BadlyPacked):
        unpacked_size(packed, encoding, 10 * MIB)


def test_other_codings_are_refused_by_name() -> None:
    with pytest.raises(UnknownEncoding):
        unpacked_size(b"x", "br", MIB)


def test_a_bomb_is_counted_in_little_memory_and_no_further_than_the_limit() -> None:
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join([packer.compress(bytes(MIB)) for _ in range(64)]) + packer.flush()
    assert len(bomb) < MIB
    tracemalloc.start()
    try:
        assert 32 * MIB < unpacked_size(bomb, "gzip", 32 * MIB) <= 33 * MIB
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_a_hundred_thousand_empty_members_are_not_opened_one_by_one() -> None:
    assert unpacked_size(gzip.compress(b"") * 100_000, "gzip", MIB) == 0
