"""Loop step: running scans that nobody watches for silence, since the event of their launch was lost, are watched again."""

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Pool, load_statements
from skydriver_progress.silence import SilenceWatch

_sql = load_statements("skydriver_progress", "silence_reconciler.sql")

LOOP_NAME = "silence-reconcile"
INTERVAL_S = 300.0
_PAGE_SIZE = 200


class SilenceReconciler:
    """Finds scans for a `SilenceWatch`."""

    def __init__(self, pool: Pool, silence: SilenceWatch) -> None:
        self._pool = pool
        self._silence = silence

    async def step(self) -> bool:
        """Schedule the checks of the next scans that lack one. Raises TryLater."""
        with database_faults():
            scan_ids = [row["scan_id"] async for row in _sql.find_unwatched_scans(self._pool, page_size=_PAGE_SIZE)]
        for scan_id in scan_ids:
            await self._silence.schedule_silence_check(scan_id)
        return len(scan_ids) == _PAGE_SIZE
