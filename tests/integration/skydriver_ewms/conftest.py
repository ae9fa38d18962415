"""A Postgres for the bridge's tests, and a fresh database for each of them."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from pathlib import Path

import asyncpg
import pytest
from tests.support.bridge import Bridge, a_bridge, new_database
from tests.support.fake_ewms import FakeEwms

from skydriver_cli.embedded import postgres
from skydriver_cli.embedded.ports import choose
from skydriver_common.db.migrate import migrate

TEMPLATE = "bridge_template"


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a database on the server given by the environment, else on one of our own."""
    if given := os.environ.get("SKYDRIVER_TEST_DATABASE_URL"):
        yield given
        return
    home = tmp_path_factory.mktemp("postgres")
    started: Future[str] = Future()
    ended = threading.Event()

    async def serve() -> None:
        try:
            port = choose(["postgres"], {})["postgres"]
            server = await postgres.start(home, port=port, run_dir=home, log=home / "log", durable=False)
        except BaseException as error:
            started.set_exception(error)
            raise
        started.set_result(server.url)
        await asyncio.to_thread(ended.wait)
        await server.stop()

    # a thread with a loop of its own: the tests' loops come and go
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        yield started.result(timeout=90)
    finally:
        ended.set()
        thread.join(timeout=20)


@pytest.fixture(scope="session")
def migrated(server_url: str) -> str:
    """URL of the server; its template database has this release's schema."""
    template_url = asyncio.run(_make_template(server_url))
    migrate(template_url)
    return server_url


async def _make_template(server_url: str) -> str:
    connection = await asyncpg.connect(server_url, timeout=10)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{TEMPLATE}"')
        await connection.execute(f'CREATE DATABASE "{TEMPLATE}"')
    finally:
        await connection.close(timeout=5)
    return f"{server_url.rpartition('/')[0]}/{TEMPLATE}"


@pytest.fixture
async def database_url(migrated: str) -> str:
    """A fresh database with this release's schema."""
    return await new_database(migrated, TEMPLATE)


@pytest.fixture
def ewms() -> FakeEwms:
    """EWMS in memory."""
    return FakeEwms()


@pytest.fixture
async def bridge(database_url: str, tmp_path: Path, ewms: FakeEwms) -> AsyncIterator[Bridge]:
    """One replica of the bridge."""
    async with a_bridge(database_url, tmp_path, ewms) as bridge:
        yield bridge
