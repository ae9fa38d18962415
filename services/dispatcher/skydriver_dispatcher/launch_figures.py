"""Figures of the throttle, for metrics: what holds back the scans that are not urgent."""

from skydriver_common.db.pool import Pool
from skydriver_common.runtime.metrics import Metrics
from skydriver_dispatcher import store

FIGURES_INTERVAL_S = 15.0


class LaunchFigures:
    """Loop step: read the throttle and show it."""

    def __init__(self, pool: Pool, metrics: Metrics) -> None:
        self._pool = pool
        self._metrics = metrics

    async def step(self) -> bool:
        """Raises TryLater when the database is unavailable."""
        for reason, holds_now in (await store.launch_holds(self._pool)).items():
            self._metrics.gauge("skydriver_launches_held").labels(reason).set(float(holds_now))
        return False
