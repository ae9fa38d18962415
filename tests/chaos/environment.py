"""The whole system on servers of the test's own, each behind a proxy of the test's own."""

import asyncio
import glob
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from skydriver_cli.embedded import postgres, processes, rabbitmq
from skydriver_cli.embedded.environments import AUDIENCE, ISSUER
from skydriver_cli.embedded.ports import LOOPBACK, choose
from skydriver_cli.errors import CliError
from skydriver_cli.services import SERVICES
from skydriver_common import process_identity
from skydriver_common.auth import TokenSigner
from tests.support import previous_release
from tests.support.proxy import Proxy
from tests.support.waiting import pause, until

UP_LIMIT_S = 600.0
_REPLICATION = {"wal_level": "replica", "max_wal_senders": "5", "wal_keep_size": "256MB", "hot_standby": "on"}
_FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"
_SCANNER = Path(__file__).with_name("scanner.py")
REPLICAS = {"api": 2, "progress": 2, "ewms_bridge": 2}
DATABASE, BROKER = "postgres", "rabbitmq"


class OutageClock:
    """How long the database or the broker has been taken away on purpose; overlapping outages count once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._n_open = 0
        self._since = self._total_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Until now, an outage that goes on included."""
        return self._total_s + (self._clock() - self._since if self._n_open else 0.0)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Around a fault that takes one of them away, until it is back."""
        if not self._n_open:
            self._since = self._clock()
        self._n_open += 1
        try:
            yield
        finally:
            self._n_open -= 1
            if not self._n_open:
                self._total_s += self._clock() - self._since


class ChaosEnvironment:
    """Servers, proxies, the system's processes; what starts, hurts and finds them. Made by ``chaos_environment``."""

    def __init__(self, data_dir: Path, *, has_standby: bool) -> None:
        self.data_dir = data_dir
        self.outages = OutageClock()
        self.has_standby = has_standby
        self._database_home = data_dir / "postgres"
        self._standby: tuple[Path, postgres.Postgres] | None = None
        self._guests = 0
        self.connection: dict[str, str] = {}
        self.urls: list[str] = []
        self.services: list[str] = []
        self._ports = choose([*rabbitmq.PORTS, "postgres"], {})
        self.proxies = {DATABASE: Proxy(self._ports["postgres"]), BROKER: Proxy(self._ports["amqp"])}
        self._database: postgres.Postgres | None = None
        self._broker: rabbitmq.RabbitMQ | None = None
        self._up: processes.Child | None = None
        self._ready: dict[str, str] = {}

    @property
    def database_url(self) -> str:
        """Past the proxy: for the verifier."""
        assert self._database is not None
        return self._database.url

    @property
    def amqp_url(self) -> str:
        """Past the proxy: for the verifier."""
        assert self._broker is not None
        return self._broker.url

    @property
    def scanner_bus_url(self) -> str:
        """Through the proxy, as scanners go."""
        return self._through(BROKER, self.amqp_url)

    @property
    def work_dir(self) -> Path:
        return self.data_dir / "system" / "work"

    def signer(self) -> TokenSigner:
        """Makes the tokens that the dispatcher would give to scanners."""
        return TokenSigner.from_file(self.data_dir / "system" / "keys" / "key.pem", issuer=ISSUER, audience=AUDIENCE)

    async def start_database(self) -> None:
        """Start Postgres, again if it went; patient while processes of a killed one still end."""
        for patience in range(20, -1, -1):
            try:
                self._database = await self._start_postgres(self._database_home, self._database_port)
            except CliError:
                if not patience:
                    raise
                await pause(0.2)
            else:
                return

    @property
    def _database_port(self) -> int:
        return self._ports["postgres"] if self._database is None else self._database.port

    async def _start_postgres(self, home: Path, port: int) -> postgres.Postgres:
        return await postgres.start(
            home, port=port, run_dir=self.data_dir / "run", log=self.data_dir / "logs" / f"{home.name}.log", name=home.name,
            settings=_REPLICATION if self.has_standby else None,
        )  # fmt: skip

    async def start_standby(self) -> None:
        """A copy that follows the database; from then on a commit is in both."""
        assert self._database is not None
        home = self.data_dir / f"postgres-{time.monotonic_ns()}"
        home.mkdir()
        password = self._database_home / "password"
        (home / "password").write_bytes(password.read_bytes())
        (home / "password").chmod(0o600)
        # as the server's own user, who owns the copy
        owner = (self._database_home / "data").stat()
        os.chown(home, owner.st_uid, owner.st_gid)
        copying = await asyncio.create_subprocess_exec(
            str(postgres.binaries() / "pg_basebackup"), "--dbname", self._database.url, "--pgdata", str(home / "data"),
            "--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, problem = await copying.communicate()
        assert copying.returncode == 0, problem.decode(errors="replace")
        for path in (home / "data", *(home / "data").rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        port = choose(["standby"], {})["standby"]
        self._standby = (home, await self._start_postgres(home, port))
        connection = await asyncpg.connect(self._database.url)
        try:
            await _streams(connection)
            await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            await connection.execute("SELECT pg_reload_conf()")
        finally:
            await connection.close()

    async def promote(self) -> None:
        """The database dies for good; its copy takes its place, and gets a copy of its own."""
        if self._standby is None:
            raise ProcessLookupError
        (home, standby), self._standby = self._standby, None
        await self.stop_database(signal.SIGKILL)
        connection = await asyncpg.connect(standby.url)
        try:
            await connection.execute("SELECT pg_promote(true, 60)")
        finally:
            await connection.close()
        self._database_home, self._database = home, standby
        self.proxies[DATABASE].lead_to(standby.port)
        self.proxies[DATABASE].cut()
        await self.start_standby()

    async def set_read_only(self, *, is_read_only: bool) -> None:
        """As a database that has become a standby, or whose disk is full: it answers, and takes no write."""
        connection = await asyncpg.connect(self.database_url, server_settings={"default_transaction_read_only": "off"})
        try:
            await connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if is_read_only else 'off'}")
            await connection.execute("SELECT pg_reload_conf()")
        finally:
            await connection.close()

    @asynccontextmanager
    async def guest(
        self, service: str, environment: Mapping[str, str] | None = None, *, is_of_the_release_before: bool = False
    ) -> AsyncIterator[processes.Child]:
        """One more replica of a service for a while, of another release or with another environment. Left alone it is ended.

        Raises ProcessLookupError when the service does not run now, AssertionError when the guest does not start.
        """
        who = self.identity(service)
        if who is None:
            raise ProcessLookupError
        try:
            inherited = Path(f"/proc/{who.pid}/environ").read_bytes().decode().split("\0")
        except OSError:
            raise ProcessLookupError from None
        self._guests += 1
        name = f"{service}-guest-{self._guests}"
        ports = choose(["health", "http"], {})
        own = {
            "SKYDRIVER_REPLICA": name,
            "SKYDRIVER_HEALTH_PORT": str(ports["health"]),
            "SKYDRIVER_HTTP_PORT": str(ports["http"]),
        }
        known = dict(entry.split("=", 1) for entry in inherited if "=" in entry)
        if "SKYDRIVER_HTTP_PORT" not in known:
            del own["SKYDRIVER_HTTP_PORT"]
        python, module, settings = sys.executable, SERVICES[service], known | own | dict(environment or {})
        if is_of_the_release_before:
            python, module = previous_release.python(), previous_release.module_of(service, module)
            settings = previous_release.environment_of(settings)
        child = await processes.start(
            name, [python, "-m", module], env=settings, cwd=self.data_dir,
            log=self.data_dir / "logs" / f"{name}.log", identity_file=self.data_dir / "run" / f"{name}.pid.json",
        )  # fmt: skip
        url = f"http://{LOOPBACK}:{ports['http']}"
        try:
            async with aiohttp.ClientSession() as session:
                deadline = time.monotonic() + UP_LIMIT_S
                while not await self._is_ready(session, f"http://{LOOPBACK}:{ports['health']}/readyz"):
                    assert not child.has_ended, f"{name} did not start: {child.last_lines()}"
                    if time.monotonic() > deadline:
                        break  # others of its kind are not ready either, now
                    await pause(0.1)
            if service == "api":
                self.urls.append(url)
            yield child
        finally:
            if url in self.urls:
                self.urls.remove(url)
            await child.stop(grace_s=20.0)

    async def start_broker(self) -> None:
        """Start RabbitMQ, again if it went."""
        self._broker = await rabbitmq.start(
            self.data_dir / "rabbitmq", ports=self._ports, run_dir=self.data_dir / "run", logs=self.data_dir / "logs"
        )

    async def stop_database(self, how: signal.Signals) -> None:
        """SIGINT: fast, SIGQUIT: immediate, SIGKILL: as if the machine died."""
        assert self._database is not None
        await self._database.child.stop(ask=[] if how == signal.SIGKILL else [how], grace_s=20.0)

    async def stop_broker(self, how: signal.Signals) -> None:
        """SIGTERM: in order, SIGKILL: as if the machine died."""
        assert self._broker is not None
        await self._broker.child.stop(ask=[] if how == signal.SIGKILL else [how], grace_s=20.0)
        await self._broker.port_mapper.stop(grace_s=1.0)

    def server_processes(self, server: str) -> list[int]:
        """Numbers of all processes of a server."""
        found = self._database if server == DATABASE else self._broker
        assert found is not None
        root = found.child.who.pid
        children = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _parent(entry) == root]
        return [root, *children] if server == DATABASE else [root]

    def identity(self, service: str) -> process_identity.Identity | None:
        """The process that is this service now."""
        return process_identity.read(self.data_dir / "system" / "run" / f"{service}.pid.json")

    async def up(self) -> None:
        """Start the system itself, by its own command, and learn how to reach it."""
        home = self.data_dir / "system"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SKYDRIVER_", "SANDBOX_"))}
        environment |= {
            "SKYDRIVER_DATABASE_URL": self._through(DATABASE, self.database_url),
            "SKYDRIVER_AMQP_URL": self._through(BROKER, self.amqp_url),
            "SKYDRIVER_TEARDOWN_DELAY_S": "1",
            "SKYDRIVER_SCANNER_COMMAND": f"{sys.executable} -I -S '{_SCANNER}'",
        }
        replicas = [word for name, count in REPLICAS.items() for word in ("--replicas", f"{name}={count}")]
        self._up = await processes.start(
            "up",
            [sys.executable, "-m", "skydriver_cli.app", "up", "--data-dir", str(home), "--workers", "0", *replicas],
            env=environment,
            cwd=self.data_dir,
            log=self.data_dir / "up.log",
            identity_file=self.data_dir / "run" / "up.pid.json",
        )
        up = self._up

        def is_up() -> bool:
            assert not up.has_ended, f"the system did not start: {(self.data_dir / 'up.log').read_text()[-2000:]}"
            return (home / "connection.json").exists()

        await until(is_up, "the system is up", UP_LIMIT_S)
        self.connection = json.loads((home / "connection.json").read_text())
        self.urls = [url for name, url in self.connection.items() if name == "url" or name.startswith("url_")]
        ports = json.loads((home / "ports.json").read_text())
        self._ready = {
            name.removeprefix("health_"): f"http://{LOOPBACK}:{port}/readyz"
            for name, port in ports.items()
            if name.startswith("health_")
        } | {"sandbox": f"http://{LOOPBACK}:{ports['ewms']}/healthz"}
        self.services = sorted(self._ready)

    def _through(self, server: str, url: str) -> str:
        parts = urlsplit(url)
        assert parts.port is not None
        return url.replace(f":{parts.port}/", f":{self.proxies[server].port}/")

    async def not_ready(self, session: aiohttp.ClientSession) -> list[str]:
        """Names of processes that do not say that they are ready, now."""
        answers = await asyncio.gather(*(self._is_ready(session, url) for url in self._ready.values()))
        return [name for name, is_ready in zip(self._ready, answers, strict=True) if not is_ready]

    async def _is_ready(self, session: aiohttp.ClientSession, url: str) -> bool:
        try:
            async with session.get(url, timeout=aiohttp.ClientTimeout(total=3)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def down(self) -> None:
        """Stop everything that was started here, by id."""
        if self._up is not None:
            await self._up.stop(grace_s=40.0)
        for proxy in self.proxies.values():
            proxy.flow()
            await proxy.close()
        if self._broker is not None:
            await self._broker.stop()
        for server in (self._database, self._standby and self._standby[1]):
            if server is not None:
                await server.stop()
        await processes.end_all([*(self.data_dir / "system").rglob("*.pid.json")], grace_s=2.0)


@asynccontextmanager
async def chaos_environment(data_dir: Path, *, has_standby: bool = False) -> AsyncIterator[ChaosEnvironment]:
    """Everything started and ready; everything stopped on leaving. data_dir: empty, of this run alone.

    has_standby: the database has a copy that can take its place.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    field = ChaosEnvironment(data_dir, has_standby=has_standby)
    try:
        await asyncio.gather(field.start_database(), field.start_broker())
        if has_standby:
            await field.start_standby()
        for proxy in field.proxies.values():
            await proxy.open()
        await field.up()
        yield field
    finally:
        await field.down()


async def _streams(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Wait until a standby follows."""
    follows = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
    await until(lambda: connection.fetchval(follows), "the standby follows", UP_LIMIT_S)


def faketime() -> str | None:
    """The library that gives a process another clock (Debian: libfaketime), where it is installed."""
    return next(iter(glob.glob(_FAKETIME)), None)


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0
