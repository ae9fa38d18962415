"""The pool while the server is silent: nobody waits without end, and afterwards all is well."""

import asyncio
from urllib.parse import urlsplit

import asyncpg
import pytest

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import open_pool
from skydriver_common.faults import TryLater
from tests.support.proxy import Proxy
from tests.support.waiting import until


async def test_a_silent_server_makes_everybody_try_later_and_holds_nobody_up_afterwards(database: str) -> None:
    proxy = Proxy(urlsplit(database).port or 0)
    await proxy.open()
    url = database.replace(f":{urlsplit(database).port}/", f":{proxy.port}/")
    pool = await open_pool(url, name="test", size=2, command_timeout_s=1)

    async def ask() -> bool:
        with database_faults():
            return bool(await pool.fetchval("SELECT true"))

    try:
        assert await ask()
        proxy.stall()
        async with asyncio.timeout(120):  # together: two at a time would take two hundred times one second
            answers = await asyncio.gather(*(ask() for _ in range(400)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {TryLater}
        proxy.flow()
        await until(ask, "the pool answers again", not_yet=TryLater)
    finally:
        pool.terminate()
        await proxy.close()


async def test_a_connection_whose_server_does_not_take_writes_is_not_used_again(database: str) -> None:
    pool = await open_pool(database, name="test", size=1)
    try:
        before = await pool.fetchval("SELECT pg_backend_pid()")
        assert await pool.fetchval("SELECT pg_backend_pid()") == before
        for write in ("CREATE TABLE a_write ()", "SELECT pg_notify('a', 'b') FROM nextval('event_log_position_seq')"):
            await pool.execute("SET default_transaction_read_only = on")
            with pytest.raises(TryLater), database_faults():
                await pool.fetch(write)
            after = await pool.fetchval("SELECT pg_backend_pid()")
            assert after != before
            before = after
        with pytest.raises(asyncpg.SyntaxOrAccessError):
            await pool.fetch("SELECT no_such_column")
        assert await pool.fetchval("SELECT pg_backend_pid()") == before
    finally:
        pool.terminate()
