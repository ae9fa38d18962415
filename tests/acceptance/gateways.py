"""One more gateway beside a running system: with settings of its own, to be stopped by the test."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from skydriver_cli.embedded.ports import choose
from tests.acceptance.conftest import Running
from tests.support.waiting import wait_until


@dataclass
class Gateway:
    """url: its address. stop: asks it to stop and returns its exit code."""

    url: str
    process: "subprocess.Popen[bytes]"

    def stop(self) -> int:
        """As a supervisor does, with the limit that supervisors have."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=15)


@contextmanager
def another_gateway(system: Running, log: Path, **settings: str) -> Iterator[Gateway]:
    """A gateway on this system's servers, ready to be used."""
    ports = choose(["http", "health"], {})
    environment = {
        "SKYDRIVER_DATABASE_URL": system.connection["database_url"], "SKYDRIVER_AMQP_URL": system.connection["amqp_url"],
        "SKYDRIVER_HTTP_PORT": str(ports["http"]), "SKYDRIVER_HEALTH_PORT": str(ports["health"]), **settings,
    }  # fmt: skip
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "skydriver_api"], stdout=sink, stderr=sink, env={**os.environ, **environment}
        )
    gateway = Gateway(f"http://127.0.0.1:{ports['http']}", process)
    try:
        wait_until(lambda: process.poll() is not None or _is_ready(ports["health"]), 60, "the gateway is ready")
        assert process.poll() is None, log.read_text()
        yield gateway
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(timeout=600)


def _is_ready(health_port: int) -> bool:
    """It answers reads before it has reached the broker, and commands after that."""
    try:
        return requests.get(f"http://127.0.0.1:{health_port}/readyz", timeout=30).status_code == 200
    except requests.ConnectionError:
        return False
