"""Database roles with least privileges: ``roles.sql``, applied after every migration."""

from collections.abc import Mapping
from importlib import resources

import psycopg
from psycopg import sql

from skydriver_common.db.addresses import with_defaults

SERVICE_ROLES = {
    "api": "skydriver_api",
    "dispatcher": "skydriver_dispatcher",
    "progress": "skydriver_progress",
    "ewms_bridge": "skydriver_ewms_bridge",
}
"""Service name to the role that it works as."""

NotAllowed = psycopg.errors.InsufficientPrivilege
"""Raised when the user of the URL may not make roles or grant rights."""

_LOCK_KEY = 7_311_004  # arbitrary, but the same for every process that changes roles


def apply_roles(database_url: str, *, passwords: Mapping[str, str] | None = None) -> None:
    """Make the roles and grant them what they need, in one transaction. Blocking; repeating it changes nothing.

    passwords: role to password; these roles may then log in. Raises NotAllowed.
    """
    text = (resources.files("skydriver_ops.db") / "roles.sql").read_bytes()
    with psycopg.connect(with_defaults(database_url), connect_timeout=10) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
        cursor.execute(text)
        for role, password in (passwords or {}).items():
            cursor.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password)))
