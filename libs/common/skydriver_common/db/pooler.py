"""Whether a connection pooler between us and the database keeps a session for each connection.

One in transaction mode (PgBouncer's ``pool_mode = transaction``) gives each transaction another session: settings and prepared
statements vanish between two of them, and nobody hears a NOTIFY. Nothing here works that way, so a service does not start.
"""

from skydriver_common.db.pool import Connection, connect

__all__ = ["shares_sessions"]

_CHECK_LIMIT_S = 10.0


async def shares_sessions(database_url: str, *, name: str) -> bool:
    """Whether transactions of one connection may run in the sessions of others.

    A pooler that shares sessions hands out the one that was returned last, so while ours are the only connections the second is
    given the session of the first; under load the first one, which asks again, is most likely given another than before.
    Raises what asyncpg raises when the server cannot be reached.
    """
    one = await connect(database_url, name=name, command_timeout_s=_CHECK_LIMIT_S)
    try:
        two = await connect(database_url, name=name, command_timeout_s=_CHECK_LIMIT_S)
        try:
            before = await _session(one)
            async with two.transaction():
                if await _session_of_transaction(two) == before:
                    return True
                return await _session(one) != before
        finally:
            await two.close(timeout=2)
    finally:
        await one.close(timeout=2)


async def _session(connection: Connection) -> int:
    async with connection.transaction():  # a statement alone may be prepared in one session and run in another
        return await _session_of_transaction(connection)


async def _session_of_transaction(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT pg_backend_pid()"))
