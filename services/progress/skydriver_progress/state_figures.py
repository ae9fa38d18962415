"""Figures of the whole system, for metrics: what waits, in which state scans are, how the queues and the database stand.

Every replica reads them: they cost little, and nobody has to be elected. Whoever adds them up takes one replica's (``max by``).
"""

from collections.abc import Mapping

from aio_pika.abc import AbstractRobustConnection
from aiormq.abc import AbstractChannel
from aiormq.exceptions import ChannelNotFoundEntity

from skydriver_common.bus import topology
from skydriver_common.bus.errors import broker_faults
from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Pool, fetch, load_statements
from skydriver_common.faults import TryLater
from skydriver_common.model.commands import COMMAND_TYPES
from skydriver_common.model.priorities import URGENT_PRIORITY
from skydriver_common.runtime.metrics import Metrics

_sql = load_statements("skydriver_progress", "state_figures.sql")

STATE_INTERVAL_S = 30.0
QUEUES = (
    *(topology.command_queue(key).name for key in COMMAND_TYPES),
    *(topology.event_queue(who, event.type).name for who, events in topology.EVENT_CONSUMERS.items() for event in events),
    *(topology.scanner_queue(kind).name for kind in topology.SCANNER_KINDS),
)
"""Queues of the services: all that are shown."""


class StateFigures:
    """Loop step: read everything and show it."""

    def __init__(self, pool: Pool, bus: AbstractRobustConnection, metrics: Metrics) -> None:
        self._pool = pool
        self._bus = bus
        self._metrics = metrics

    async def step(self) -> bool:
        """Raises TryLater when the database or the broker is unavailable; what was last known of it is shown no longer."""
        for show, names in ((self._show_database, _OF_THE_DATABASE), (self._show_queues, _OF_THE_QUEUES)):
            try:
                await show()
            except TryLater:
                for name in names:  # a figure that nobody can read is absent, not old
                    self._metrics.replace(name, {})
                raise
        return False

    async def _show_database(self) -> None:
        with database_faults():
            for name, statement, label in (
                ("skydriver_scans", "scans", "state"),
                ("skydriver_scan_problems", "scan_problems", "code"),
                ("skydriver_database_table_bytes", "tables", "name"),
            ):
                rows = await fetch(_sql, statement, self._pool)
                self._metrics.replace(name, {(str(row[label]),): row["figure"] for row in rows})
            backlog = {row["urgency"]: row for row in await fetch(_sql, "backlog", self._pool, urgent=URGENT_PRIORITY)}
            due = await fetch(_sql, "due_work", self._pool)
            unpublished = await _sql.unpublished(self._pool)
            server = await _sql.server(self._pool)
        for urgency in ("urgent", "normal"):
            row: Mapping[str, float] = dict(backlog.get(urgency, {}))
            self._metrics.gauge("skydriver_backlog_scans").labels(urgency).set(row.get("figure", 0))
            self._metrics.gauge("skydriver_backlog_oldest_age_seconds").labels(urgency).set(row.get("oldest_s", 0.0))
        self._metrics.replace("skydriver_due_work", {(row["kind"],): row["figure"] for row in due})
        self._metrics.replace("skydriver_due_work_overdue_seconds", {(row["kind"],): row["overdue_s"] or 0.0 for row in due})
        self._metrics.gauge("skydriver_relay_unpublished_events").set(unpublished["figure"])
        self._metrics.replace("skydriver_database_connections", {("used",): server["used"], ("max",): server["most"]})
        self._metrics.gauge("skydriver_database_oldest_transaction_seconds").set(server["oldest_transaction_s"])

    async def _show_queues(self) -> None:
        found: dict[str, tuple[int, int]] = {}
        waiting = [*QUEUES, topology.DEAD_LETTER_QUEUE]
        while waiting:
            with broker_faults():
                async with self._bus.channel(publisher_confirms=False) as channel:
                    await _look(await channel.get_underlay_channel(), waiting, found)
        dead = found.pop(topology.DEAD_LETTER_QUEUE, None)
        self._metrics.replace("skydriver_queue_messages", {(name,): messages for name, (messages, _) in found.items()})
        self._metrics.replace("skydriver_queue_consumers", {(name,): consumers for name, (_, consumers) in found.items()})
        if dead is not None:
            self._metrics.gauge("skydriver_dead_letters").set(dead[0])


async def _look(channel: AbstractChannel, waiting: list[str], found: dict[str, tuple[int, int]]) -> None:
    """Take queues from the end of those that wait; return early when one is not there, since that closes the channel."""
    while waiting:
        name = waiting.pop()
        try:
            declared = await channel.queue_declare(name, passive=True, timeout=5)
        except ChannelNotFoundEntity:
            return
        found[name] = (declared.message_count or 0, declared.consumer_count or 0)


_OF_THE_DATABASE = (
    "skydriver_scans", "skydriver_scan_problems", "skydriver_database_table_bytes", "skydriver_backlog_scans",
    "skydriver_backlog_oldest_age_seconds", "skydriver_due_work", "skydriver_due_work_overdue_seconds",
    "skydriver_database_connections",
)  # fmt: skip
_OF_THE_QUEUES = ("skydriver_queue_messages", "skydriver_queue_consumers")
