"""SQLSTATEs and lost connections to faults: the only place where driver errors get a meaning."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from skydriver_common.faults import TryLater

_PASSING = {"08": 1.0, "40": 0.05, "53": 2.0, "57": 1.0}
"""SQLSTATE class to the pause in seconds before another try: connection, rollback, resources, operator intervention."""


@contextmanager
def database_faults() -> Iterator[None]:
    """Turn passing database trouble into TryLater; leave constraint violations and bugs as they are."""
    try:
        yield
    except asyncpg.PostgresError as error:
        pause_s = _PASSING.get((error.sqlstate or "")[:2])
        if pause_s is None:
            raise
        raise TryLater("the database is busy or away", pause_s) from error
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise TryLater("the database can't be reached", 1.0) from error
