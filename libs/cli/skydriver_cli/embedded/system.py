"""The embedded system: everything started in order, and stopped in reverse."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
import orjson

from skydriver_cli.connections import schema_problems
from skydriver_cli.embedded import postgres, processes, rabbitmq
from skydriver_cli.embedded.data_directory import kill_leftovers, locked_data_dir, scanner_and_worker_files
from skydriver_cli.embedded.environments import AUDIENCE, ISSUER, ServerAddresses, describe_system, key_file, process_names
from skydriver_cli.embedded.options import Options
from skydriver_cli.embedded.ports import LOOPBACK, choose_and_remember, is_free
from skydriver_cli.embedded.secret_files import load_or_create_secret, write_private
from skydriver_cli.embedded.supervision import Component, Server, StatusCallback, System, start_component
from skydriver_cli.embedded.up_settings import Given, given_settings
from skydriver_cli.errors import CliError
from skydriver_cli.services import SERVICES
from skydriver_common.auth import TokenSigner, ensure_key
from skydriver_common.db import migrate
from skydriver_ops.db import roles

READY_LIMIT_S = 60.0

_Started = TypeVar("_Started", postgres.Postgres, rabbitmq.RabbitMQ)


@contextlib.asynccontextmanager
async def running(options: Options, print_status: StatusCallback) -> AsyncIterator[System]:
    """Start everything, yield the system once it is ready, and stop everything on exit.

    Raises CliError for whatever prevents the start.
    """
    data_dir = options.data_dir
    given = await asyncio.to_thread(given_settings, os.environ, has_sandbox=options.sandbox)
    for warning in given.warnings:
        print_status(warning)
    with locked_data_dir(data_dir):
        if options.http_port is not None and not is_free(options.http_port):
            raise CliError(f"port {options.http_port} is in use", "Choose another --http-port, or leave it out")
        if leftovers := await kill_leftovers(data_dir):
            print_status(f"stopped processes left over from an earlier run: {', '.join(leftovers)}")
        ports = choose_and_remember(
            [
                *rabbitmq.PORTS, "postgres", "http", "ewms",
                *(f"http_{number}" for number in range(2, options.replicas.get("api", 1) + 1)),
                *(f"health_{name}" for service in SERVICES for name in process_names(service, options)),
            ],
            data_dir / "ports.json",
        )  # fmt: skip
        if options.http_port is not None:
            ports["http"] = options.http_port
        async with contextlib.AsyncExitStack() as stack:
            signer = await asyncio.to_thread(load_signer, data_dir)
            servers = await _start_servers(data_dir, ports, stack, signer, given)
            system = await asyncio.to_thread(describe_system, options, ports, servers, signer, given, print_status)
            stack.push_async_callback(_stop_system, system)
            await asyncio.gather(*(start_component(data_dir, component) for component in system.components))
            await _wait_until_all_ready(system)
            write_private(data_dir / "connection.json", orjson.dumps(system.connection, option=orjson.OPT_INDENT_2))
            yield system


def load_signer(data_dir: Path) -> TokenSigner:
    """Return the signer of this system's tokens; its key is created the first time."""
    ensure_key(key_file(data_dir))
    return TokenSigner.from_file(key_file(data_dir), issuer=ISSUER, audience=AUDIENCE)


async def _start_servers(
    data_dir: Path, ports: dict[str, int], stack: contextlib.AsyncExitStack, signer: TokenSigner, given: Given
) -> ServerAddresses:
    """Start Postgres and RabbitMQ at the same time, each unless the environment names another, and migrate the database."""
    logs, run = data_dir / "logs", data_dir / "run"
    database_url, amqp_url = given.get("DATABASE_URL"), given.get("AMQP_URL")

    embedded: list[Server] = []

    async def start_server(name: str, start: Callable[[], Awaitable[_Started]]) -> _Started:
        running = await start()
        embedded.append(Server(name, start, running))
        stack.push_async_callback(embedded[-1].stop)
        return running

    async def database() -> tuple[str, dict[str, str]]:
        if database_url:
            url = database_url
        else:
            url = (await start_server("postgres", partial(
                postgres.start, data_dir / "postgres", port=ports["postgres"], run_dir=run, log=logs / "postgres.log"
            ))).url  # fmt: skip
        with schema_problems("Upgrade this checkout, or use another --data-dir"):
            await asyncio.to_thread(migrate.migrate, url)
        return url, {} if database_url else await asyncio.to_thread(_service_logins, url, data_dir / "keys")

    async def broker() -> tuple[str, str | None]:
        if amqp_url:
            return amqp_url, None
        token_auth = rabbitmq.BrokerTokenAuth(AUDIENCE, signer.kid, signer.public_pem())
        node = await start_server("rabbitmq", partial(
            rabbitmq.start, data_dir / "rabbitmq", ports=ports, run_dir=run, logs=logs, token_auth=token_auth
        ))  # fmt: skip
        return node.url, f"amqp://{LOOPBACK}:{node.port}/" if node.accepts_scan_tokens else None

    urls, bus = await asyncio.gather(database(), broker(), return_exceptions=True)
    if isinstance(urls, BaseException):
        raise urls
    if isinstance(bus, BaseException):
        raise bus
    return ServerAddresses(*urls, *bus, embedded)


def _service_logins(owner_url: str, keys: Path) -> dict[str, str]:
    """Return service to its database URL, whose login has no more privileges than the service needs."""
    passwords = {role: load_or_create_secret(keys / f"database_{service}") for service, role in roles.SERVICE_ROLES.items()}
    roles.apply_roles(owner_url, passwords=passwords)
    parts = urlsplit(owner_url)
    host = parts.netloc.rpartition("@")[2]
    return {
        service: parts._replace(netloc=f"{role}:{passwords[role]}@{host}").geturl()
        for service, role in roles.SERVICE_ROLES.items()
    }


async def _wait_until_all_ready(system: System) -> None:
    """Wait until every component is ready. Raises CliError for a component that keeps failing."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        await asyncio.gather(*(_wait_until_ready(system, component, session) for component in system.components))


async def _wait_until_ready(system: System, component: Component, session: aiohttp.ClientSession) -> None:
    deadline = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline:
        assert component.child is not None
        if component.child.has_ended:
            # 2: the configuration is invalid. Otherwise something was unavailable for a moment
            if component.child.process.returncode == 2 or component.restarts >= 3:
                raise CliError(
                    f"{component.name} failed to start: {component.child.last_lines(2)}", f"See {component.child.log}"
                )
            component.restarts += 1
            await asyncio.sleep(0.5)
            await start_component(system.data_dir, component)
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with session.get(component.ready_url) as response:
                if response.status == 200:
                    component.restarts = 0
                    return
        await asyncio.sleep(0.05)
    raise CliError(
        f"{component.name} is not ready after {READY_LIMIT_S:g} s",
        f"See {system.data_dir / 'logs' / (component.name + '.log')}",
    )


async def _stop_system(system: System) -> None:
    """Stop services first, then scanners and workers, all by identity. The exit stack stops the servers."""
    system.stopping.set()
    children = [component.child for component in system.components if component.child is not None]
    await asyncio.gather(*(child.stop(grace_s=system.stop_limit_s) for child in children))
    await processes.end_all([*scanner_and_worker_files(system.data_dir)], grace_s=2.0)
    (system.data_dir / "connection.json").unlink(missing_ok=True)
