"""The whole system on a broker as deploy/rabbitmq sets it up: each service with its own user, scanners with their tokens."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused

from skydriver_cli.client import Client, find_connection
from skydriver_cli.embedded import environments, rabbitmq, supervision, system
from skydriver_cli.embedded.options import Options
from skydriver_cli.embedded.ports import choose
from skydriver_cli.embedded.supervision import Component
from skydriver_common.auth import TokenSigner, ensure_key
from tests.acceptance.conftest import REPO, sample_event, scan_request
from tests.support.waiting import until

DEPLOY = REPO / "deploy" / "rabbitmq"
USERS = {"api": "api", "dispatcher": "dispatcher", "progress": "progress", "ewms_bridge": "ewms-bridge"}


async def _publish(channel: AbstractChannel, exchange: str, key: str) -> None:
    await (await channel.get_exchange(exchange, ensure=False)).publish(aio_pika.Message(b"{}"), key)


async def _read(channel: AbstractChannel, queue: str) -> None:
    await (await channel.get_queue(queue, ensure=False)).get(fail=False)


REFUSED: dict[str, list[Callable[[AbstractChannel], Awaitable[object]]]] = {
    "api": [
        lambda channel: _publish(channel, "skydriver.events", "scan.deleted"),
        lambda channel: _publish(channel, "skydriver.stop", "a-scan"),
        lambda channel: _publish(channel, "", "skydriver.scan.delete"),
        lambda channel: _read(channel, "skydriver.scan.delete"),
        lambda channel: _read(channel, "skydriver.dead-letters"),
    ],
    "progress": [
        lambda channel: _publish(channel, "skydriver.commands", "scan.delete"),
        lambda channel: _publish(channel, "skydriver.scanner", "progress.a-scan"),
        lambda channel: _read(channel, "skydriver.scan.delete"),
        lambda channel: _read(channel, "skydriver.dead-letters"),
    ],
    "dispatcher": [lambda channel: _read(channel, "skydriver.scan.put-result")],
    "ewms-bridge": [lambda channel: _read(channel, "skydriver.scan.request")],
    "operator": [
        lambda channel: channel.declare_queue("mine"),
        lambda channel: _read(channel, "skydriver.scan.request"),
    ],
}


@asynccontextmanager
async def _broker(home: Path, data: Path) -> AsyncIterator[tuple[rabbitmq.RabbitMQ, dict[str, str]]]:
    """A node with our definitions, and the address of each user. The token key is the one that the system will use."""
    ensure_key(environments.key_file(data))
    signer = TokenSigner.from_file(environments.key_file(data), issuer=environments.ISSUER, audience=environments.AUDIENCE)
    ports = choose(list(rabbitmq.PORTS), {})
    trusted = rabbitmq.BrokerTokenAuth(environments.AUDIENCE, signer.kid, signer.public_pem())
    node = await rabbitmq.start(home / "node", ports=ports, run_dir=home / "run", logs=home / "logs", token_auth=trusted)
    try:
        made = home / "users"
        for step in (
            [sys.executable, str(DEPLOY / "make_users"), f"amqp://127.0.0.1:{node.port}", str(made)],
            _control(home, ports, "import_definitions", str(made / "00-users.json")),
            _control(home, ports, "import_definitions", str(DEPLOY / "definitions.json")),
        ):
            environment = {**os.environ, "HOME": str(home / "node"), "ERL_EPMD_PORT": str(ports["epmd"])}
            await asyncio.to_thread(subprocess.run, step, check=True, capture_output=True, timeout=90, env=environment)
        urls = dict(line.split("=", 1) for line in (made / "urls.env").read_text().split())
        yield node, urls
    finally:
        await node.stop()


def _control(home: Path, ports: dict[str, int], *words: str) -> list[str]:
    program = shutil.which("rabbitmqctl") or ""
    inner = rabbitmq.server_script().with_name("rabbitmqctl")
    return [str(inner) if inner.exists() else program, "--node", rabbitmq.NODE, *words]


async def test_each_service_works_with_its_own_rights_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    start = supervision.start_component

    async with _broker(tmp_path / "broker", data) as (node, urls):

        async def start_as_its_user(folder: Path, part: Component) -> None:
            for service, user in USERS.items():
                if part.name.startswith(service):
                    part.environment["SKYDRIVER_AMQP_URL"] = urls[user]
            await start(folder, part)

        monkeypatch.setattr(system, "start_component", start_as_its_user)
        monkeypatch.setenv("SKYDRIVER_AMQP_URL", node.url)
        monkeypatch.setenv("SKYDRIVER_SCANNER_BUS_URL", f"amqp://127.0.0.1:{node.port}/skydriver")
        async with system.running(Options(data_dir=data), print), Client(find_connection(None, None, data)) as client:
            answer = await client.content("POST", "/scan", body=scan_request(sample_event(), nsides={"1": 0}))
            scan_id = json.loads(answer)["scan_id"]

            async def is_complete() -> bool:
                return bool((await client.get(f"/scan/{scan_id}/status"))["scan_complete"])

            await until(is_complete, limit_s=90)
            await client.content("DELETE", f"/scan/{scan_id}", body={"delete_completed_scan": True})
            events = (await client.get(f"/scan/{scan_id}/events?limit=1000"))["events"]
            assert any(event["type"] == "scan.progress-reported" and event["data"]["producer"] for event in events)
        for user, attempts in REFUSED.items():
            connection = await aio_pika.connect(urls[user])
            async with connection:
                for attempt in attempts:
                    with pytest.raises(ChannelAccessRefused):
                        await attempt(await connection.channel())
        # the log, some moments late, has these refusals and none of before
        attempts_made = sum(map(len, REFUSED.values()))

        async def all_are_logged() -> bool:
            return _log(tmp_path).count("access_refused") >= attempts_made

        await until(all_are_logged)
        assert _log(tmp_path).count("access_refused") == attempts_made
        assert all(f"user 'skydriver-{user}' authenticated" in _log(tmp_path) for user in USERS.values())


def _log(folder: Path) -> str:
    """The broker's own log."""
    return "".join(path.read_text() for path in (folder / "broker" / "logs").glob("rabbitmq*.log"))
