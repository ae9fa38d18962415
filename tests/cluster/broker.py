"""RabbitMQ, reading ``deploy/rabbitmq`` from ``/etc/rabbitmq`` as an installation does. The folder is a mount of the test's own."""

import asyncio
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import aio_pika

from skydriver_cli.embedded.rabbitmq import server_script
from skydriver_common.bus.broker import watched
from tests.support.kube.certificates import Authority
from tests.support.waiting import until

DEPLOY = Path(__file__).parents[2] / "deploy" / "rabbitmq"
_ETC = Path("/etc/rabbitmq")


@dataclass(frozen=True, slots=True)
class Broker:
    """A running server. urls: of each service's user by its key in the Secret ``skydriver-bus``."""

    urls: dict[str, str]
    process: asyncio.subprocess.Process

    async def stop(self) -> None:
        """End the server; epmd ends with the process namespace."""
        self.process.terminate()
        await self.process.wait()


async def start(folder: Path, *, authority: Authority, kid: str, public_pem: bytes) -> Broker:
    """Follow deploy/rabbitmq/README.md; return when the server lets the operator's user in, over TLS."""
    assert os.path.ismount(_ETC), "this is the machine's own folder"
    definitions, tls = _ETC / "definitions", _ETC / "tls"
    definitions.mkdir()
    tls.mkdir()
    made = folder / "secret"
    make_users = [sys.executable, str(DEPLOY / "make_users"), "amqps://localhost:5671", str(made)]
    await asyncio.to_thread(subprocess.run, make_users, check=True, timeout=60)
    shutil.copy(made / "00-users.json", definitions)
    shutil.copy(DEPLOY / "definitions.json", definitions)
    shutil.copy(DEPLOY / "enabled_plugins", _ETC)
    (_ETC / "rabbitmq.conf").write_text((DEPLOY / "rabbitmq.conf").read_text().replace("KID", kid))
    (_ETC / "scan-tokens.pem").write_bytes(public_pem)
    pair = authority.server("broker")
    for source, name in ((authority.pair.certificate, "ca.crt"), (pair.certificate, "tls.crt"), (pair.key, "tls.key")):
        shutil.copy(source, tls / name)
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "RABBITMQ_NODENAME": "skydriver@localhost",
        "RABBITMQ_CONFIG_FILE": str(_ETC / "rabbitmq"), "RABBITMQ_ENABLED_PLUGINS_FILE": str(_ETC / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"), "RABBITMQ_LOG_BASE": str(folder / "logs"), "LC_ALL": "C.UTF-8",
    }  # fmt: skip
    log = folder / "start.log"
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            str(server_script()), env=environment, cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=sink, stderr=sink
        )
    urls = dict(line.split("=", 1) for line in (made / "urls.env").read_text().split())

    async def lets_in() -> bool:
        assert process.returncode is None, log.read_text()[-3000:]
        async with await aio_pika.connect(watched(urls["operator"]), timeout=5):
            return True

    await until(
        lets_in, "the broker lets the operator in", 120.0, not_yet=(OSError, TimeoutError, aio_pika.exceptions.AMQPError)
    )
    return Broker(urls, process)
