"""Whether all that scanners sent up to some time has been handled: noted by progress, asked by those who judge what is missing.

The broker's queues are first in, first out. So when they are short and flow for a while after a time, on all replicas, then what was
sent before it has been decided on. Times are the database's.
"""

from datetime import datetime

from skydriver_common.db.pool import Connection, Pool, load_statements

_sql = load_statements("skydriver_common.db", "heard.sql")

LOOKS_EVERY_S = 5.0
_CONTIGUOUS_S = 30.0
"""Between two looks there was an outage if they are farther apart."""
_SETTLES_S = 60.0
"""By then what waited in a short queue that flows has been handled, and what another replica held at its death has come back."""
_GONE_AFTER_S = 180.0
"""By then the broker has closed the connection of a replica that stands still, and what it held waits in the queue again."""


async def note_heard(pool: Pool | Connection, replica: str, *, is_clear: bool) -> None:
    """Note that all queues of scanners are short and flow, as this replica sees it; or that they don't. Raises what asyncpg raises."""
    await _sql.note_heard(pool, replica=replica, is_clear=is_clear, contiguous_s=_CONTIGUOUS_S)


async def is_all_heard(pool: Pool | Connection, since: datetime, *, settles_s: float = _SETTLES_S) -> bool:
    """Whether what scanners had sent by then (a time of the database) has been decided on, by whichever replica.

    False while no progress service runs, or one does not say. So who waits for it waits for as long as nobody listens, and a minute
    at least: ask it only of what is missing. Raises what asyncpg raises.
    """
    return bool(
        await _sql.is_all_heard(pool, since=since, settles_s=settles_s, contiguous_s=_CONTIGUOUS_S, gone_after_s=_GONE_AFTER_S)
    )
