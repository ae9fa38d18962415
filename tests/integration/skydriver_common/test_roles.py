"""Each database role can do its work and nothing more; the log changes for nobody but after break_glass, which is an event."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from skydriver_common.log.group_commit import recorded_reply
from skydriver_common.log.pending_writes import sql
from skydriver_ops.db.roles import SERVICE_ROLES, apply_roles
from skydriver_ops.eventlog import rebuild
from skydriver_ops.eventlog.fold import VIEWS
from skydriver_ops.eventlog.verify import verify
from tests.support.histories import Store, skydriver

USERS = Path(__file__).parents[3] / "deploy/postgres/users.sql"
_ALL = (*SERVICE_ROLES.values(), "skydriver_operator", "skydriver_break_glass")
_CHANGES = {
    "update": "UPDATE event_log SET actor = 'nobody' WHERE position = 1",
    "delete": "DELETE FROM event_log WHERE position = 1",
    "truncate": "TRUNCATE event_log",
}


@asynccontextmanager
async def _as(store: Store, role: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection that has this role's rights; "" is the owner of the tables."""
    connection = await asyncpg.connect(store.url)
    try:
        if role:
            await connection.execute(f"SET ROLE {role}")
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def guarded(store: Store) -> Store:
    """A store with some events, and the roles."""
    apply_roles(store.url)
    apply_roles(store.url)
    await store.a_finished_scan()
    return store


@pytest.mark.parametrize("role", _ALL)
async def test_nobody_changes_the_log(guarded: Store, role: str) -> None:
    for change in _CHANGES.values():
        async with _as(guarded, role) as connection:
            with pytest.raises(asyncpg.PostgresError) as refused:
                await connection.execute(change)
            assert refused.value.sqlstate in ("42501", "SD001")  # not granted, or append-only
    async with guarded.pool.acquire() as connection:
        assert (await verify(connection)).breaks == []


@pytest.mark.parametrize("change", _CHANGES)
async def test_not_even_the_owner_does(guarded: Store, change: str) -> None:
    async with _as(guarded, "") as connection:
        with pytest.raises(asyncpg.PostgresError, match="append-only") as refused:
            await connection.execute(_CHANGES[change])
        assert refused.value.sqlstate == "SD001"


async def test_tables_belong_to_those_who_need_them(guarded: Store) -> None:
    forbidden = {
        "skydriver_api": ("INSERT INTO event_log DEFAULT VALUES", "DELETE FROM manifests", "UPDATE backlog SET priority = 1",
                          "DELETE FROM blobs", "DELETE FROM command_replies", "DELETE FROM due_work"),
        "skydriver_dispatcher": ("DELETE FROM manifests", "SELECT * FROM ewms_attempts", "DELETE FROM blobs",
                                 "DELETE FROM command_replies", "SELECT let_go_of_progress('s', 1, 1)"),
        "skydriver_progress": ("DELETE FROM results", "UPDATE ewms_watch SET seen = ''", "UPDATE launch_throttle SET max_running = 1"),
        "skydriver_ewms_bridge": ("DELETE FROM results", "UPDATE launch_throttle SET max_running = 1"),
        "skydriver_operator": ("DELETE FROM manifests", "INSERT INTO blobs DEFAULT VALUES", "CREATE TABLE t ()"),
    }  # fmt: skip
    for role, statements in forbidden.items():
        for statement in (*statements, "SELECT break_glass('please')"):
            async with _as(guarded, role) as connection:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)


async def test_every_table_is_somebodys(guarded: Store) -> None:
    """A new table must be thought of in roles.sql; otherwise its service fails in production only."""
    async with _as(guarded, "") as connection:
        orphans = await connection.fetch(
            """SELECT relname FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
                  AND relname NOT LIKE '%yoyo%' AND relname <> 'schema_migrations'
                  AND relname <> 'result_digests' -- its trigger alone writes it
                  AND NOT EXISTS (
                      SELECT FROM unnest($1::text[]) AS role WHERE has_table_privilege(role, c.oid, 'INSERT'))""",
            list(SERVICE_ROLES.values()),
        )
    assert [row["relname"] for row in orphans] == []


async def test_a_swap_by_a_superuser_leaves_every_view_its_owner_and_their_rights(guarded: Store) -> None:
    rights = """SELECT relname, pg_get_userbyid(relowner), (SELECT array_agg(p::text ORDER BY p::text) FROM aclexplode(relacl) p)
                  FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1"""
    for view in VIEWS:
        await guarded.pool.execute(f"ALTER TABLE {view} OWNER TO skydriver_writer")
    before = [tuple(row) for row in await guarded.pool.fetch(rights)]
    ran = await skydriver("log", "rebuild", "--swap", "--json", "--database-url", guarded.url)
    assert ran.code == 0, ran.err
    assert [tuple(row) for row in await guarded.pool.fetch(rights)] == before


@pytest.mark.parametrize("role", ["", "skydriver_break_glass"])
async def test_break_glass_opens_the_log_for_one_transaction_and_leaves_an_event(guarded: Store, role: str) -> None:
    reason = 'a "secret" \\ leaked\t\u001f to München 😀'
    async with _as(guarded, role) as connection:
        async with connection.transaction():
            await connection.execute("SELECT break_glass($1)", reason)
            assert await connection.execute("UPDATE event_log SET data = '{}' WHERE position = 4") == "UPDATE 1"
            assert await connection.execute("DELETE FROM event_log WHERE position = 9") == "DELETE 1"
            for hiding in ("UPDATE event_log SET actor = 'a' WHERE scan_id = 'system'", "DELETE FROM event_log WHERE scan_id = 'system'",
                           "TRUNCATE event_log"):  # fmt: skip
                with pytest.raises(asyncpg.PostgresError):
                    async with connection.transaction():
                        await connection.execute(hiding)
        with pytest.raises(asyncpg.PostgresError, match="append-only"):
            await connection.execute("UPDATE event_log SET data = '{}' WHERE position = 3")
    recorded = await skydriver("log", "history", "system", "--json", "--database-url", guarded.url)
    assert [fact["data"]["reason"] for fact in recorded.lines] == [reason]
    assert recorded.lines[0]["actor"].startswith("database:")
    async with guarded.pool.acquire() as connection:
        broken = (await verify(connection)).breaks
    assert "system" not in {found.scan_id for found in broken}, "its own event is chained as all others are"
    assert [found.version for found in broken] == [4]


async def test_break_glass_wants_a_reason_and_is_undone_with_its_transaction(guarded: Store) -> None:
    async with _as(guarded, "") as connection:
        with pytest.raises(asyncpg.PostgresError, match="needs a reason"):
            await connection.execute("SELECT break_glass('  ')")
        async with connection.transaction():
            await connection.execute("UPDATE launch_throttle SET changed_by = 'me'")
            with pytest.raises(asyncpg.PostgresError, match="before any other change"):
                async with connection.transaction():
                    await connection.execute("SELECT break_glass('why')")
        undone = connection.transaction()
        await undone.start()
        await connection.execute("SELECT break_glass('why')")
        await connection.execute("DELETE FROM event_log WHERE position = 1")
        await undone.rollback()
    await guarded.a_system_fact()
    async with _as(guarded, "") as connection, connection.transaction():
        await connection.execute("SELECT break_glass('nothing is done')")
    await guarded.a_system_fact()
    async with guarded.pool.acquire() as pooled:
        assert (await verify(pooled)).breaks == []
        assert (await rebuild.check(pooled)).differences == []
        assert await pooled.fetchval("SELECT count(*) FROM event_log WHERE scan_id = 'system'") == 3


async def test_the_gateway_may_read_the_reply_that_was_lost_and_deciders_may_look_for_blobs(guarded: Store) -> None:
    async with _as(guarded, "skydriver_api") as connection:
        assert await recorded_reply(connection, "never", "") is None
    for role in ("skydriver_dispatcher", "skydriver_progress"):
        async with _as(guarded, role) as connection:
            assert [row["digest"] async for row in sql.missing_blobs(connection, digests=["nowhere"])] == ["nowhere"]


_PASSWORDS = {"api": "of-api", "dispatcher": "it's", "ewms_bridge": "of-bridge", "progress": "of-progress"}


async def test_the_script_for_users_gives_each_its_role(store: Store) -> None:
    variables = [word for name, password in _PASSWORDS.items() for word in ("-v", f"{name}={password}")]
    users = {name: f"skydriver_{name}_1" for name in _PASSWORDS}
    connection = await asyncpg.connect(store.url)
    try:
        ran = await asyncio.create_subprocess_exec(
            "psql", store.url, "-X", "-q", *variables, "-f", str(USERS),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, err = await ran.communicate()
        assert ran.returncode == 0, err.decode()
        apply_roles(store.url)  # the order of the two does not matter
        for name, user in users.items():
            assert await connection.fetchval("SELECT pg_has_role($1, $2, 'MEMBER')", user, SERVICE_ROLES[name])
            assert await connection.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = $1", user)
    finally:
        for user in users.values():
            await connection.execute(f"DROP ROLE IF EXISTS {user}")
        await connection.close()
