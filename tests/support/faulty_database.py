"""A database that fails as told: a real error of the server, at one place of a transaction."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from skydriver_common.db import pool as pools
from skydriver_common.log.unit_of_work import sql

OWN = "SELECT 'a statement of the use case''s own'"
PLACES: dict[str, Callable[[str], bool]] = {
    "load": lambda query: query == sql.load.sql,
    "own": lambda query: query == OWN,
    "write": lambda query: query == sql.record_decision.sql,
    "commit": lambda query: query == "COMMIT;",
}
"""Where in the transaction of a decision."""
BLOB, SYSTEM = "blob", "system"
_ALL_PLACES = PLACES | {BLOB: lambda query: query == sql.put_blob.sql, SYSTEM: lambda query: query == sql.system_head.sql}
"""As well: where a skymap is stored before its decision, and a fact that belongs to no scan after it."""

CUT = "cut"
"""In place of a SQLSTATE: the server ends the session."""
OUTAGES = (
    CUT,
    "08006",
    "25006",
    "25P03",
    "28P01",
    "3D000",
    "40001",
    "40P01",
    "53100",
    "55P03",
    "57014",
    "57P03",
    "58030",
    "XX000",
)
DEFECTS = ("42P01", "42501", "25001", "0A000", "P0001")
OF_DATA = ("22003", "22P05", "23514", "54000")


@dataclass
class FaultyDatabase:
    """Fails the next ``left`` statements at the place, those at the next place after them. met: how many have failed."""

    place: str = ""
    code: str = ""
    left: int = 0
    met: int = field(default=0)
    following: tuple[str, str, int] | None = None

    def fails(self, place: str, code: str, times: int, *, then: tuple[str, str, int] | None = None) -> None:
        """From now on. then: place, code and times of what fails after that."""
        self.place, self.code, self.left, self.met, self.following = place, code, times, 0, then

    async def meets(self, connection: Any, query: str) -> None:
        """Called before each statement."""
        if self.left <= 0 or not _ALL_PLACES[self.place](query):
            return
        self.left -= 1
        self.met += 1
        code = self.code
        if self.left == 0 and self.following is not None:
            (self.place, self.code, self.left), self.following = self.following, None
        if code == CUT:
            statement = "SELECT pg_terminate_backend(pg_backend_pid())"
        else:
            statement = f"DO $$ BEGIN RAISE EXCEPTION 'as the test says' USING ERRCODE = '{code}'; END $$"
        await asyncpg.Connection.execute(connection, statement)


@asynccontextmanager
async def faulty_database(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FaultyDatabase]:
    """All pools of this process fail as the yielded object says."""
    faulty = FaultyDatabase()
    plain_execute, plain_do = pools._Watched.execute, pools._Watched._do_execute

    async def execute(self: Any, query: str, *args: Any, timeout: float | None = None) -> str:
        await faulty.meets(self, query)
        return await plain_execute(self, query, *args, timeout=timeout)

    async def do_execute(self: Any, query: str, *args: Any, **options: Any) -> Any:
        await faulty.meets(self, query)
        return await plain_do(self, query, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(pools._Watched, "execute", execute)
        patched.setattr(pools._Watched, "_do_execute", do_execute)
        yield faulty
