"""A scan as it was after a version, or at a moment: folded from its history."""

from datetime import datetime

from skydriver_common.db.pool import Connection, Pool
from skydriver_common.log.read import history
from skydriver_common.model import events as ev
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan, evolve

_PAGE = 1000


async def state_at(
    connection: Pool | Connection, scan_id: ScanId, *, version: int | None = None, moment: datetime | None = None
) -> Scan | None:
    """The scan after this version, or as of this moment (inclusive); None when it did not exist then. Raises TryLater."""
    scan: Scan | None = None
    if scan_id == ev.SYSTEM_CHAIN:
        return None
    while True:
        count = 0
        async for logged in history(connection, scan_id, after=scan.version if scan else 0, most=_PAGE):
            if (version is not None and logged.version > version) or (moment is not None and logged.recorded_at > moment):
                return scan
            scan = evolve(scan, logged.event, scan_id=scan_id, recorded_at=logged.recorded_at.timestamp())
            count += 1
        if count < _PAGE:
            return scan
