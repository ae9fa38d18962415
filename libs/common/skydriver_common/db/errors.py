"""Errors of the database's driver to faults: the only place where they get a meaning."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import structlog

from skydriver_common.db.sqlstates import Meaning, meaning_of
from skydriver_common.faults import TryLater

__all__ = ["database_faults", "fault_of"]

logger = structlog.get_logger(__name__)


def fault_of(error: BaseException) -> TryLater | None:
    """Return what an error of the driver means for the work in hand: TryLater, however it came about, if waiting is right.

    None: the work's own data are to blame, or it is no error of the driver. A defect of ours is logged with its traceback, so
    call this where the error was caught.
    """
    if isinstance(error, asyncpg.PostgresError):
        found = meaning_of(error.sqlstate)
        if found.meaning is Meaning.DATA:
            return None
        if found.meaning is Meaning.DEFECT:
            logger.error("database.defect", sqlstate=error.sqlstate, exc_info=error)
            return TryLater(f"the database fails (SQLSTATE {error.sqlstate})", found.pause_s)
        return TryLater("the database is busy or unavailable", found.pause_s)
    # ValueError as well: values that the driver can't encode, which never reach the server
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError) and not isinstance(error, ValueError):
        return TryLater("the database is unreachable", 1.0)
    return None


@contextmanager
def database_faults() -> Iterator[None]:
    """Turn trouble of the database into TryLater; leave what data are to blame for, and bugs, as they are."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        fault = fault_of(error)
        if fault is None:
            raise
        raise fault from error
    except (OSError, TimeoutError) as error:
        raise TryLater("the database is unreachable", 1.0) from error
