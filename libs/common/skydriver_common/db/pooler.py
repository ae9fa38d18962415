"""Whether a connection pooler between us and the database keeps a session for each connection.

One in transaction mode (PgBouncer's ``pool_mode = transaction``) gives each transaction another session: settings, locks and
prepared statements vanish between two of them, and nobody hears a NOTIFY. Nothing here works that way, so nothing starts.
"""

from typing import Any

import psycopg

from skydriver_common.db.addresses import with_defaults

__all__ = ["SharedSessions", "refuse_shared_sessions", "shares_sessions"]

_LIMIT_S = 10


class SharedSessions(Exception):
    """The text is one line for the operator: what to change."""

    def __init__(self) -> None:
        super().__init__(
            "the connection pooler in front of the database is in transaction mode, which gives no session to a connection:"
            " set pool_mode = session for this database"
        )


def refuse_shared_sessions(database_url: str) -> None:
    """Return when each connection has a session of its own. Blocking. Raises SharedSessions, psycopg.OperationalError."""
    if shares_sessions(database_url):
        raise SharedSessions


def shares_sessions(database_url: str) -> bool:
    """Whether transactions of one connection may run in the sessions of others. Blocking.

    A pooler that shares sessions hands out the one that was returned last, so while ours are the only connections the second is
    given the session of the first; under load the first one, which asks again, is most likely given another than before.
    Raises psycopg.OperationalError when the server cannot be reached.
    """
    with _connect(database_url) as one, _connect(database_url) as two:
        before = _session(one)
        with two.transaction():
            return _session(two) == before or _session(one) != before


def _connect(database_url: str) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(with_defaults(database_url), autocommit=True, connect_timeout=_LIMIT_S, prepare_threshold=None)


def _session(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
    with connection.transaction():
        connection.execute(f"SET LOCAL statement_timeout = '{_LIMIT_S}s'")
        return int(connection.execute("SELECT pg_backend_pid()").fetchall()[0][0])
