"""Compressed bodies: their size is counted, piece by piece, before any of what they unpack to is kept.

A megabyte may unpack to a gigabyte. Off the loop: all of this computes.
"""

import zlib
from collections.abc import Iterator
from io import BytesIO

__all__ = ["KNOWN_ENCODINGS", "BadlyPacked", "UnknownEncoding", "unpack", "unpacked_size"]

KNOWN_ENCODINGS = frozenset({"gzip", "deflate", "br", "zstd"})
"""Codings that a body may have; of another name nothing is unpacked."""
_PIECE_BYTES = 64 * 1024
_MAX_MEMBERS = 100
"""Of one gzip file: most have one."""
_GZIP, _ZLIB, _RAW = 31, 15, -15


class UnknownEncoding(Exception):
    """A coding that is not unpacked here."""


class BadlyPacked(Exception):
    """Bytes that are not of this coding, or end too early."""


def unpacked_size(packed: bytes, encoding: str, max_bytes: int) -> int:
    """Count the bytes that this unpacks to, up to the first piece above ``max_bytes``. Raises UnknownEncoding, BadlyPacked."""
    n_bytes = 0
    for piece in _pieces(packed, encoding):
        n_bytes += len(piece)
        if n_bytes > max_bytes:
            break
    return n_bytes


def unpack(packed: bytes, encoding: str) -> bytes:
    """Unpack a body whose size is known to be bearable. Raises UnknownEncoding, BadlyPacked."""
    buffer = BytesIO()
    for piece in _pieces(packed, encoding):
        buffer.write(piece)
    return buffer.getvalue()


def _pieces(packed: bytes, encoding: str) -> Iterator[bytes]:
    """Unpack in pieces of at most 64 KiB."""
    if encoding not in ("gzip", "deflate"):
        raise UnknownEncoding(encoding)
    # clients disagree on what "deflate" is; the first byte tells
    bits = _GZIP if encoding == "gzip" else _ZLIB if packed[0] & 0xF == 8 else _RAW
    member, n_members = zlib.decompressobj(bits), 1
    try:
        for begin in range(0, len(packed), _PIECE_BYTES):
            waiting = packed[begin : begin + _PIECE_BYTES]
            while waiting:
                if member.eof:
                    if bits != _GZIP or waiting[0] != 0x1F or n_members == _MAX_MEMBERS:
                        return  # what follows the end is not ours to read
                    member, n_members = zlib.decompressobj(bits), n_members + 1
                piece = member.decompress(waiting, _PIECE_BYTES)
                waiting = member.unused_data if member.eof else member.unconsumed_tail
                if piece:
                    yield piece
    except zlib.error as error:
        raise BadlyPacked(str(error)) from error
    # what is left inside when all was taken in
    while not member.eof:
        try:
            piece = member.decompress(b"", _PIECE_BYTES)
        except zlib.error as error:
            raise BadlyPacked(str(error)) from error
        if not piece:
            raise BadlyPacked("it ends too early")
        yield piece
