"""Where the database and the message broker are, for the commands that operate the event log."""

import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from skydriver_cli.errors import CliError
from skydriver_common.db import migrate
from skydriver_common.db.pool import Connection, Pool, connect, open_pool
from skydriver_common.db.pooler import SharedSessions
from skydriver_common.faults import TryLater
from skydriver_common.trust import check_bundle, trust

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGE = re.compile(r"([0-9]{1,9})([smhdw])")


def find_url(given: str | None, name: str, data_dir: Path) -> str:
    """Return ``database_url`` or ``amqp_url``: from the option, else the environment, else ``connection.json``. Raises CliError."""
    trust_ca_file()
    url = given or os.environ.get(f"SKYDRIVER_{name.upper()}")
    if url:
        return url
    try:
        return str(json.loads((data_dir / "connection.json").read_text())[name])
    except (OSError, ValueError, KeyError):
        option = "--" + name.replace("_", "-")
        raise CliError(
            f"no running system found ({data_dir / 'connection.json'} does not exist)",
            f"Start one with `skydriver up`, give {option}, or set SKYDRIVER_{name.upper()}",
        ) from None


def trust_ca_file() -> None:
    """Trust the authorities that ``SKYDRIVER_CA_FILE`` names, in this process. Raises CliError."""
    bundle = os.environ.get("SKYDRIVER_CA_FILE")
    try:
        if bundle:
            check_bundle(Path(bundle))
    except ValueError as error:
        raise CliError(f"SKYDRIVER_CA_FILE: {error}", "Name a PEM file of certificate authorities, or unset it") from error
    trust(Path(bundle) if bundle else None)


@asynccontextmanager
async def database(given: str | None, data_dir: Path) -> AsyncIterator[Connection]:
    """Open a connection for an operator's command. Raises CliError when the database is or becomes unavailable."""
    url = find_url(given, "database_url", data_dir)
    try:
        connection = await connect(url, name="cli", command_timeout_s=600, idle_in_transaction_session_timeout="0")
    except _CONNECT_ERRORS as error:
        raise _unreachable(error) from error
    try:
        with _database_problems(url):
            yield connection
    finally:
        await connection.close(timeout=5)


@asynccontextmanager
async def open_pool_for(given: str | None, data_dir: Path) -> AsyncIterator[Pool]:
    """Open a small pool for an operator's command. Raises CliError as `database` does."""
    url = find_url(given, "database_url", data_dir)
    try:
        pool = await open_pool(url, name="cli", size=2)
    except _CONNECT_ERRORS as error:
        raise _unreachable(error) from error
    try:
        with _database_problems(url):
            yield pool
    finally:
        await pool.close()


_CONNECT_ERRORS = (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError)


def _unreachable(error: Exception) -> CliError:
    return CliError(f"can't reach the database ({type(error).__name__})", "Check the URL and the server")


@contextmanager
def _database_problems(url: str) -> Iterator[None]:
    try:
        yield
    except (TryLater, asyncpg.PostgresError) as error:
        fault = error.__cause__ if isinstance(error, TryLater) else error
        if isinstance(fault, _SCHEMA_ERRORS):
            raise _schema_mismatch(url) from error
        if isinstance(error, TryLater):
            raise CliError(error.what, "Retry; if it persists, check the database server") from error
        raise


_SCHEMA_ERRORS = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError)


def _schema_mismatch(url: str) -> CliError:
    """Return why the database lacks what this release uses, and which side to upgrade."""
    with schema_problems():
        schema = migrate.compare_schema(url)
    if schema.newer:
        return CliError(
            f"the database schema is newer than this release (migration {schema.newer[-1]})",
            "Use the `skydriver` of that release",
        )
    return CliError("the database has no event log, or one of an older release", "Run `skydriver migrate` first")


@contextmanager
def schema_problems(advice: str = "Use the programs of that release") -> Iterator[None]:
    """Turn what prevents a migration, or an inspection of the schema, into CliErrors. advice: for a database that is too new."""
    try:
        yield
    except migrate.SchemaTooNew as error:
        raise CliError(str(error), advice) from error
    except migrate.HalfDone as error:
        raise CliError(
            str(error), "Compare it with docs/developers/schema.sql: remove it, or mark the migration as applied"
        ) from error
    except migrate.Busy as error:
        raise CliError(str(error), "Nothing was changed. End what blocks it, or retry") from error
    except migrate.MigrationRejected as error:
        raise CliError(str(error), "Nothing was changed. Migrate as the owner of the tables") from error
    except SharedSessions as error:
        raise CliError(str(error), "Or give the URL of the database itself") from error
    except migrate.Unreachable as error:
        raise CliError("can't reach the database, or it accepts no writes", "Check the URL and the server") from error


def parse_time(text: str, option: str) -> datetime:
    """Parse ISO 8601 (without a zone it is UTC), or an age such as ``2h``. Raises CliError that names the option."""
    if (age := _AGE.fullmatch(text.strip())) is not None:
        try:
            return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        except OverflowError:
            pass
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(
            f"{option}: invalid time {text!r}",
            "Write it as 2026-11-24 or 2026-11-24T12:30:00Z, or as 30m, 2h or 3d ago",
            exit_code=2,
        ) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
