"""Wake other processes after a commit: many notifications become one NOTIFY.

A NOTIFY inside the deciding transaction would make all commits wait for each other (Postgres holds one lock over the
notification queue until the commit is on disk). Sent afterwards, it costs the decision nothing; one lost in a crash
is made good by the loops' idle time-out.
"""

import asyncio
from collections.abc import Callable

import asyncpg
import structlog

from skydriver_common.db.pool import Connection, Pool
from skydriver_common.faults import TryLater
from skydriver_common.waiting import wait_first

logger = structlog.get_logger(__name__)

LOG_CHANNEL = "skydriver_log"
DUE_CHANNEL = "skydriver_due"
VIEWER_HINTS_CHANNEL = "skydriver_eyes"
"""Somebody looks at the scan that the payload names."""
_GATHER_S = 0.01
"""Between two statements: what is notified meanwhile goes together."""


class Notifier:
    """Notifies channels by NOTIFY, and local callbacks at once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._pending: set[tuple[str, str]] = set()
        self._wake = asyncio.Event()
        self._local: dict[str, list[Callable[[str], None]]] = {}
        self.processes: set[int] = set()
        """Server processes of open connections through which this notifier sends: our own listener ignores what comes from them."""

    def on_notify(self, channel: str, callback: Callable[[str], None]) -> None:
        """Call back in this process without the way through Postgres."""
        self._local.setdefault(channel, []).append(callback)

    def notify(self, channel: str, payload: str = "") -> None:
        """Notify soon; never blocks, never fails."""
        for callback in self._local.get(channel, ()):
            callback(payload)
        self._pending.add((channel, payload))
        self._wake.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Send what is pending, until ``stopping`` is set."""
        while not stopping.is_set():
            await wait_first(stopping.wait(), self._wake.wait())
            self._wake.clear()
            pending, self._pending = self._pending, set()
            if pending:
                await self._send(pending)
                await wait_first(stopping.wait(), asyncio.sleep(_GATHER_S))

    async def _send(self, pending: set[tuple[str, str]]) -> None:
        channels, payloads = zip(*pending, strict=True)
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
