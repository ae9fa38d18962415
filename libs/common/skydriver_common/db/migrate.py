"""Bring a database to this release's schema: ``migrations/NNNN_<owner>_<what>.sql`` in order, each once.

A migration and the mark that it was applied are one transaction. One that has a ``CONCURRENTLY`` step can't be: it is that one
statement, begun anew when it was cut off. No step waits long for a lock, since everybody else waits behind it; what can't get its
lock gives way and comes again. Rules for new migrations stand in ``docs/developers/database-and-migrations.md``.

Marks lie in ``schema_migrations``. The release that used yoyo reads ``_yoyo_migration`` and refuses a database in which that table
names a migration it does not know; so only the migrations of that time are marked there, and it goes on beside newer ones.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib import resources
from typing import Any

import psycopg
from psycopg import errors, sql

from skydriver_common.backoff import Backoff
from skydriver_common.db.addresses import with_defaults
from skydriver_common.db.pooler import refuse_shared_sessions

Unreachable = psycopg.OperationalError
"""Raised when the server can't be reached, or takes no writes."""

_LOCK_KEY = 7_311_001  # arbitrary, but the same for every process that migrates
_LOCK_LIMIT_S = 1.2
"""Just above Postgres' ``deadlock_timeout`` of a second: an autovacuum that is in the way is asked to go after that time."""
_CONCURRENT_LIMIT_S = 1800.0
"""A concurrent step waits for every transaction that is older than it, and stops neither readers nor writers meanwhile."""
_LOCK_RETRY_FOR_S = 600.0
_RETRY = Backoff(first_s=0.2, cap_s=10.0)
_LAST_OF_YOYO = "0076_dispatcher_one_throttle"
_READERS = ("skydriver_writer", "skydriver_api")
"""Roles whose services look at the marks when they start."""
_RETRYABLE = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)
_ALREADY_EXISTS = (errors.DuplicateTable, errors.DuplicateObject, errors.DuplicateFunction, errors.DuplicateColumn)
_MARKS = """
SET LOCAL client_min_messages = warning;  -- nobody needs to hear that they are there
CREATE TABLE IF NOT EXISTS _yoyo_migration (
    migration_hash varchar(64) PRIMARY KEY, migration_id varchar(255), applied_at_utc timestamp
);
CREATE TABLE IF NOT EXISTS _yoyo_log (
    id varchar(36) PRIMARY KEY, migration_hash varchar(64), migration_id varchar(255), operation varchar(10), username varchar(255),
    hostname varchar(255), comment varchar(255), created_at_utc timestamp
);
CREATE TABLE IF NOT EXISTS _yoyo_version (version integer PRIMARY KEY, installed_at_utc timestamp);
INSERT INTO _yoyo_version VALUES (2, timezone('UTC', clock_timestamp())) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS schema_migrations (
    name       text COLLATE "C" CONSTRAINT schema_migrations_pkey PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    needs      text
);
COMMENT ON TABLE schema_migrations IS 'Applied migrations; needs: the one that a program must know to work here since then';
"""

_NEEDS = re.compile(r"^-- needs: (\S+)\s*$", re.MULTILINE)
_COMMENT = re.compile(r"--[^\n]*")
_CONCURRENTLY = re.compile(
    r"CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?(\w+)\s+ON\b[^;]*;?$", re.IGNORECASE
)
_DROP_CONCURRENTLY = re.compile(r"DROP\s+INDEX\s+CONCURRENTLY\s+IF\s+EXISTS\s+(\w+)\s*;?\s*", re.IGNORECASE)
_CREATES = re.compile(r"^CREATE (?:TABLE|(?:UNIQUE )?INDEX) (\w+)", re.MULTILINE)

Say = Callable[[str], None]
"""Called with a line for the one who waits."""

Connection = psycopg.Connection[tuple[Any, ...]]


class SchemaTooNew(Exception):
    """The database was made by a release so much newer that this one can't work on it."""


class HalfDone(Exception):
    """Something of a migration is there that was never marked as applied, and can't be told from somebody else's."""


class MigrationRejected(Exception):
    """The database refused a step; nothing of it has happened."""


class Busy(Exception):
    """A migration did not get its lock, or another process has been migrating for too long. Nothing of it has happened."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. needs: the migration that a program must know to work on the schema after this one; None: any may go on."""

    name: str
    text: str

    @property
    def needs(self) -> str | None:
        """The name behind ``-- needs:``, for what takes away something that older programs use."""
        found = _NEEDS.search(self.text)
        return found[1] if found else None

    @property
    def statements(self) -> str:
        """The text without its comments."""
        return _COMMENT.sub("", self.text)

    @property
    def is_concurrent(self) -> bool:
        """Whether it is a single step outside a transaction."""
        return "CONCURRENTLY" in self.statements.upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """How a database stands to this release. missing: what it lacks; newer: what it has and this release does not know."""

    missing: tuple[str, ...]
    newer: tuple[str, ...]


def known_migrations() -> list[Migration]:
    """The migrations of this release, in order."""
    folder = resources.files("skydriver_common.db") / "migrations"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [Migration(file.name.removesuffix(".sql"), file.read_text()) for file in files]


def migrate(
    database_url: str,
    *,
    migrations: Sequence[Migration] | None = None,
    lock_timeout_s: float = _LOCK_RETRY_FOR_S,
    say: Say = lambda _: None,
) -> list[str]:
    """Apply what is missing and return the names applied. Blocking; safe to run from many processes at once.

    migrations: other ones than this release's, for tests. patience_s: how long a step is tried again for its lock.
    Raises SchemaTooNew, HalfDone, Busy, MigrationRejected, SharedSessions, Unreachable.
    """
    refuse_shared_sessions(database_url)  # the lock that keeps two from migrating at once belongs to a session
    wanted = known_migrations() if migrations is None else list(migrations)
    with psycopg.connect(with_defaults(database_url), autocommit=True, connect_timeout=10) as connection:
        connection.execute("SELECT set_config('statement_timeout', '0', false)")
        _limit_locks(connection, _LOCK_LIMIT_S)
        patience = _LockRetry(connection, lock_timeout_s, say)
        with _alone(connection, patience):
            patience.keep_trying("the tables of marks", lambda: _make_marks(connection))
            schema = _compared(_marks(connection), wanted)
            missing = [migration for migration in wanted if migration.name in schema.missing]
            for migration in missing:
                say(f"applying {migration.name}")
                patience.keep_trying(f"the migration {migration.name}", partial(_apply, connection, migration))
    return [migration.name for migration in missing]


def compare_schema(database_url: str) -> Schema:
    """How the database stands to this release. Raises SchemaTooNew, SharedSessions, Unreachable."""
    refuse_shared_sessions(database_url)
    with psycopg.connect(with_defaults(database_url), autocommit=True, connect_timeout=10) as connection:
        return _compared(_marks(connection), known_migrations())


def check(database_url: str) -> list[str]:
    """The names of migrations that the database still lacks. Raises SchemaTooNew, SharedSessions, Unreachable."""
    return list(compare_schema(database_url).missing)


@dataclass(slots=True)
class _Marks:
    """Names of applied migrations to what each needs. of_yoyo: those marked where the release with yoyo looks."""

    needs: Mapping[str, str | None]
    of_yoyo: frozenset[str]


def _marks(connection: Connection) -> _Marks:
    yoyo, ours = connection.execute(
        "SELECT to_regclass('_yoyo_migration') IS NOT NULL, to_regclass('schema_migrations') IS NOT NULL"
    ).fetchall()[0]
    of_yoyo = [str(row[0]) for row in connection.execute("SELECT migration_id FROM _yoyo_migration")] if yoyo else []
    needs = dict.fromkeys(of_yoyo)
    if ours:
        needs |= dict(connection.execute("SELECT name, needs FROM schema_migrations").fetchall())
    return _Marks(needs, frozenset(of_yoyo))


def _compared(marks: _Marks, wanted: Sequence[Migration]) -> Schema:
    """Raises SchemaTooNew when a newer release has taken away what this one uses."""
    names = {migration.name for migration in wanted}
    newer = sorted(marks.needs.keys() - names)
    for name in newer:
        needed = marks.needs[name]
        if name in marks.of_yoyo if needed is None else needed not in names:
            raise SchemaTooNew(
                f"the database has the migration {name} of a newer release, and what this release uses is gone there"
            )
    return Schema(missing=tuple(name for name in sorted(names) if name not in marks.needs), newer=tuple(newer))


def _make_marks(connection: Connection) -> None:
    """Ours, and those of yoyo as it makes them itself."""
    with connection.transaction():
        connection.execute(_MARKS.encode())
        present = connection.execute(
            """SELECT rolname FROM pg_roles
                WHERE rolname = ANY(%s) AND NOT has_table_privilege(rolname, 'schema_migrations', 'SELECT')""",
            (list(_READERS),),
        )
        for (role,) in present.fetchall():
            connection.execute(sql.SQL("GRANT SELECT ON schema_migrations, _yoyo_migration TO {}").format(sql.Identifier(role)))


def _mark(connection: Connection, migration: Migration) -> None:
    if migration.name <= _LAST_OF_YOYO or migration.needs is not None:
        connection.execute(
            """INSERT INTO _yoyo_migration (migration_hash, migration_id, applied_at_utc)
               VALUES (%s, %s, timezone('UTC', clock_timestamp()))""",
            (sha256(migration.name.encode()).hexdigest(), migration.name),
        )
    if migration.name > _LAST_OF_YOYO:
        connection.execute("INSERT INTO schema_migrations (name, needs) VALUES (%s, %s)", (migration.name, migration.needs))


def _apply(connection: Connection, migration: Migration) -> None:
    """Raises HalfDone, _TO_BE_TRIED_AGAIN, what the database raises."""
    if migration.is_concurrent:
        _apply_concurrently(connection, migration)
        return
    try:
        with connection.transaction():
            connection.execute(migration.text.encode())
            _mark(connection, migration)
    except _ALREADY_EXISTS as error:
        if migration.name > _LAST_OF_YOYO or not _is_all_there(connection, migration):
            raise HalfDone(
                f"the migration {migration.name} is not marked as applied, but something of it is there: "
                f"{str(error).splitlines()[0]}"
            ) from error
        # the release with yoyo committed the steps and could not mark them
        with connection.transaction():
            _mark(connection, migration)


def _is_all_there(connection: Connection, migration: Migration) -> bool:
    """Whether everything that the migration makes is there under its name."""
    made = list(_CREATES.findall(migration.statements))
    missing = connection.execute("SELECT count(*) FROM unnest(%s::text[]) AS made WHERE to_regclass(made) IS NULL", (made,))
    return bool(made) and missing.fetchall()[0][0] == 0


def _apply_concurrently(connection: Connection, migration: Migration) -> None:
    """The one step, and then its mark. An index that a former try left invalid is dropped; one that is valid lacks only its mark."""
    text = migration.statements.strip()
    drops, creates = _DROP_CONCURRENTLY.match(text), None
    if drops is None or drops.end() < len(text):  # a drop of what is then made is not needed, and does no harm
        create = text[drops.end() :] if drops else text
        creates = _CONCURRENTLY.match(create)
        if creates is None or (drops and drops[1] != creates[1]):
            raise ValueError(f"{migration.name}: CONCURRENTLY stands alone, as CREATE INDEX or as DROP INDEX IF EXISTS")
        text = create
    _limit_locks(connection, _CONCURRENT_LIMIT_S)
    try:
        if creates:
            found = connection.execute(
                "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (creates[1],)
            ).fetchone()
            if found is not None and not found[0]:
                connection.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(sql.Identifier(creates[1])))
                found = None
            if found is None:
                connection.execute(text.encode())
        else:
            connection.execute(text.encode())
    finally:
        if not connection.broken:
            _limit_locks(connection, _LOCK_LIMIT_S)
    with connection.transaction():
        _mark(connection, migration)


def _limit_locks(connection: Connection, seconds: float) -> None:
    connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{seconds * 1000:.0f}ms",))


@contextmanager
def _alone(connection: Connection, patience: "_LockRetry") -> Iterator[None]:
    """One process migrates at a time. The others ask again and again: one that waited in a statement would hold a snapshot, for
    which a concurrent step waits in turn."""

    def take() -> None:
        if not connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK_KEY,)).fetchall()[0][0]:
            raise errors.LockNotAvailable

    patience.keep_trying("the right to migrate", take)
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK_KEY,))


class _LockRetry:
    """Tries steps again that did not get their lock, each for a limited time."""

    def __init__(self, connection: Connection, limit_s: float, say: Say) -> None:
        self._connection = connection
        self._limit_s = limit_s
        self._say = say

    def keep_trying(self, what: str, step: Callable[[], None]) -> None:
        """Raises Busy, MigrationRejected, what the step raises."""
        began, failures = time.monotonic(), 0
        while True:
            try:
                step()
            except _RETRYABLE as error:
                if time.monotonic() - began > self._limit_s:
                    raise Busy(f"{what} was held up for {self._limit_s:.0f} s{self._others()}") from error
                self._say(f"{what} waits{self._others()}")
            except Unreachable:
                raise
            except psycopg.Error as error:
                raise MigrationRejected(f"{what} failed: {str(error).splitlines()[0]}") from error
            else:
                return
            failures += 1
            time.sleep(_RETRY.pause_s(failures))

    def _others(self) -> str:
        """Who has had a transaction open here for the longest time."""
        rows = self._connection.execute(
            """SELECT coalesce(nullif(application_name, ''), usename::text, '?'), pid,
                      extract(epoch FROM clock_timestamp() - xact_start)::int
                 FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start < clock_timestamp() - interval '1 second'
                ORDER BY xact_start LIMIT 3"""
        )
        found = ", ".join(f"{name} (process {pid}, for {seconds} s)" for name, pid, seconds in rows.fetchall())
        return f"; open transactions: {found}" if found else ""
