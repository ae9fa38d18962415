"""A log that was written on another database server must not go on here: the order of its events would break.

Events are published in the order of the server's transaction ids. A server that has not come to the ids in the log (the log was
restored from a dump) would place new events before those that are published already, and they would never be published.
"""

from skydriver_common.db.pool import Connection
from skydriver_common.faults import TryLater
from skydriver_common.log.pending_writes import sql

__all__ = ["LogOfAnotherServer", "refuse_log_of_another_server"]


class LogOfAnotherServer(TryLater):
    """Nothing may be written or published until operators have mended it: docs/operators/limits.md says how."""

    def __init__(self) -> None:
        super().__init__(
            "the event log comes from another database server (restored with pg_dump?); nothing is published, see docs/operators/limits.md",
            2.0,
        )


async def refuse_log_of_another_server(connection: Connection) -> None:
    """Look once, over an index. Raises LogOfAnotherServer, and what asyncpg raises."""
    if await sql.is_ahead_of_the_server(connection):
        raise LogOfAnotherServer
