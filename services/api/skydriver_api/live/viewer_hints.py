"""Tells the bridge which running scans somebody looks at, so that it asks for their workers more often. A hint, never waited for."""

import time
from collections import OrderedDict
from contextlib import suppress

from skydriver_api.reads.view_queries import StatusView, ViewQueries
from skydriver_common.db.notifier import VIEWER_HINTS_CHANNEL, Notifier
from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId

AGAIN_S = 60.0
"""A look is told at most this often per scan; the bridge takes it to last a little longer."""
FRESH_S = 12.0
"""Knowledge this young is asked for often enough."""
_MOST = 10_000


class ViewerHints:
    """One per process."""

    def __init__(self, bell: Notifier, reads: ViewQueries) -> None:
        self._bell = bell
        self._reads = reads
        self._told: OrderedDict[ScanId, float] = OrderedDict()
        self._looked: OrderedDict[ScanId, float] = OrderedDict()

    def on(self, view: StatusView) -> None:
        """Somebody has read this."""
        if view.ewms_as_of is None or view.deactivated or time.time() - view.ewms_as_of < FRESH_S:
            return
        if _is_due(self._told, view.scan_id):
            self._bell.ring(VIEWER_HINTS_CHANNEL, view.scan_id)

    async def stay_on(self, scan_id: ScanId) -> None:
        """Somebody keeps watching this scan: one look in a while, however many watch it. A silent database is no matter."""
        if not _is_due(self._looked, scan_id):
            return
        with suppress(TryLater):
            view = await self._reads.status(scan_id)
            if view is not None:
                self.on(view)


def _is_due(last: OrderedDict[ScanId, float], scan_id: ScanId) -> bool:
    """Whether the last time is long ago; it is noted as now then."""
    now = time.monotonic()
    if now - last.get(scan_id, -AGAIN_S) < AGAIN_S:
        return False
    last[scan_id] = now
    last.move_to_end(scan_id)
    if len(last) > _MOST:
        last.popitem(last=False)
    return True
