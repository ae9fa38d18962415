"""Figures of EWMS as the bridge sees it, for metrics: is it there, and how old is what is known of its workers."""

from skydriver_common.db.pool import Pool
from skydriver_common.runtime.metrics import Metrics
from skydriver_ewms_bridge import store
from skydriver_ewms_bridge.breaker import Breaker


class EwmsFigures:
    """Loop step: record that the bridge works, read both and show them."""

    def __init__(self, pool: Pool, breaker: Breaker, metrics: Metrics) -> None:
        self._pool = pool
        self._breaker = breaker
        self._open = metrics.gauge("skydriver_ewms_breaker_open")
        self._oldest = metrics.gauge("skydriver_ewms_oldest_knowledge_seconds")

    async def step(self) -> bool:
        """Raises TryLater when the database is unavailable."""
        await self._breaker.beat()
        outage = await self._breaker.outage()
        self._open.set(float(outage is not None and outage.remaining_open_s is not None))
        self._oldest.set(await store.oldest_knowledge_s(self._pool))
        return False
