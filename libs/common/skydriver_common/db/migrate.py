"""Bring a database to this release's schema: ``migrations/NNNN_<owner>_<what>.sql`` in order, under an advisory lock."""

from importlib import resources
from urllib.parse import urlsplit

import psycopg
from yoyo import get_backend, read_migrations

Unreachable = psycopg.OperationalError
"""Raised when the server can't be reached."""

_LOCK_KEY = 7_311_001  # arbitrary, but the same for every process that migrates


class SchemaTooNew(Exception):
    """The database was made by a newer release."""


def migrate(database_url: str) -> list[str]:
    """Apply what is missing and return the names applied. Blocking; safe to run from many processes at once.

    Raises SchemaTooNew when the database knows migrations that this release does not.
    """
    with psycopg.connect(database_url, autocommit=True, connect_timeout=10) as guard:
        guard.execute("SELECT pg_advisory_lock(%s)", (_LOCK_KEY,))
        backend = get_backend(_with_driver(database_url))
        try:
            backend.break_lock()  # left by a process that died: we hold the advisory lock, so nobody is in there
            known = read_migrations(str(resources.files("skydriver_common.db") / "migrations"))
            strangers = {row[0] for row in _applied(guard)} - {migration.id for migration in known}
            if strangers:
                raise SchemaTooNew(
                    f"the database has the migration {max(strangers)}, which this release does not know: upgrade first"
                )
            missing = backend.to_apply(known)
            backend.apply_migrations(missing)
            return [migration.id for migration in missing]
        finally:
            backend.connection.close()


def check(database_url: str) -> list[str]:
    """The names of migrations that the database still lacks. Raises SchemaTooNew."""
    with psycopg.connect(database_url, autocommit=True, connect_timeout=10) as connection:
        applied = {row[0] for row in _applied(connection)}
    known = {m.id for m in read_migrations(str(resources.files("skydriver_common.db") / "migrations"))}
    if applied - known:
        raise SchemaTooNew(f"the database has the migration {max(applied - known)}, which this release does not know")
    return sorted(known - applied)


def _applied(connection: psycopg.Connection[tuple[object, ...]]) -> list[tuple[str]]:
    there = connection.execute("SELECT to_regclass('_yoyo_migration') IS NOT NULL").fetchone()
    if not there or not there[0]:
        return []
    return [(str(row[0]),) for row in connection.execute("SELECT migration_id FROM _yoyo_migration").fetchall()]


def _with_driver(database_url: str) -> str:
    return urlsplit(database_url)._replace(scheme="postgresql+psycopg").geturl()
