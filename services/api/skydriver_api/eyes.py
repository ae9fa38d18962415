"""Tells the bridge which running scans somebody looks at, so that it asks for their workers more often. A hint, never waited for."""

import time
from collections import OrderedDict

from skydriver_api.reads import StatusView
from skydriver_common.db.bell import EYES_CHANNEL, Bell

AGAIN_S = 60.0
"""A look is told at most this often per scan; the bridge takes it to last a little longer."""
FRESH_S = 12.0
"""Knowledge this young is asked for often enough."""
_MOST = 10_000


class Eyes:
    """One per process."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._told: OrderedDict[str, float] = OrderedDict()

    def on(self, view: StatusView) -> None:
        """Somebody has read this."""
        if view.ewms_as_of is None or view.deactivated or time.time() - view.ewms_as_of < FRESH_S:
            return
        now = time.monotonic()
        if now - self._told.get(view.scan_id, -AGAIN_S) < AGAIN_S:
            return
        self._told[view.scan_id] = now
        self._told.move_to_end(view.scan_id)
        if len(self._told) > _MOST:
            self._told.popitem(last=False)
        self._bell.ring(EYES_CHANNEL, view.scan_id)
