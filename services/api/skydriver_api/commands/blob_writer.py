"""Storing payloads before the command that refers to them; small ones are batched into one statement."""

from collections.abc import Mapping

from skydriver_api.reads.batched import BatchedLookup
from skydriver_common.db.pool import Pool
from skydriver_common.log import blobs
from skydriver_common.model.ids import Digest

_BATCHED_UP_TO_BYTES = 64 * 1024


class BlobWriter:
    """Puts blobs; a decision that refers to them must follow (see ``log.blobs.put_packed``)."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._small = BatchedLookup(self._put, max_batch=16)

    async def put(self, content: bytes) -> Digest:
        """Store bytes, return their digest. Raises TryLater."""
        packed = await blobs.pack(content)
        await self.store(packed)
        return packed.digest

    async def store(self, packed: blobs.Packed) -> None:
        """Store packed bytes. Raises TryLater."""
        if len(packed.body) <= _BATCHED_UP_TO_BYTES:
            await self._small(packed)
        else:
            await blobs.put_packed(self._pool, [packed])

    async def _put(self, small: list[blobs.Packed]) -> Mapping[blobs.Packed, bool]:
        await blobs.put_packed(self._pool, small)
        return {}
