"""Figures of a process's connections: its pools, and the broker's."""

from aio_pika.abc import AbstractRobustConnection

from skydriver_common.bus.publishing import is_bus_blocked
from skydriver_common.db.pool import Pool
from skydriver_common.runtime.metrics import Metrics


class PoolFigures:
    """The observer of one pool."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._waits = metrics.histogram("skydriver_database_pool_wait_seconds").labels(name)
        self._metrics = metrics

    def waited(self, seconds: float) -> None:
        """See `PoolObserver`."""
        self._waits.observe(seconds)

    def failed(self, sqlstate: str) -> None:
        """See `PoolObserver`."""
        self._metrics.database_error(sqlstate)


def show_pool(metrics: Metrics, pool: Pool, name: str) -> None:
    """Show how many connections the pool has."""
    shown = "skydriver_database_pool_connections"
    metrics.show(shown, pool.get_idle_size, name, "idle")
    metrics.show(shown, lambda: pool.get_size() - pool.get_idle_size(), name, "used")
    metrics.show(shown, pool.get_max_size, name, "max")


def show_bus(metrics: Metrics, bus: AbstractRobustConnection, name: str) -> None:
    """Show whether the connection is open and not blocked, and how often it came back."""
    metrics.show("skydriver_bus_connected", lambda: float(not bus.is_closed and bus.connected.is_set()), name)
    metrics.show("skydriver_bus_blocked", lambda: float(is_bus_blocked(bus)), name)
    reconnects = metrics.counter("skydriver_bus_reconnects").labels(name)
    bus.reconnect_callbacks.add(lambda *_: reconnects.inc(), weak=False)
