"""Real Postgres and RabbitMQ for tests, in this order: named by the environment, by containers where a Docker engine answers,
else embedded ones that live for the session. They are never skipped: a missing server is a failure.

Isolation: each test gets a database of its own, cloned from a migrated template, and a RabbitMQ vhost is shared by the
session; tests that use fixed names of the topology purge its queues first (fixture ``clean_bus``).
"""

import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pytest

from skydriver_cli.embedded import postgres, rabbitmq
from skydriver_cli.embedded.ports import choose
from skydriver_common.db.migrate import migrate
from tests.support.proxy import Proxy


@pytest.fixture(scope="session")
def _home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="skydriver tests "))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def _runner() -> Iterator[asyncio.Runner]:
    """The event loop in which session servers are started and ended."""
    with asyncio.Runner() as runner:
        yield runner


def _named(*variables: str) -> str | None:
    """A server that the environment names. Of processes that test at the same time the first takes it: in one server they would meet."""
    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0":
        return None
    return next((os.environ[name] for name in variables if os.environ.get(name)), None)


def _docker_answers() -> bool:
    try:
        import docker

        docker.from_env(timeout=2).ping()
    except Exception:  # noqa: BLE001  (whatever is wrong with Docker: there is none for us)
        return False
    return True


@pytest.fixture(scope="session")
def database_url(_home: Path, _runner: asyncio.Runner) -> Iterator[str]:
    """A Postgres server, as URL of an administrator."""
    if named := _named("SKYDRIVER_TEST_DATABASE_URL", "SKYDRIVER_DATABASE_URL"):
        yield named
    elif _docker_answers():
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer("postgres:18", driver=None) as container:
            yield container.get_connection_url()
    else:
        ports = choose(["postgres"], {})
        server = _runner.run(
            postgres.start(
                _home / "postgres", port=ports["postgres"], run_dir=_home / "run", log=_home / "postgres.log", durable=False
            )
        )
        yield server.url
        _runner.run(server.stop())


@pytest.fixture(scope="session")
def amqp_url(_home: Path, _runner: asyncio.Runner) -> Iterator[str]:
    """A RabbitMQ node."""
    if named := _named("SKYDRIVER_TEST_AMQP_URL", "SKYDRIVER_AMQP_URL"):
        yield named
    elif _docker_answers():
        from testcontainers.rabbitmq import RabbitMqContainer

        with RabbitMqContainer("rabbitmq:3") as container:
            yield f"amqp://guest:guest@{container.get_container_host_ip()}:{container.get_exposed_port(5672)}/"
    else:
        ports = choose(list(rabbitmq.PORTS), {})
        node = _runner.run(rabbitmq.start(_home / "rabbitmq", ports=ports, run_dir=_home / "run", logs=_home / "logs"))
        yield node.url
        _runner.run(node.stop())


@pytest.fixture(scope="session")
def _template(database_url: str, _runner: asyncio.Runner) -> Iterator[str]:
    """Name of a migrated database that tests clone."""
    name = f"skydriver_template_{uuid.uuid4().hex[:8]}"
    _runner.run(_execute(database_url, f'CREATE DATABASE "{name}"'))
    migrate(_with_database(database_url, name))
    yield name
    _runner.run(_execute(database_url, f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
async def database(database_url: str, _template: str) -> AsyncIterator[str]:
    """URL of a fresh, migrated database of the test's own."""
    async with another_database(database_url, _template) as url:
        yield url


@asynccontextmanager
async def another_database(database_url: str, template: str) -> AsyncIterator[str]:
    """URL of a fresh, migrated database."""
    name = f"skydriver_test_{uuid.uuid4().hex[:12]}"
    await _execute(database_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    yield _with_database(database_url, name)
    await _execute(database_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def clean_bus(amqp_url: str) -> str:
    """The node's URL, with what earlier tests left in our queues removed."""
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        for name in _OUR_QUEUES:
            channel = await connection.channel()
            try:
                await channel.queue_delete(name)
            except aio_pika.exceptions.ChannelClosed:
                continue
    return amqp_url


_OUR_QUEUES = (
    "skydriver.dead-letters", "skydriver.scan.request", "skydriver.scan.rescan", "skydriver.scan.delete",
    "skydriver.scan.patch-manifest", "skydriver.scan.put-result", "skydriver.ewms.assign-workflow",
    "skydriver.ewms.add-workers", "skydriver.scanner.progress", "skydriver.scanner.result", "skydriver.scanner.failure",
)  # fmt: skip


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _with_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def port_of(amqp_url: str) -> int:
    """The port in a broker's URL."""
    port = urlsplit(amqp_url).port
    assert port is not None
    return port


def through(amqp_url: str, proxy: Proxy) -> str:
    """The broker's URL by way of a proxy before it."""
    return amqp_url.replace(f":{port_of(amqp_url)}/", f":{proxy.port}/")
