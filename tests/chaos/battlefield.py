"""The whole system on servers of the test's own, each behind a proxy of the test's own."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from skydriver_cli.embedded import postgres, processes, rabbitmq
from skydriver_cli.embedded.ports import LOOPBACK, choose
from skydriver_cli.embedded.processes import Identity
from skydriver_cli.problems import Problem
from skydriver_cli.system import AUDIENCE, ISSUER
from skydriver_common.auth import TokenSigner
from tests.support.proxy import Proxy

UP_LIMIT_S = 120.0
_SCANNER = Path(__file__).with_name("scanner.py")
REPLICAS = {"api": 2, "progress": 2, "ewms_bridge": 2}
DATABASE, BROKER = "postgres", "rabbitmq"


class Battlefield:
    """Servers, proxies, the system's processes; what starts, hurts and finds them. Made by ``battlefield``."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
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
        """Past the proxy: for the judge."""
        assert self._database is not None
        return self._database.url

    @property
    def amqp_url(self) -> str:
        """Past the proxy: for the judge."""
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
                self._database = await postgres.start(
                    self.data_dir / "postgres", port=self._ports["postgres"], run_dir=self.data_dir / "run",
                    log=self.data_dir / "logs" / "postgres.log",
                )  # fmt: skip
            except Problem:
                if not patience:
                    raise
                await asyncio.sleep(0.2)
            else:
                return

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

    def identity(self, service: str) -> Identity | None:
        """The process that is this service now."""
        return Identity.read(self.data_dir / "system" / "run" / f"{service}.pid.json")

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
        deadline = time.monotonic() + UP_LIMIT_S
        while not (home / "connection.json").exists():
            if self._up.has_ended or time.monotonic() > deadline:
                raise AssertionError(f"the system did not start: {(self.data_dir / 'up.log').read_text()[-2000:]}")
            await asyncio.sleep(0.05)
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
        if self._database is not None:
            await self._database.stop()
        await processes.sweep([*(self.data_dir / "system").rglob("*.pid.json")], grace_s=2.0)


@asynccontextmanager
async def battlefield(data_dir: Path) -> AsyncIterator[Battlefield]:
    """Everything started and ready; everything stopped on leaving. data_dir: empty, of this fight alone."""
    data_dir.mkdir(parents=True, exist_ok=True)
    field = Battlefield(data_dir)
    try:
        await asyncio.gather(field.start_database(), field.start_broker())
        for proxy in field.proxies.values():
            await proxy.open()
        await field.up()
        yield field
    finally:
        await field.down()


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0
