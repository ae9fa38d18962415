"""Hints for the EWMS bridge: which running scans somebody looks at, so that it updates their worker counts more often.

A hint may get lost; nothing waits for it.
"""

import time
from collections import OrderedDict
from contextlib import suppress

from skydriver_api.reads.view_queries import StatusView, ViewQueries
from skydriver_common.db.notifier import VIEWER_HINTS_CHANNEL, Notifier
from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId

HINT_INTERVAL_S = 60.0
"""At most one hint per scan in this time; for the bridge a hint lasts a little longer."""
FRESH_COUNTS_S = 12.0
"""Counts this young need no hint."""
_MAX_REMEMBERED_SCANS = 10_000


class ViewerHints:
    """One per process."""

    def __init__(self, notifier: Notifier, reads: ViewQueries) -> None:
        self._notifier = notifier
        self._reads = reads
        self._hinted_at: OrderedDict[ScanId, float] = OrderedDict()
        self._read_at: OrderedDict[ScanId, float] = OrderedDict()

    def note_view(self, view: StatusView) -> None:
        """Somebody has read this status: send a hint if the counts are old."""
        if view.ewms_as_of is None or view.deactivated or time.time() - view.ewms_as_of < FRESH_COUNTS_S:
            return
        if _is_due(self._hinted_at, view.scan_id):
            self._notifier.notify(VIEWER_HINTS_CHANNEL, view.scan_id)

    async def note_watching(self, scan_id: ScanId) -> None:
        """Somebody watches this scan: read its status now and then, once for all watchers, and ignore an unavailable database."""
        if not _is_due(self._read_at, scan_id):
            return
        with suppress(TryLater):
            view = await self._reads.status(scan_id)
            if view is not None:
                self.note_view(view)


def _is_due(last: OrderedDict[ScanId, float], scan_id: ScanId) -> bool:
    """Whether the last time is long ago; if so, now becomes the last time."""
    now = time.monotonic()
    if now - last.get(scan_id, -HINT_INTERVAL_S) < HINT_INTERVAL_S:
        return False
    last[scan_id] = now
    last.move_to_end(scan_id)
    if len(last) > _MAX_REMEMBERED_SCANS:
        last.popitem(last=False)
    return True
