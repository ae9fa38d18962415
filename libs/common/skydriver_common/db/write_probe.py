"""Whether the database takes writes: a record in its write-ahead log, committed and flushed, without a table.

A server that is read-only, has no room on its disk or stands still answers to reads for a while, or to connections alone.
"""

from collections.abc import Callable

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Pool
from skydriver_common.faults import TryLater

PROBE_INTERVAL_S = 15.0
_TIMEOUT_S = 5.0
_WRITE = """
SELECT CASE WHEN pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' THEN false
            ELSE pg_logical_emit_message(true, 'skydriver.probe', '') IS NOT NULL END
"""


class WriteProbe:
    """Loop step: try a write. on_tried: called with whether it reached the disk."""

    def __init__(self, pool: Pool, *, on_tried: Callable[[bool], None]) -> None:
        self._pool = pool
        self._on_tried = on_tried

    async def step(self) -> bool:
        """Raises TryLater when the database does not respond."""
        try:
            with database_faults():
                writable = bool(await self._pool.fetchval(_WRITE, timeout=_TIMEOUT_S))
        except TryLater:
            self._on_tried(False)
            raise
        self._on_tried(writable)
        return False
