"""Migrations on real servers: whole or not at all, never in anybody's way, and known to the release before."""

import asyncio
import contextlib
import getpass
import pwd
import subprocess
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import psycopg
import pytest

from skydriver_common.db import migrate as migrations
from skydriver_common.db.migrate import (
    Busy,
    HalfDone,
    Migration,
    MigrationRejected,
    SchemaTooNew,
    check,
    compare_schema,
    known_migrations,
    migrate,
)
from skydriver_ops.db import roles
from tests.support import previous_release, schema_page
from tests.support.histories import skydriver
from tests.support.waiting import until


@pytest.fixture
async def empty(database_url: str) -> AsyncIterator[str]:
    """A database without anything."""
    name = f"skydriver_test_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(database_url)
    await admin.execute(f'CREATE DATABASE "{name}"')
    yield urlsplit(database_url)._replace(path=f"/{name}").geturl()
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()


def _with(text: str, name: str = "9001_test_step") -> list[Migration]:
    return [*known_migrations(), Migration(name, text)]


def _rows(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


@contextlib.contextmanager
def _open_transaction(url: str, statement: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(url, application_name="a-long-search") as connection:
        connection.execute(statement.encode())
        yield connection


async def test_all_of_it_once_from_many_processes_at_the_same_time(empty: str) -> None:
    applied = await asyncio.gather(*(asyncio.to_thread(migrate, empty) for _ in range(4)))
    assert sorted(name for names in applied for name in names) == [migration.name for migration in known_migrations()]
    assert check(empty) == []
    marked = _rows(empty, "SELECT count(*) FROM _yoyo_migration UNION ALL SELECT count(*) FROM schema_migrations")
    assert sum(int(str(row[0])) for row in marked) == len(known_migrations())


def test_steps_and_mark_are_one_transaction(database: str) -> None:
    with pytest.raises(MigrationRejected, match="9001_test_step failed"):
        migrate(
            database, migrations=_with("CREATE TABLE one (); INSERT INTO schema_migrations (name) VALUES ('9001_test_step')")
        )
    with pytest.raises(MigrationRejected):
        migrate(database, migrations=_with("CREATE TABLE one (); SELECT 1 / 0"))
    assert _rows(database, "SELECT to_regclass('one')") == [(None,)]
    assert migrate(database, migrations=_with("CREATE TABLE one ()")) == ["9001_test_step"]
    assert migrate(database, migrations=_with("CREATE TABLE one ()")) == []


def test_what_the_release_with_yoyo_left_without_its_mark_is_completed(empty: str) -> None:
    with psycopg.connect(empty) as connection:
        connection.execute(known_migrations()[0].text.encode())
    assert migrate(empty) == [migration.name for migration in known_migrations()]
    assert check(empty) == []


def test_what_may_be_somebody_elses_is_named(empty: str) -> None:
    with psycopg.connect(empty) as connection:
        connection.execute("CREATE TABLE event_log (theirs integer)")
    with pytest.raises(HalfDone, match=r"0001_common_event_log is not marked as applied.*event_log"):
        migrate(empty)
    assert _rows(empty, "SELECT count(*) FROM pg_class WHERE relname = 'manifests'") == [(0,)]


def test_nobody_waits_behind_a_migration_that_waits_for_a_reader(database: str) -> None:
    said = list[str]()
    waits = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        if "waits" in line:
            waits.set()

    step = _with("ALTER TABLE manifests ADD COLUMN more text")
    with _open_transaction(database, "SELECT FROM manifests") as reader:
        worker = threading.Thread(target=lambda: migrate(database, migrations=step, say=say))
        worker.start()
        assert waits.wait(60)
        with psycopg.connect(database) as others:
            # all of these would wait for the reader's end without a limit on the migration's wait
            others.execute("SET statement_timeout = '20s'")
            for _ in range(20):
                others.execute("SELECT count(*) FROM manifests; UPDATE manifests SET version = version")
                others.commit()
        assert worker.is_alive()
        reader.rollback()
    worker.join(60)
    assert not worker.is_alive()
    assert any("a-long-search" in line for line in said)
    assert _rows(database, "SELECT count(*) FROM pg_attribute WHERE attname = 'more'") == [(1,)]


def test_a_migration_that_never_gets_its_lock_says_who_has_it(database: str) -> None:
    with _open_transaction(database, "SELECT FROM manifests"):
        with pytest.raises(Busy, match=r"9001_test_step was held up.*a-long-search \(process"):
            migrate(
                database, migrations=_with("CREATE TABLE one (); ALTER TABLE manifests ADD COLUMN more text"), lock_timeout_s=2
            )
        assert _rows(database, "SELECT to_regclass('one')") == [(None,)]
    assert migrate(database, migrations=_with("CREATE TABLE one (); ALTER TABLE manifests ADD COLUMN more text")) == [
        "9001_test_step"
    ]


def test_an_index_that_was_cut_off_is_made_anew(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("INSERT INTO i3_events VALUES ('a', 'same'), ('b', 'same')")
    step = _with("-- one\nCREATE UNIQUE INDEX CONCURRENTLY i3_events_once ON i3_events (digest);\n")
    with pytest.raises(MigrationRejected, match="9001_test_step failed"):
        migrate(database, migrations=step)
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('i3_events_once')"
    assert _rows(database, valid) == [(False,)]
    with psycopg.connect(database) as connection:
        connection.execute("DELETE FROM i3_events WHERE i3_event_id = 'b'")
    assert migrate(database, migrations=step) == ["9001_test_step"]
    assert _rows(database, valid) == [(True,)]
    # killed between the step and its mark: only that is missing
    with psycopg.connect(database) as connection:
        connection.execute("DELETE FROM schema_migrations WHERE name = '9001_test_step'")
    assert migrate(database, migrations=step) == ["9001_test_step"]
    drop = [*step, Migration("9002_test_drop", "DROP INDEX CONCURRENTLY IF EXISTS i3_events_once;")]
    assert migrate(database, migrations=drop) == ["9002_test_drop"]
    assert _rows(database, valid) == []


async def test_a_concurrent_step_lets_everybody_work_while_it_waits_and_does_not_wait_for_other_migrators(
    database: str,
) -> None:
    step = _with("CREATE INDEX CONCURRENTLY manifests_more ON manifests (version)")

    async def waiting() -> bool:
        return bool(
            _rows(database, "SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONC%' AND wait_event_type = 'Lock'")
        )

    with _open_transaction(database, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM manifests") as reader:
        at_it = [asyncio.create_task(asyncio.to_thread(migrate, database, migrations=step)) for _ in range(2)]
        await until(waiting)
        with psycopg.connect(database) as others:
            others.execute("SET statement_timeout = '20s'")
            others.execute("UPDATE manifests SET version = version")
        assert not any(task.done() for task in at_it)
        reader.rollback()
    assert sorted(await asyncio.gather(*at_it)) == [[], ["9001_test_step"]]


def test_what_cannot_be_one_transaction_stands_alone(database: str) -> None:
    for text in (
        "CREATE INDEX CONCURRENTLY a ON manifests (version); CREATE TABLE one ()",
        "CREATE TABLE one (); CREATE INDEX CONCURRENTLY a ON manifests (version)",
        "REINDEX INDEX CONCURRENTLY manifests_pkey",
    ):
        with pytest.raises(ValueError, match="stands alone"):
            migrate(database, migrations=_with(text))


def test_this_release_goes_on_beside_a_newer_one_until_that_takes_something_away(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adds = Migration("9001_test_adds", "CREATE TABLE more ()")
    takes = Migration("9003_test_takes", "-- needs: 9001_test_adds\nDROP TABLE IF EXISTS long_unused")
    migrate(database, migrations=[*known_migrations(), adds])
    assert compare_schema(database).newer == ("9001_test_adds",)
    assert check(database) == []
    assert migrate(database) == []
    migrate(database, migrations=[*known_migrations(), adds, takes])
    for ask in (check, compare_schema, migrate):
        with pytest.raises(SchemaTooNew, match="9003_test_takes of a newer release"):
            ask(database)
    # the release between them knows what the newest one needs
    here = known_migrations()
    monkeypatch.setattr(migrations, "known_migrations", lambda: [*here, adds])
    assert compare_schema(database).newer == ("9003_test_takes",)


def test_services_may_read_the_marks_though_roles_were_not_made_anew(database: str) -> None:
    roles.apply_roles(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP TABLE schema_migrations")
    missing = [migration.name for migration in known_migrations() if migration.name > "0076_dispatcher_one_throttle"]
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TEMP TABLE nothing ()")
    migrate(database, migrations=[migration for migration in known_migrations() if migration.name not in missing])
    assert _rows(database, "SELECT has_table_privilege('skydriver_api', 'schema_migrations', 'SELECT')") == [(True,)]


async def test_the_release_before_starts_on_a_schema_with_additions(empty: str) -> None:
    python = previous_release.python()
    await asyncio.to_thread(migrate, empty, migrations=_with("CREATE TABLE more ()"))
    program = "import sys; from skydriver_common.db import migrate as m; print(m.__file__, m.check(sys.argv[1]), m.migrate(sys.argv[1]))"
    old = await asyncio.create_subprocess_exec(
        python, "-c", program, empty, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/"
    )  # fmt: skip
    out, err = await old.communicate()
    assert "previous release" in out.decode(), err.decode()
    assert out.decode().rstrip().endswith("[] []"), err.decode()
    assert check(empty) == []


def test_a_user_without_a_name_can_migrate(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, where the user is a number."""

    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    assert migrate(empty) == [migration.name for migration in known_migrations()]


async def test_the_command_line_says_which_side_is_old(database: str) -> None:
    await asyncio.to_thread(migrate, database, migrations=_with("ALTER TABLE event_log RENAME TO facts"))
    ran = await skydriver("log", "stats", "--database-url", database)
    assert ran.code == 1
    assert "newer than this release (migration 9001_test_step)" in ran.err
    assert "skydriver migrate" not in ran.err
    ran = await skydriver("migrate", "--database-url", database, "--roles")
    assert ran.code == 1
    assert "newer than this release (migration 9001_test_step); no roles were created" in ran.err


async def test_the_command_line_asks_to_migrate_an_empty_database(empty: str) -> None:
    ran = await skydriver("log", "stats", "--database-url", empty)
    assert "Run `skydriver migrate` first" in ran.err


def test_the_page_of_the_schema_is_what_the_migrations_come_to(database: str) -> None:
    assert schema_page.PAGE.read_text() == schema_page.schema_of(database), "make docs"
