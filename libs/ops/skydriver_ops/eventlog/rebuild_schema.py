"""Fresh tables for rebuilt views: made like the live ones, and put in their place in one transaction."""

import re

from skydriver_common.db.pool import Connection
from skydriver_ops.eventlog.fold import VIEWS

_LOCK_LIMIT = "300ms"
"""For all locks together: who writes waits behind the first one from the moment it is asked for."""
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,50}")
OWN_NAME = "rebuild_"
_LOCK = "SELECT pg_advisory_lock(7311006, hashtext($1))"
_TRY_LOCK = "SELECT pg_try_advisory_lock(7311006, hashtext($1))"
_UNLOCK = "SELECT pg_advisory_unlock(7311006, hashtext($1))"


class SchemaExists(Exception):
    """The schema exists already, or its name can't be used: a rebuild wants one of its own."""


def quoted(schema: str) -> str:
    """The name for use in a statement. Raises SchemaIsThere for a name that is no plain identifier."""
    if not _NAME.fullmatch(schema) or schema == "public" or schema.startswith("pg_"):
        raise SchemaExists(f"{schema!r}: not allowed as the schema of a rebuild")
    return f'"{schema}"'


async def create(connection: Connection, schema: str) -> None:
    """The schema, and in it an empty twin of each view without indexes. Raises SchemaIsThere."""
    name = quoted(schema)
    async with connection.transaction():
        if await connection.fetchval("SELECT true FROM pg_namespace WHERE nspname = $1", schema):
            raise SchemaExists(f"schema {schema} already exists")
        await connection.execute(f"CREATE SCHEMA {name}")
        for view in VIEWS:
            await connection.execute(f"CREATE TABLE {name}.{view} (LIKE public.{view} INCLUDING ALL EXCLUDING INDEXES)")
            if view == "i3_events":
                await _copy_indexes(connection, view, schema)  # the same event may be requested again: conflicts need the key


async def lock_schema(connection: Connection, schema: str) -> None:
    """Say that this rebuild is alive, for as long as the connection lasts, and drop what killed ones have left behind.

    Only schemas with the names that rebuilds give themselves: one that was asked for by --into is its owner's.
    """
    await connection.execute(_LOCK, schema)
    names = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname ~ $1", f"^{OWN_NAME}[0-9a-f]+$")
    for name in (row["nspname"] for row in names):
        if name != schema and await connection.fetchval(_TRY_LOCK, name):
            await drop(connection, name)
            await connection.execute(_UNLOCK, name)


async def add_indexes(connection: Connection, schema: str) -> None:
    """The live tables' keys, indexes, owners and privileges, under their own names."""
    async with connection.transaction():
        for view in VIEWS:
            if view != "i3_events":
                await _copy_indexes(connection, view, schema)
            await _copy_owner(connection, view, schema)
            await _copy_privileges(connection, view, schema)
    for view in VIEWS:
        await connection.execute(f"ANALYZE {quoted(schema)}.{view}")


async def lock(connection: Connection) -> None:
    """Keep writers out, within the caller's transaction. Raises QueryCanceledError when they do not end soon.

    Manifests first: every writer locks rows there before it appends, so nobody who holds one lock waits for another of ours.
    """
    views = ", ".join(f"public.{view}" for view in VIEWS)
    await connection.execute(f"SET LOCAL statement_timeout = '{_LOCK_LIMIT}'")
    await connection.execute(
        f"""DO $$ BEGIN
            LOCK TABLE {views} IN ACCESS EXCLUSIVE MODE;
            LOCK TABLE public.event_log IN SHARE ROW EXCLUSIVE MODE;
        END $$"""
    )
    await connection.execute(f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{_LOCK_LIMIT}'")


async def swap_tables(connection: Connection, schema: str) -> None:
    """The schema's tables become the live ones and the live ones the schema's, within the caller's transaction.

    Raises LockNotAvailableError when somebody is reading the schema's tables.
    """
    name = quoted(schema)
    aside = quoted(f"{schema}_aside")
    await connection.execute(f"CREATE SCHEMA {aside}")
    for view in VIEWS:
        await connection.execute(f"ALTER TABLE public.{view} SET SCHEMA {aside}")
        await connection.execute(f"ALTER TABLE {name}.{view} SET SCHEMA public")
        await connection.execute(f"ALTER TABLE {aside}.{view} SET SCHEMA {name}")
    await connection.execute(f"DROP SCHEMA {aside}")


async def drop(connection: Connection, schema: str) -> None:
    """Remove a rebuild's tables and its schema; refuses when anything else lies there."""
    name = quoted(schema)
    async with connection.transaction():
        for view in VIEWS:
            await connection.execute(f"DROP TABLE IF EXISTS {name}.{view}")
        await connection.execute(f"DROP SCHEMA {name}")


async def _copy_indexes(connection: Connection, view: str, schema: str) -> None:
    rows = await connection.fetch(
        """SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS index, c.conname,
                  pg_get_constraintdef(c.oid) AS constraint
             FROM pg_index i LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.conrelid = i.indrelid
            WHERE i.indrelid = ('public.' || $1)::regclass ORDER BY i.indexrelid""",
        view,
    )
    name = quoted(schema)
    for row in rows:
        if row["conname"] is not None:
            await connection.execute(f'ALTER TABLE {name}.{view} ADD CONSTRAINT "{row["conname"]}" {row["constraint"]}')
        else:
            await connection.execute(row["index"].replace(f" ON public.{view} ", f" ON {name}.{view} ", 1))


async def _copy_owner(connection: Connection, view: str, schema: str) -> None:
    """The live table's owner becomes the twin's, whoever rebuilds."""
    owner = await connection.fetchval(
        """SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class
            WHERE oid = ('public.' || $1)::regclass AND pg_get_userbyid(relowner) <> current_user""",
        view,
    )
    if owner is not None:
        name = quoted(schema)
        await connection.execute(f"GRANT CREATE, USAGE ON SCHEMA {name} TO {owner}")  # an owner may create where its table lies
        await connection.execute(f"ALTER TABLE {name}.{view} OWNER TO {owner}")


async def _copy_privileges(connection: Connection, view: str, schema: str) -> None:
    rows = await connection.fetch(
        """SELECT p.privilege_type AS what,
                  CASE WHEN p.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(p.grantee)) END AS who
             FROM pg_class t, aclexplode(t.relacl) p WHERE t.oid = ('public.' || $1)::regclass AND p.grantee <> t.relowner""",
        view,
    )
    for row in rows:
        await connection.execute(f"GRANT {row['what']} ON {quoted(schema)}.{view} TO {row['who']}")
