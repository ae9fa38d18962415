"""The dispatcher's own questions to the database."""

from datetime import datetime, timedelta

from skydriver_common.db.pool import Connection, Pool, load_statements
from skydriver_common.db.translate import database_faults

_sql = load_statements("skydriver_dispatcher", "dispatcher.sql")
_LOW_PRIORITY = "low-priority-launches"


async def digest_of_event(connection: Connection, i3_event_id: str) -> str | None:
    """The blob of a stored i3 event, or None."""
    digest: str | None = await _sql.digest_of_event(connection, i3_event_id=i3_event_id)
    return digest


async def request_holder(pool: Pool, scan_id: str) -> str | None:
    """The scan whose request this scan was made from, or None when the scan is unknown. Raises TryLater."""
    with database_faults():
        holder: str | None = await _sql.request_holder(pool, scan_id=scan_id)
    return holder


async def should_run(pool: Pool) -> set[str]:
    """Ids of launched scans that are neither deleted nor complete. Raises TryLater."""
    with database_faults():
        return {row["scan_id"] async for row in _sql.should_run(pool)}


async def throttle_opens_at(pool: Pool) -> datetime | None:
    """When the next low-priority scan may be launched; None: at once. Raises TryLater."""
    with database_faults():
        opens: datetime | None = await _sql.throttle_opens_at(pool, name=_LOW_PRIORITY)
    return opens


async def pass_throttle(pool: Pool, *, now: datetime, interval: timedelta) -> bool:
    """Take the slot of low-priority launches; False when another replica was faster. Raises TryLater."""
    with database_faults():
        return bool(await _sql.pass_throttle(pool, name=_LOW_PRIORITY, now=now, next_at=now + interval))
