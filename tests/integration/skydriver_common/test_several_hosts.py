"""A database URL with two hosts, of which one at a time takes writes: whoever connects finds that one, also after they change."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from skydriver_cli.embedded import postgres
from skydriver_cli.embedded.ports import choose
from skydriver_cli.embedded.secret_files import write_private
from skydriver_common.db.migrate import Unreachable, check, migrate
from skydriver_common.db.pool import Listener, connect
from skydriver_common.faults import TryLater
from skydriver_common.model.ids import new_scan_id
from tests.support.histories import a_context, a_request, a_store, skydriver
from tests.support.waiting import until


@dataclass
class Pair:
    """Two servers. url: names both."""

    servers: list[postgres.Postgres]
    url: str

    async def takes_writes(self, which: int) -> None:
        """From now on this server takes writes, and the other one does not."""
        for number, server in enumerate(self.servers):
            connection = await asyncpg.connect(server.url)
            await connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'off' if number == which else 'on'}")
            await connection.execute("SELECT pg_reload_conf()")
            await connection.close()
        for number, server in enumerate(self.servers):

            async def is_so(number: int = number, server: postgres.Postgres = server) -> bool:
                connection = await asyncpg.connect(server.url)
                setting = await connection.fetchval("SHOW default_transaction_read_only")
                await connection.close()
                return bool(setting == ("off" if number == which else "on"))

            await until(is_so)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Two servers with the same login, the schema on both; the second one takes writes."""
    ports = choose(["first", "second"], {})
    servers = list[postgres.Postgres]()
    try:
        for name, port in ports.items():
            home = tmp_path / name
            home.mkdir()
            write_private(home / "password", "the-same")
            servers.append(
                await postgres.start(home, port=port, run_dir=home / "run", log=tmp_path / f"{name}.log", durable=False)
            )
            await asyncio.to_thread(migrate, servers[-1].url)
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        both = Pair(servers, servers[0].url.replace(f"127.0.0.1:{servers[0].port}", hosts))
        await both.takes_writes(1)
        yield both
    finally:
        for server in servers:
            await server.stop()


async def test_everybody_finds_the_server_that_takes_writes(pair: Pair) -> None:
    assert await asyncio.to_thread(migrate, pair.url) == []
    assert await asyncio.to_thread(check, pair.url) == []
    connection = await connect(pair.url, name="test")
    assert await connection.fetchval("SELECT inet_server_port()") == pair.servers[1].port
    assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "30s"
    assert await connection.fetchval("SHOW application_name") == "skydriver-test"
    heard, stopping = asyncio.Event(), asyncio.Event()
    listener = asyncio.create_task(
        Listener(pair.url, {"skydriver_test": lambda text: heard.set() if text else None}, name="test").run(stopping)
    )

    async def notified() -> bool:
        await connection.execute("NOTIFY skydriver_test, 'x'")
        return heard.is_set()

    await until(notified)
    stopping.set()
    await listener
    await connection.close()
    ran = await skydriver("log", "stats", "--json", "--database-url", pair.url)
    assert ran.code == 0, ran.err


async def test_decisions_go_on_at_the_other_server_when_they_change(pair: Pair) -> None:
    async with a_store(pair.url, size=2) as store:
        await store.a_scan()
        await pair.takes_writes(0)
        scan_id = new_scan_id()

        async def decided() -> bool:
            try:
                async with store.uows["dispatcher"].on_scans(a_context(), [scan_id]) as tx:
                    tx.append(scan_id, [a_request(scan_id)])
            except TryLater:
                return False
            return True

        await until(decided)
        first = await asyncpg.connect(pair.servers[0].url)
        assert await first.fetchval("SELECT count(*) FROM manifests WHERE scan_id = $1", scan_id) == 1
        await first.close()


async def test_nobody_migrates_where_no_server_takes_writes(pair: Pair) -> None:
    await pair.servers[1].stop()
    with pytest.raises(Unreachable):
        await asyncio.to_thread(migrate, pair.url)


async def test_a_service_starts_on_such_a_url(pair: Pair, clean_bus: str, tmp_path: Path) -> None:
    port = choose(["health"], {})["health"]
    key = tmp_path / "jwks.json"
    key.write_text('{"keys": []}')
    with (tmp_path / "bridge.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "skydriver_progress", stdout=log, stderr=log, cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if not name.startswith("SKYDRIVER_")} | {
                "SKYDRIVER_DATABASE_URL": pair.url, "SKYDRIVER_AMQP_URL": clean_bus, "SKYDRIVER_HEALTH_PORT": str(port),
                "SKYDRIVER_AUTH_ISSUER": "i", "SKYDRIVER_AUTH_AUDIENCE": "a", "SKYDRIVER_AUTH_JWKS_FILE": str(key),
            },
        )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session:

            async def is_ready() -> bool:
                assert process.returncode is None, (tmp_path / "bridge.log").read_text()
                try:
                    async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            await until(is_ready)
    finally:
        process.terminate()
        await process.wait()
