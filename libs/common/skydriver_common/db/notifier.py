"""Wake other processes after a commit: many rings become one NOTIFY.

A NOTIFY inside the deciding transaction would make all commits wait for each other (Postgres holds one lock over the
notification queue until the commit is on disk). Rung afterwards, it costs the decision nothing; a ring lost in a crash
is made good by the loops' idle time-out.
"""

import asyncio
from collections.abc import Callable

import asyncpg
import structlog

from skydriver_common.db.pool import Connection, Pool, first
from skydriver_common.faults import TryLater

logger = structlog.get_logger(__name__)

LOG_CHANNEL = "skydriver_log"
DUE_CHANNEL = "skydriver_due"
VIEWER_HINTS_CHANNEL = "skydriver_eyes"
"""Somebody looks at the scan that the payload names."""
_GATHER_S = 0.01
"""Between two notifications: what is rung meanwhile goes together."""


class Notifier:
    """Rings channels by NOTIFY, and local callbacks at once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._rung: set[tuple[str, str]] = set()
        self._wake = asyncio.Event()
        self._local: dict[str, list[Callable[[str], None]]] = {}
        self.processes: set[int] = set()
        """Server processes of open connections through which this bell has rung: our own listener need not hear them."""

    def on_ring(self, channel: str, callback: Callable[[str], None]) -> None:
        """Call back in this process without the way through Postgres."""
        self._local.setdefault(channel, []).append(callback)

    def ring(self, channel: str, payload: str = "") -> None:
        """Ring soon; never blocks, never fails."""
        for callback in self._local.get(channel, ()):
            callback(payload)
        self._rung.add((channel, payload))
        self._wake.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Send what was rung, until ``stopping`` is set."""
        while not stopping.is_set():
            await first(stopping.wait(), self._wake.wait())
            self._wake.clear()
            rung, self._rung = self._rung, set()
            if rung:
                await self._notify(rung)
                await first(stopping.wait(), asyncio.sleep(_GATHER_S))

    async def _notify(self, rung: set[tuple[str, str]]) -> None:
        channels, payloads = zip(*rung, strict=True)
        try:
            # nothing of value is written: no need to wait for the disk
            async with self._pool.acquire() as connection:
                self._know(connection)
                await connection.execute(
                    "WITH fast AS (SELECT set_config('synchronous_commit', 'off', true))"
                    " SELECT pg_notify(c, p) FROM fast, unnest($1::text[], $2::text[]) AS waiting (c, p)",
                    list(channels),
                    list(payloads),
                )
        except (TryLater, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            logger.warning("notify.failed", error=type(error).__name__)

    def _know(self, connection: Connection) -> None:
        """Remember whose notifications are our own, as long as the connection is open: the number may be another's after that."""
        process = connection.get_server_pid()
        if process not in self.processes:
            self.processes.add(process)
            connection.add_termination_listener(lambda _: self.processes.discard(process))
