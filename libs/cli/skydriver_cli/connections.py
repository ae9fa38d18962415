"""Where the database and the message broker are, for the commands that operate the event log."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import asyncpg
import typer

from skydriver_cli.errors import Problem
from skydriver_common.db import migrate
from skydriver_common.db.pool import Connection, Pool, connect, open_pool
from skydriver_common.db.pooler import SharedSessions
from skydriver_common.faults import TryLater

DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="SKYDRIVER_DATA_DIR", help="Folder that holds the embedded system.")
]
DatabaseUrl = Annotated[
    str | None, typer.Option("--database-url", help="The database; default: SKYDRIVER_DATABASE_URL, else the data folder's.")
]
AmqpUrl = Annotated[
    str | None, typer.Option("--amqp-url", help="The broker; default: SKYDRIVER_AMQP_URL, else the data folder's.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
DEFAULT_DATA_DIR = Path("data")


def find_url(given: str | None, name: str, data_dir: Path) -> str:
    """``database_url`` or ``amqp_url``: from the option, else the environment, else ``connection.json``. Raises Problem."""
    url = given or os.environ.get(f"SKYDRIVER_{name.upper()}")
    if url:
        return url
    try:
        return str(json.loads((data_dir / "connection.json").read_text())[name])
    except (OSError, ValueError, KeyError):
        option = "--" + name.replace("_", "-")
        raise Problem(
            f"no {name.replace('_', ' ')} is known: there is no {data_dir / 'connection.json'}",
            f"Start a system with `skydriver up`, or set {option} or SKYDRIVER_{name.upper()}",
        ) from None


@asynccontextmanager
async def database(given: str | None, data_dir: Path) -> AsyncIterator[Connection]:
    """A connection of an operator's own. Raises Problem when there is no database, or it goes away."""
    url = find_url(given, "database_url", data_dir)
    try:
        connection = await connect(url, name="cli", command_timeout_s=600, idle_in_transaction_session_timeout="0")
    except _NOT_REACHED as error:
        raise _unreachable(error) from error
    try:
        with _database_problems(url):
            yield connection
    finally:
        await connection.close(timeout=5)


@asynccontextmanager
async def open_pool_for(given: str | None, data_dir: Path) -> AsyncIterator[Pool]:
    """A small pool of an operator's own. Raises Problem as `database` does."""
    url = find_url(given, "database_url", data_dir)
    try:
        pool = await open_pool(url, name="cli", size=2)
    except _NOT_REACHED as error:
        raise _unreachable(error) from error
    try:
        with _database_problems(url):
            yield pool
    finally:
        await pool.close()


_NOT_REACHED = (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError)


def _unreachable(error: Exception) -> Problem:
    return Problem(f"the database can't be reached ({type(error).__name__})", "Check the URL and the server")


@contextmanager
def _database_problems(url: str) -> Iterator[None]:
    try:
        yield
    except (TryLater, asyncpg.PostgresError) as error:
        fault = error.__cause__ if isinstance(error, TryLater) else error
        if isinstance(fault, _OTHER_SCHEMA):
            raise _other_schema(url) from error
        if isinstance(error, TryLater):
            raise Problem(error.what, "Try again") from error
        raise


_OTHER_SCHEMA = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError)


def _other_schema(url: str) -> Problem:
    """Why the database has not what this command line asks for, and which side is to be changed."""
    with schema_problems():
        schema = migrate.look(url)
    if schema.newer:
        return Problem(
            f"the database is a newer release's ({schema.newer[-1]}) than this command line",
            "Use the command line of that release",
        )
    return Problem("the database has no event log of this release", "Run `skydriver migrate` first")


@contextmanager
def schema_problems(advice: str = "Use the programs of that release") -> Iterator[None]:
    """What stands in the way of a migration, or of a look at the schema, as Problems. advice: on a database that is too new."""
    try:
        yield
    except migrate.SchemaTooNew as error:
        raise Problem(str(error), advice) from error
    except migrate.HalfDone as error:
        raise Problem(
            str(error), "Compare docs/developers/schema.sql: take it away, or mark the migration as applied"
        ) from error
    except migrate.Busy as error:
        raise Problem(str(error), "Nothing of it has happened: end what holds it up, or try again") from error
    except migrate.Refused as error:
        raise Problem(str(error), "Nothing of it has happened: migrate as the owner of the tables") from error
    except SharedSessions as error:
        raise Problem(str(error), "Or name the database itself in the URL") from error
    except migrate.Unreachable as error:
        raise Problem("the database can't be reached, or takes no writes", "Check the URL and the server") from error


def parse_time(text: str, option: str) -> datetime:
    """ISO 8601 to a moment; without a zone it is UTC. Raises Problem naming the option."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise Problem(f"{option}: {text!r} is no time", "Write it as 2026-11-24 or 2026-11-24T12:30:00Z", exit_code=2) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
