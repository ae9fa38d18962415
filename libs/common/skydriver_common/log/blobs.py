"""Content-addressed bytes: put once, never parsed, never changed."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import asyncpg
import zstandard

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Connection, Pool
from skydriver_common.log.unit_of_work import sql
from skydriver_common.model.ids import Digest, digest_of

_OFF_THE_LOOP_BYTES = 256 * 1024
_PROBE_BYTES = 64 * 1024


class BlobMissing(Exception):
    """No blob has this digest."""


class Packed(NamedTuple):
    """A blob as it is stored. size: of the content, in bytes."""

    digest: Digest
    encoding: str
    size: int
    body: bytes


async def pack(content: bytes) -> Packed:
    """Compress, where that makes it smaller."""
    return await asyncio.to_thread(_pack, content) if len(content) > _OFF_THE_LOOP_BYTES else _pack(content)


async def put(pool: Pool, content: bytes) -> Digest:
    """Store bytes and return their digest, see ``put_packed``. Raises TryLater."""
    packed = await pack(content)
    await put_packed(pool, [packed])
    return packed.digest


async def put_packed(pool: Pool, blobs: Sequence[Packed]) -> None:
    """Store blobs; storing them again changes nothing. Raises TryLater.

    The statement does not wait for the disk: a blob is worth nothing until a decision refers to it, and the commit of that
    decision, later in the same write-ahead log, takes everything before it to the disk. A crash of the server in between loses
    the blob; so the decision says that it needs it (``Transaction.needs_blob``), and whoever asked puts it again. That is why this
    takes a pool and no connection: within a transaction of somebody's, that one would not wait for the disk either.
    """
    if len(blobs) == 1:
        with database_faults():
            await sql.put_blob(pool, **blobs[0]._asdict())
        return
    digests, encodings, sizes, bodies = zip(*sorted(blobs), strict=True)
    with database_faults():
        await sql.put_blobs(pool, digests=list(digests), encodings=list(encodings), sizes=list(sizes), bodies=list(bodies))


async def can_be_written(pool: Pool) -> bool:
    """Whether the store takes writes: some noise is written, enough to need room on the disk, and taken back.

    A server that is read-only, whose disk is full, or whose log somebody has locked, still answers questions. Raises TryLater when
    it answers none.
    """
    content = os.urandom(_PROBE_BYTES)
    with database_faults():
        async with pool.acquire() as connection:
            trial = connection.transaction()
            await trial.start()
            try:
                await sql.wait_shortly_for_locks(connection)
                await sql.lock_as_writers_do(connection)
                await sql.put_blobs(
                    connection, digests=[digest_of(content)], encodings=["identity"], sizes=[len(content)], bodies=[content]
                )
            except asyncpg.PostgresError:
                return False
            finally:
                await trial.rollback()
    return True


async def get(pool: Pool | Connection, digest: str) -> bytes:
    """The bytes as they were put. Raises BlobMissing, TryLater."""
    packed = await get_packed(pool, digest)
    return packed.body if packed.encoding == "identity" else await unpack(packed.body, packed.size)


async def get_packed(pool: Pool | Connection, digest: str) -> Packed:
    """The blob as it is stored. Raises BlobMissing, TryLater."""
    with database_faults():
        row = await sql.get_blob(pool, digest=digest)
    if row is None:
        raise BlobMissing(digest)
    return Packed(Digest(digest), row["encoding"], row["size"], row["body"])


async def size_of(pool: Pool | Connection, digest: str) -> int:
    """Of the content, in bytes. Raises BlobMissing, TryLater."""
    with database_faults():
        size: int | None = await sql.blob_size(pool, digest=digest)
    if size is None:
        raise BlobMissing(digest)
    return size


async def portions(packed: Packed, portion_bytes: int) -> AsyncIterator[bytes | memoryview]:
    """The content of a blob, in portions of so many bytes at most, unpacked one by one off the loop."""
    if packed.encoding == "identity":
        view = memoryview(packed.body)
        for begin in range(0, len(view), portion_bytes):
            yield view[begin : begin + portion_bytes]
        return
    with zstandard.ZstdDecompressor().stream_reader(packed.body) as reader:
        while portion := await asyncio.to_thread(reader.read, portion_bytes):
            yield portion


async def unpack(body: bytes, size: int) -> bytes:
    """The content of a zstd blob. size: of the content, in bytes."""

    def work() -> bytes:
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=size)

    return await asyncio.to_thread(work) if size > _OFF_THE_LOOP_BYTES else work()


def _pack(content: bytes) -> Packed:
    packed = zstandard.ZstdCompressor(level=3).compress(content)
    if len(packed) < len(content):
        return Packed(digest_of(content), "zstd", len(content), packed)
    return Packed(digest_of(content), "identity", len(content), content)
