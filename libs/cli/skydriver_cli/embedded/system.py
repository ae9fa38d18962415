"""The embedded system: what runs, in which order, with which environment; started, supervised, stopped."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import orjson

from skydriver_cli.connections import schema_problems
from skydriver_cli.embedded import postgres, processes, rabbitmq
from skydriver_cli.embedded.ports import LOOPBACK, choose_and_remember, is_free
from skydriver_cli.embedded.secret_files import secret, write_private
from skydriver_cli.embedded.up_settings import Given, given_settings, place
from skydriver_cli.errors import Problem
from skydriver_common.auth import TokenSigner, ensure_key
from skydriver_common.auth.signing import JWKS_NAME
from skydriver_common.db import migrate
from skydriver_ops.db import roles

SERVICES = {
    "api": "skydriver_api",
    "dispatcher": "skydriver_dispatcher",
    "progress": "skydriver_progress",
    "ewms_bridge": "skydriver_ewms_bridge",
}
REPLICABLE = ("api", "progress", "ewms_bridge")
"""Services that may run as more than one process here. Not the dispatcher: its local launcher wants a work folder of its own."""
ISSUER, AUDIENCE, BUCKET = "skydriver-local", "skydriver", "skydriver"
READY_LIMIT_S = 60.0
STOP_LIMIT_S = 6.0
_MAX_PAUSE_S = 30.0
_HEALTHY_S = 10.0
INHERITED_VARIABLES = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)

_Started = TypeVar("_Started", postgres.Postgres, rabbitmq.RabbitMQ)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to start. http_port: None = any free one. workers: most worker processes of the sandbox.

    replicas: name of a service (of REPLICABLE) to its number of processes, where it is not one.
    """

    data_dir: Path
    http_port: int | None = None
    workers: int = 2
    sandbox: bool = True
    replicas: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Component:
    """One process of the system, and how to start it again."""

    name: str
    argv: list[str]
    environment: dict[str, str]
    ready_url: str
    child: processes.Child | None = None
    restarts: int = 0


@dataclass(slots=True)
class Server:
    """Postgres or RabbitMQ, where it is ours, and how to start it again on the same folder and port."""

    name: str
    start: Callable[[], Awaitable[postgres.Postgres | rabbitmq.RabbitMQ]]
    running: postgres.Postgres | rabbitmq.RabbitMQ | None = None

    async def stop(self) -> None:
        """End it, if it runs."""
        if self.running is not None:
            await self.running.stop()


@dataclass(slots=True)
class System:
    """A running embedded system. where: name of each part to its address, without secrets. connection: what is needed to use it."""

    data_dir: Path
    url: str
    servers: list[Server]
    parts: list[Component]
    where: dict[str, str]
    connection: dict[str, str] = field(repr=False)
    say: Say
    stop_limit_s: float = STOP_LIMIT_S
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def supervise(self) -> None:
        """Start again whatever dies, with growing pauses, until ``stopping`` is set."""
        await asyncio.gather(*(self._keep(part) for part in self.parts), *(self._keep_server(each) for each in self.servers))

    async def _keep_server(self, server: Server) -> None:
        failures = 0
        while not self.stopping.is_set():
            if server.running is not None:
                child = server.running.child
                await _first(child.process.wait(), self.stopping.wait())
                if self.stopping.is_set():
                    return
                self.say(f"{server.name} ended with exit code {child.process.returncode} and is started again")
                await server.stop()  # what belongs to it: identity file, port mapper
                server.running = None
            await _first(asyncio.sleep(min(_MAX_PAUSE_S, 0.5 * 2.0 ** min(failures, 8))), self.stopping.wait())
            if self.stopping.is_set():
                return
            starting, stop = asyncio.ensure_future(server.start()), asyncio.ensure_future(self.stopping.wait())
            await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if not starting.done():
                starting.cancel()
            try:
                server.running = await starting
            except asyncio.CancelledError:
                return
            except (OSError, Problem) as problem:  # OSError: the disk is full, no process can be made
                failures += 1
                self.say(f"{server.name} could not be started and is tried again: {problem}")
            else:
                failures = 0
                self.say(f"{server.name} was started again")

    async def _keep(self, part: Component) -> None:
        while not self.stopping.is_set():
            assert part.child is not None
            started = time.monotonic()
            await _first(part.child.process.wait(), self.stopping.wait())
            if self.stopping.is_set():
                return
            part.restarts = 0 if time.monotonic() - started > _HEALTHY_S else part.restarts + 1
            pause_s = min(_MAX_PAUSE_S, 0.5 * 2.0 ** min(part.restarts, 8))
            code = part.child.process.returncode
            self.say(
                f"{part.name} ended with exit code {code} and is started again in {pause_s:g} s: {part.child.last_lines(1)}"
            )
            await _first(asyncio.sleep(pause_s), self.stopping.wait())
            while not self.stopping.is_set():
                try:
                    await _start(self.data_dir, part)
                except (OSError, Problem) as problem:  # OSError: the disk is full, no process can be made
                    self.say(f"{part.name} could not be started and is tried again in {_MAX_PAUSE_S:g} s: {problem}")
                    await _first(asyncio.sleep(_MAX_PAUSE_S), self.stopping.wait())
                else:
                    self.say(f"{part.name} was started again")
                    break


@contextlib.asynccontextmanager
async def running(options: Options, say: Say) -> AsyncIterator[System]:
    """Start everything, yield the system once it is ready; on leaving, stop everything that was started.

    Raises Problem with one readable line for whatever prevents the start.
    """
    data = options.data_dir
    given = given_settings(os.environ, has_sandbox=options.sandbox)
    for warning in given.warnings:
        say(warning)
    with _owned(data):
        if options.http_port is not None and not is_free(options.http_port):
            raise Problem(f"port {options.http_port} is in use", "Choose another --http-port, or leave it out")
        left = await _kill_leftovers(data)
        if left:
            say(f"ended what an earlier run had left behind: {', '.join(left)}")
        ports = choose_and_remember(
            [
                *rabbitmq.PORTS, "postgres", "http", "ewms",
                *(f"http_{number}" for number in range(2, options.replicas.get("api", 1) + 1)),
                *(f"health_{name}" for service in SERVICES for name in _processes_of(service, options)),
            ],
            data / "ports.json",
        )  # fmt: skip
        if options.http_port is not None:
            ports["http"] = options.http_port
        async with contextlib.AsyncExitStack() as stack:
            signer = await asyncio.to_thread(_signer, data)
            servers = await _servers(data, ports, stack, signer, given)
            system = await asyncio.to_thread(_describe, options, ports, servers, signer, given, say)
            stack.push_async_callback(_stop, system)
            await asyncio.gather(*(_start(data, part) for part in system.parts))
            await _all_ready(system)
            write_private(data / "connection.json", orjson.dumps(system.connection, option=orjson.OPT_INDENT_2))
            yield system


@dataclass(frozen=True, slots=True)
class _Servers:
    """Where Postgres and RabbitMQ are, secrets included. scanner_bus_url: where a scan's token is a login, None: nowhere.

    database_urls: service to a login of its own, with the rights of its role; empty on a database that is not ours.
    """

    database_url: str
    database_urls: dict[str, str]
    amqp_url: str
    scanner_bus_url: str | None
    ours: list[Server]


def _key_file(data: Path) -> Path:
    return data / "keys" / "key.pem"


def _signer(data: Path) -> TokenSigner:
    ensure_key(_key_file(data))
    return TokenSigner.from_file(_key_file(data), issuer=ISSUER, audience=AUDIENCE)


async def _servers(
    data: Path, ports: dict[str, int], stack: contextlib.AsyncExitStack, signer: TokenSigner, given: Given
) -> _Servers:
    """Postgres and RabbitMQ, started side by side unless the environment names others; the database migrated."""
    logs, run = data / "logs", data / "run"
    database_url, amqp_url = given.get("DATABASE_URL"), given.get("AMQP_URL")

    ours: list[Server] = []

    async def kept(name: str, start: Callable[[], Awaitable[_Started]]) -> _Started:
        running = await start()
        ours.append(Server(name, start, running))
        stack.push_async_callback(ours[-1].stop)
        return running

    async def database() -> tuple[str, dict[str, str]]:
        if database_url:
            url = database_url
        else:
            url = (await kept("postgres", partial(
                postgres.start, data / "postgres", port=ports["postgres"], run_dir=run, log=logs / "postgres.log"
            ))).url  # fmt: skip
        with schema_problems("Upgrade this checkout, or use another --data-dir"):
            await asyncio.to_thread(migrate.migrate, url)
        return url, {} if database_url else await asyncio.to_thread(_service_logins, url, data / "keys")

    async def broker() -> tuple[str, str | None]:
        if amqp_url:
            return amqp_url, None
        trusted = rabbitmq.ScanTokens(AUDIENCE, signer.kid, signer.public_pem())
        node = await kept("rabbitmq", partial(
            rabbitmq.start, data / "rabbitmq", ports=ports, run_dir=run, logs=logs, scan_tokens=trusted
        ))  # fmt: skip
        return node.url, f"amqp://{LOOPBACK}:{node.port}/" if node.takes_scan_tokens else None

    urls, bus = await asyncio.gather(database(), broker(), return_exceptions=True)
    if isinstance(urls, BaseException):
        raise urls
    if isinstance(bus, BaseException):
        raise bus
    return _Servers(*urls, *bus, ours)


def _service_logins(owner_url: str, keys: Path) -> dict[str, str]:
    """Service to its URL of the database, whose login has no more rights than the service needs."""
    passwords = {role: secret(keys / f"database_{service}") for service, role in roles.SERVICE_ROLES.items()}
    roles.apply_roles(owner_url, passwords=passwords)
    parts = urlsplit(owner_url)
    place = parts.netloc.rpartition("@")[2]
    return {
        service: parts._replace(netloc=f"{role}:{passwords[role]}@{place}").geturl()
        for service, role in roles.SERVICE_ROLES.items()
    }


def _describe(
    options: Options, ports: dict[str, int], servers: _Servers, signer: TokenSigner, given: Given, say: Say
) -> System:
    """The processes and their environments; tokens are made on the way.

    A service gets our defaults, then what the environment gives it, then what we must set ourselves.
    """
    data = options.data_dir
    url = f"http://{LOOPBACK}:{ports['http']}"
    inherited = {name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ}
    client_secret, s3_secret = secret(data / "keys" / "ewms_client"), secret(data / "keys" / "object_store")
    defaults = _defaults(options, ports, servers, given, client_secret, s3_secret)
    ours = _ours(data, ports, url)
    scanner = {name: value for name, value in os.environ.items() if name.startswith("SANDBOX_SCAN")}
    parts = [
        Component(
            name,
            [sys.executable, "-m", SERVICES[service]],
            inherited | defaults.get(service, {}) | dict(given.by_service[service]) | ours[service]
            | {"SKYDRIVER_DATABASE_URL": servers.database_urls.get(service, servers.database_url), "SKYDRIVER_AMQP_URL": servers.amqp_url}
            | (scanner if service == "dispatcher" else {})
            | {"SKYDRIVER_HEALTH_PORT": str(ports[f"health_{name}"]), "SKYDRIVER_REPLICA": name}
            | ({"SKYDRIVER_HTTP_PORT": str(ports[f"http_{number}"])} if service == "api" and number > 1 else {}),
            f"http://{LOOPBACK}:{ports[f'health_{name}']}/readyz",
        )
        for service in SERVICES
        for number, name in enumerate(_processes_of(service, options), start=1)
    ]  # fmt: skip
    if options.sandbox:
        parts.insert(0, _sandbox(options, ports, inherited, servers.amqp_url, client_secret, s3_secret))
    where = {"REST API": url, "data folder": str(data)} | _partners(options, servers, given, defaults["ewms_bridge"])
    connection = {
        "url": url,
        "user_token": signer.user_token(),
        "system_token": signer.system_token(),
        "database_url": servers.database_url,
        "amqp_url": servers.amqp_url,
    }
    if options.sandbox:
        connection["sandbox_url"] = f"http://{LOOPBACK}:{ports['ewms']}"
        connection["sandbox_token"] = secret(data / "keys" / "sandbox_admin")
    for number in range(2, options.replicas.get("api", 1) + 1):
        where[f"REST API {number}"] = connection[f"url_{number}"] = f"http://{LOOPBACK}:{ports[f'http_{number}']}"
    return System(data, url, servers.ours, parts, where, connection, say, stop_limit_s=_stop_limit_s(given))


def _defaults(
    options: Options, ports: Mapping[str, int], servers: _Servers, given: Given, client_secret: str, s3_secret: str
) -> dict[str, dict[str, str]]:
    """Service to the settings that differ from its own defaults here, unless the environment gives others."""
    ewms_url = given.get("EWMS_URL") or f"http://{LOOPBACK}:{ports['ewms']}"
    bridge = {
        "SKYDRIVER_EWMS_URL": ewms_url,
        "SKYDRIVER_EWMS_ISSUER": ewms_url,
        "SKYDRIVER_EWMS_CLIENT_ID": "skydriver",
        "SKYDRIVER_EWMS_CLIENT_SECRET": client_secret,
        "SKYDRIVER_S3_URL": ewms_url,
        "SKYDRIVER_S3_KEY_ID": "skydriver",
        "SKYDRIVER_S3_SECRET": s3_secret,
        "SKYDRIVER_S3_BUCKET": BUCKET,
    }
    if options.sandbox:
        # the stand-in is ours alone and fast; a real EWMS gets the patience and the pace of the bridge's own defaults
        bridge |= {
            "SKYDRIVER_INSTANCE": "local",
            "SKYDRIVER_WORKFORCE_INTERVAL_S": "5",
            "SKYDRIVER_WORKFORCE_FAST_INTERVAL_S": "1",
            "SKYDRIVER_QUEUE_ACTIVATION_POLL_S": "0.5",
            "SKYDRIVER_EWMS_UNKNOWN_OUTCOME_WAIT_S": "20",
        }
    else:
        # it is shared, and no two installations may have the same name
        bridge["SKYDRIVER_INSTANCE"] = f"local-{hashlib.sha256(client_secret.encode()).hexdigest()[:12]}"
    return {
        "dispatcher": {
            "SKYDRIVER_LAUNCH_INTERVAL_S": "0",
            "SKYDRIVER_SCANNER_PROGRESS_INTERVAL_S": "1",
            "SKYDRIVER_SCANNER_RESULT_INTERVAL_S": "5",
            "SKYDRIVER_SCANNER_KILL_SWITCH_INTERVAL_S": "10",
            **({"SKYDRIVER_SCANNER_BUS_URL": servers.scanner_bus_url} if servers.scanner_bus_url else {}),
        },
        "ewms_bridge": bridge,
    }


def _ours(data: Path, ports: Mapping[str, int], url: str) -> dict[str, dict[str, str]]:
    """Service to the settings that nobody else may choose: they belong to the keys, ports and folders made here."""
    key_file = _key_file(data)
    jwks = {"SKYDRIVER_AUTH_JWKS_FILE": str(key_file.with_name(JWKS_NAME))}
    auth = {"SKYDRIVER_AUTH_ISSUER": ISSUER, "SKYDRIVER_AUTH_AUDIENCE": AUDIENCE}
    work = {"SKYDRIVER_WORK_DIR": str(data / "work")}
    return {
        "api": auth | jwks | {"SKYDRIVER_HTTP_HOST": LOOPBACK, "SKYDRIVER_HTTP_PORT": str(ports["http"])},
        "dispatcher": auth | work | {"SKYDRIVER_PUBLIC_URL": url, "SKYDRIVER_SCAN_TOKEN_KEY_FILE": str(key_file)},
        "progress": auth | jwks,
        "ewms_bridge": work,
    }


def _partners(options: Options, servers: _Servers, given: Given, bridge: Mapping[str, str]) -> dict[str, str]:
    """What the system works with, and whose it is; addresses without logins."""

    def whose(setting: str, embedded: str = "embedded") -> str:
        return embedded if given.get(setting) is None else f"SKYDRIVER_{setting}"

    found = {
        "database": f"{place(servers.database_url)} ({whose('DATABASE_URL')})",
        "broker": f"{place(servers.amqp_url)} ({whose('AMQP_URL')})",
    }
    if not options.sandbox and given.get("EWMS_URL") is None:
        return found | {"EWMS": "none: SKYDRIVER_EWMS_URL is not set, and scans get no workers"}
    return found | {
        "EWMS": f"{place(bridge['SKYDRIVER_EWMS_URL'])} ({whose('EWMS_URL', 'stand-in')})",
        "object store": f"{place(given.get('S3_URL') or bridge['SKYDRIVER_S3_URL'])} ({whose('S3_URL', 'stand-in')})",
    }


def _stop_limit_s(given: Given) -> float:
    """How long services may take to stop: at least what they grant their work in hand."""
    try:
        return max(STOP_LIMIT_S, float(given.get("SHUTDOWN_GRACE_S") or 0))
    except ValueError:  # the services refuse it by name
        return STOP_LIMIT_S


def _processes_of(service: str, options: Options) -> list[str]:
    """Names of a service's processes: ``progress``, ``progress-2`` …"""
    return [service, *(f"{service}-{number}" for number in range(2, options.replicas.get(service, 1) + 1))]


def _sandbox(
    options: Options, ports: dict[str, int], inherited: Mapping[str, str], amqp_url: str, client_secret: str, s3_secret: str
) -> Component:
    base = f"http://{LOOPBACK}:{ports['ewms']}"
    environment = dict(inherited) | {name: value for name, value in os.environ.items() if name.startswith("SANDBOX_")}
    return Component(
        "sandbox",
        [
            sys.executable, "-m", "skydriver_sandbox.ewms", "--port", str(ports["ewms"]),
            "--data-dir", str(options.data_dir / "sandbox"), "--max-local-workers", str(options.workers),
        ],
        environment
        | {
            "SANDBOX_AMQP_URL": amqp_url,
            "SANDBOX_CLIENT_ID": "skydriver",
            "SANDBOX_CLIENT_SECRET": client_secret,
            "SANDBOX_S3_KEY_ID": "skydriver",
            "SANDBOX_S3_SECRET": s3_secret,
            "SANDBOX_ADMIN_TOKEN": secret(options.data_dir / "keys" / "sandbox_admin"),
        },
        f"{base}/healthz",
    )  # fmt: skip


async def _start(data: Path, part: Component) -> None:
    part.child = await processes.start(
        part.name,
        part.argv,
        env=part.environment,
        cwd=data,
        log=data / "logs" / f"{part.name}.log",
        identity_file=data / "run" / f"{part.name}.pid.json",
    )


async def _all_ready(system: System) -> None:
    """Wait until every part says it is ready; a part that fails again and again is a Problem."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        await asyncio.gather(*(_ready(system, part, session) for part in system.parts))


async def _ready(system: System, part: Component, session: aiohttp.ClientSession) -> None:
    deadline = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline:
        assert part.child is not None
        if part.child.has_ended:
            # 2: impossible as configured; else something was away for a moment
            if part.child.process.returncode == 2 or part.restarts >= 3:
                raise Problem(f"{part.name} does not start: {part.child.last_lines(2)}", f"Its log is {part.child.log}")
            part.restarts += 1
            await asyncio.sleep(0.5)
            await _start(system.data_dir, part)
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with session.get(part.ready_url) as response:
                if response.status == 200:
                    part.restarts = 0
                    return
        await asyncio.sleep(0.05)
    raise Problem(
        f"{part.name} is not ready after {READY_LIMIT_S:g} s", f"Its log is {system.data_dir / 'logs' / (part.name + '.log')}"
    )


async def _stop(system: System) -> None:
    """Services first, then scanners and workers, all by identity; servers follow from the exit stack."""
    system.stopping.set()
    await asyncio.gather(*(part.child.stop(grace_s=system.stop_limit_s) for part in system.parts if part.child is not None))
    await processes.sweep([*_scanners_and_workers(system.data_dir)], grace_s=2.0)
    (system.data_dir / "connection.json").unlink(missing_ok=True)


async def end_leftovers(data: Path) -> list[str]:
    """End what a killed ``up`` has left running on this folder and forget its connection; names what was ended.

    Raises Problem while a system runs on it, or the folder cannot be used.
    """
    if not (data / "run").is_dir():
        return []
    with _owned(data):
        left = await _kill_leftovers(data)
        (data / "connection.json").unlink(missing_ok=True)
    return left


async def _kill_leftovers(data: Path) -> list[str]:
    """End what an earlier run has left: services and scanners first, servers after them."""
    run = data / "run"
    servers = [run / f"{name}.pid.json" for name in ("postgres", "rabbitmq", "epmd")]
    others = [
        path
        for path in (*run.glob("*.pid.json"), *_scanners_and_workers(data))
        if path not in servers and path.name != "up.pid.json"
    ]
    left = await processes.sweep(others, grace_s=2.0)
    left += await processes.sweep(servers[:1], ask=(signal.SIGINT,), grace_s=8.0)
    left += await processes.sweep(servers[1:2], grace_s=8.0)
    left += await processes.sweep(servers[2:], grace_s=2.0)
    return left


def _scanners_and_workers(data: Path) -> list[Path]:
    return [*(data / "work").glob("*/*.pid.json"), *(data / "sandbox").rglob("*.pid.json")]


@contextlib.contextmanager
def _owned(data: Path) -> Iterator[None]:
    """Keep others from starting on the same data folder. Raises Problem."""
    try:
        for folder in (data, data / "run", data / "logs", data / "work"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o755 if folder == data else 0o700)
        lock = (data / "run" / "up.lock").open("w")
    except OSError as error:
        raise Problem(f"the data folder {data} can't be written: {error.strerror}", "Choose another --data-dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Problem(
                f"a system runs on {data} already", "Stop it with `skydriver down`, or choose another --data-dir"
            ) from error
        me = processes.identify(os.getpid())
        assert me is not None
        me.write(data / "run" / "up.pid.json")
        try:
            yield
        finally:
            (data / "run" / "up.pid.json").unlink(missing_ok=True)


async def _first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Return when the first of the waits has ended; cancel the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
