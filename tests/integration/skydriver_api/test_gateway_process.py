"""The gateway as a process: it answers while a thousand clients are silent, and while the broker is away."""

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from skydriver_cli.embedded.ports import LOOPBACK, choose
from skydriver_common.auth.signing import TokenSigner, ensure_key
from tests.support.histories import a_store
from tests.support.proxy import proxying
from tests.support.servers import port_of, through
from tests.support.waiting import until

SILENT = 1050


@dataclass
class Gateway:
    """headers: of a user."""

    url: str
    health_url: str
    port: int
    log: Path
    headers: dict[str, str]
    session: aiohttp.ClientSession

    async def status(self, path: str, url: str = "", method: str = "GET", **options: Any) -> int:
        """The status of an answer, 0 when there is none."""
        try:
            async with self.session.request(method, (url or self.url) + path, headers=self.headers, **options) as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    async def not_ready(self) -> list[str]:
        async with self.session.get(f"{self.health_url}/readyz") as answer:
            return list((await answer.json())["not_ready"])

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What it has logged under this name."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]


@asynccontextmanager
async def _gateway(
    database: str, amqp_url: str, folder: Path, *, limits: str = "", silence_s: float = 10.0
) -> AsyncIterator[Gateway]:
    """limits: words for the shell that starts it. silence_s: how long a connection may wait for its first request."""
    ports = choose(["http", "health"], {})
    jwks = ensure_key(folder / "key.pem")
    signer = TokenSigner.from_file(folder / "key.pem", issuer="skydriver-local", audience="skydriver")
    environment = {
        **os.environ, "SKYDRIVER_DATABASE_URL": database, "SKYDRIVER_AMQP_URL": amqp_url, "SKYDRIVER_AUTH_JWKS_FILE": str(jwks),
        "SKYDRIVER_HTTP_PORT": str(ports["http"]), "SKYDRIVER_HEALTH_PORT": str(ports["health"]),
    }  # fmt: skip
    log = folder / "gateway.log"
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", f'{limits} exec "$0" -c "$1"', sys.executable,
            f"from skydriver_api import main; main._FIRST_REQUEST_S = {silence_s}; main.main()",
            stdout=sink, stderr=sink, env=environment,
        )  # fmt: skip
    headers = {"Authorization": f"Bearer {signer.user_token()}"}
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True)) as session:
        gateway = Gateway(
            f"http://{LOOPBACK}:{ports['http']}", f"http://{LOOPBACK}:{ports['health']}", ports["http"], log, headers, session
        )

        async def answers() -> bool:
            assert process.returncode is None, log.read_text()
            return await gateway.status("/openapi.json") == 200

        try:
            await until(answers)
            yield gateway
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 120) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@asynccontextmanager
async def _silent_clients(gateway: Gateway, number: int) -> AsyncIterator[None]:
    """Connections on which nothing is said."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        made = [await asyncio.open_connection(LOOPBACK, gateway.port) for _ in range(number)]
        yield
        for _, writer in made:
            writer.transport.abort()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_thousand_silent_clients_do_not_block_a_gateway_with_the_usual_soft_limit(
    database: str, clean_bus: str, tmp_path: Path
) -> None:
    async with (
        _gateway(database, clean_bus, tmp_path, limits="ulimit -Sn 1024;") as gateway,
        _silent_clients(gateway, SILENT),
    ):
        assert await gateway.status("/openapi.json") == 200
        assert await gateway.status("/healthz", gateway.health_url) == 200
        (started,) = gateway.lines("service.starting")
        assert started["descriptors"] > 1024


async def test_where_the_hard_limit_is_low_too_clients_beyond_it_are_answered_and_the_silent_ones_are_closed(
    database: str, clean_bus: str, tmp_path: Path
) -> None:
    async with _gateway(database, clean_bus, tmp_path, limits="ulimit -Sn 1024; ulimit -Hn 1024;", silence_s=30.0) as gateway:
        await until(lambda: _is_ready(gateway))
        async with _silent_clients(gateway, SILENT):
            assert await gateway.status("/openapi.json") == 503
            assert await gateway.not_ready() == []  # health, database and broker have descriptors of their own
            assert gateway.lines("connections.refused")
            async with gateway.session.get(f"{gateway.health_url}/metrics") as answer:
                figures = await answer.text()
            assert 'skydriver_http_requests_refused_total{reason="connections"}' in figures

            async def answers() -> bool:
                return await gateway.status("/openapi.json") == 200

            await until(answers)


async def _is_ready(gateway: Gateway) -> bool:
    return await gateway.not_ready() == []


async def test_a_gateway_that_starts_without_the_broker_answers_reads_and_takes_commands_once_it_is_there(
    database: str, clean_bus: str, tmp_path: Path
) -> None:
    async with a_store(database) as store, proxying(port_of(clean_bus)) as proxy:
        scan = await store.a_scan()
        url = through(clean_bus, proxy)
        await proxy.close()
        async with _gateway(database, url, tmp_path) as gateway:
            assert await gateway.status(f"/scan/{scan}/manifest") == 200
            async with gateway.session.get(
                f"{gateway.url}/scan/{scan}/events", headers={**gateway.headers, "Accept": "text/event-stream"}
            ) as stream:
                assert b"id: 1\n" in await stream.content.readuntil(b"\n\n")
            assert await gateway.status(f"/scan/{scan}", method="DELETE") == 503
            assert "message broker" in await gateway.not_ready()
            await proxy.open()
            await until(lambda: _is_ready(gateway))
            async with gateway.session.delete(f"{gateway.url}/scan/{scan}", headers=gateway.headers) as answer:
                assert "no dispatcher is running" in await answer.text()  # the service, not the broker


async def test_a_gateway_that_waits_for_the_broker_stops_at_once(database: str, clean_bus: str, tmp_path: Path) -> None:
    async with proxying(port_of(clean_bus)) as proxy:
        url = through(clean_bus, proxy)
        await proxy.close()
        async with _gateway(database, url, tmp_path) as gateway:
            assert gateway.lines("service.ready")
        assert not gateway.lines("service.task-cancelled")
