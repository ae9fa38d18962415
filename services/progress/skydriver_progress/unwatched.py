"""Loop step: running scans whose silence nobody watches, since the delivery of their launch was lost, are watched again."""

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Pool, load_statements
from skydriver_progress.silence import SilenceWatch

_sql = load_statements("skydriver_progress", "unwatched.sql")

RECONCILE = "silence-reconcile"
"""The name of the loop."""
INTERVAL_S = 300.0
_PAGE = 200


class Unwatched:
    """Finds scans for a `SilenceWatch`."""

    def __init__(self, pool: Pool, silence: SilenceWatch) -> None:
        self._pool = pool
        self._silence = silence

    async def step(self) -> bool:
        """Begin the watch over the next scans that lack it. Raises TryLater."""
        with database_faults():
            scan_ids = [row["scan_id"] async for row in _sql.unwatched(self._pool, most=_PAGE)]
        for scan_id in scan_ids:
            await self._silence.schedule_silence_check(scan_id)
        return len(scan_ids) == _PAGE
