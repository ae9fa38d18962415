"""Facts that belong to no scan: a history of their own in the log, chained like a scan's, folded into no view.

One writer at a time appends to it, by a transaction's advisory lock: it is for rare facts, not for a stream of them. The lock
comes before anything that gives the transaction its id (``lock``): so readers, who go by these ids, see the facts in order.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from skydriver_common.db.errors import database_faults
from skydriver_common.db.notifier import LOG_CHANNEL, Notifier
from skydriver_common.db.pool import Connection, Pool
from skydriver_common.log.unit_of_work import EventNotOwned, chained, sql
from skydriver_common.model import event_codec
from skydriver_common.model.commands import Context
from skydriver_common.model.events import EVENT_OWNERS, SYSTEM_CHAIN, SystemEvent

_COLUMNS = (
    "event_id", "scan_id", "version", "type", "schema_version", "recorded_at", "actor", "command_id", "correlation_id", "data",
    "prev_hash", "hash",
)  # fmt: skip


async def record(pool: Pool, notifier: Notifier, writer: str, context: Context, *events: SystemEvent) -> bool:
    """Append these facts unless this command id has recorded its own before; whether they are new. Raises TryLater, EventNotOwned."""
    with database_faults():
        async with pool.acquire() as connection, connection.transaction():
            await lock(connection)
            is_new: bool = await sql.claim_command(connection, command_id=context.command_id, fingerprint=context.fingerprint)
            if is_new:
                await append(connection, writer, context, events)
    notifier.notify(LOG_CHANNEL)
    return is_new


async def lock(connection: Connection) -> None:
    """Begin a transaction that will append: before its first other statement. Others who append wait until it ends."""
    await sql.lock_system_log(connection)


async def append(connection: Connection, writer: str, context: Context, events: Sequence[SystemEvent]) -> None:
    """Append within the caller's transaction, which has begun with ``lock``.

    The caller notifies after its commit. Raises EventNotOwned, and what the driver raises.
    """
    await lock(connection)  # again, for one who forgot: the chain must hold
    head = await sql.system_head(connection)  # a statement of its own: it must see what the lock has waited for
    version, head_hash = (head["version"], head["hash"]) if head else (0, event_codec.GENESIS)
    now = datetime.now(UTC)
    rows = []
    for event in events:
        if event.type not in EVENT_OWNERS[writer] or not isinstance(event, SystemEvent):
            raise EventNotOwned(f"{writer} may not append {event.type} to the system's history")
        version += 1
        row = chained(event, scan_id=SYSTEM_CHAIN, version=version, prev_hash=head_hash, now=now, context=context)
        head_hash = row[-1]
        rows.append(dict(zip(_COLUMNS, row, strict=True)))
    await sql.append_events(connection, rows)
