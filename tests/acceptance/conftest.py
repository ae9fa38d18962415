"""The whole system, started by its own command and used through its front doors only."""

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.waiting import wait_until

REPO = Path(__file__).resolve().parents[2]
SHARED_EVENTS = REPO.parent / "shared" / "data"
UP_LIMIT_S = 600.0


@dataclass
class Running:
    """A started system. Talks REST as a user, or as the system role where a test says so."""

    data_dir: Path
    process: "subprocess.Popen[bytes]"
    connection: dict[str, str] = field(default_factory=dict)

    def call(
        self, method: str, path: str, *, body: Any = None, role: str = "user", raw: bytes | None = None
    ) -> requests.Response:
        """One REST call; body is sent as JSON, raw as it is."""
        content = raw if raw is not None else (None if body is None else json.dumps(body).encode())
        return requests.request(
            method,
            self.connection["url"] + path,
            data=content,
            headers={"Authorization": f"Bearer {self.connection[f'{role}_token']}", "Content-Type": "application/json"},
            timeout=30,
            allow_redirects=False,
        )

    def get(self, path: str, *, role: str = "user") -> Any:
        """The JSON answer of a GET that must succeed."""
        response = self.call("GET", path, role=role)
        assert response.status_code == 200, response.text
        return response.json()


def start(data_dir: Path, *words: str, **environment: str) -> Running:
    """Start the system in this folder and wait until it says how to reach it. words: further arguments of `up`."""
    (data_dir / "connection.json").unlink(missing_ok=True)
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "skydriver_cli.app", "up", "--data-dir", str(data_dir), "--workers", "2", *words],
            stdout=log, stderr=log, env={**os.environ, **environment}, start_new_session=True,
        )  # fmt: skip
    running = Running(data_dir, process)
    wait_until(lambda: (data_dir / "connection.json").exists() or process.poll() is not None, UP_LIMIT_S, "the system is up")
    assert process.poll() is None, (data_dir / "up.log").read_text()
    running.connection = json.loads((data_dir / "connection.json").read_text())
    wait_until(lambda: _answers(running), UP_LIMIT_S, "the REST API answers")
    return running


def stop(running: Running) -> None:
    """Stop as a person would, and wait for the end."""
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(timeout=600)


def _answers(running: Running) -> bool:
    try:
        return running.call("GET", "/").status_code == 200
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One system for all tests that don't harm it; its folder has a space in its name on purpose."""
    # workers of a finished scan are let go soon: there are two in all
    running = start(tmp_path_factory.mktemp("a system"), SKYDRIVER_TEARDOWN_DELAY_S="1", SKYDRIVER_USER_ENV_ALLOW="*")
    yield running
    stop(running)


@pytest.fixture(scope="session")
def quiet_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One system whose scans stay in the backlog, as low priority lets only one an hour start; that one is used up here."""
    running = start(tmp_path_factory.mktemp("a quiet system"), SKYDRIVER_LAUNCH_INTERVAL_S="3600", SKYDRIVER_USER_ENV_ALLOW="*")
    first = running.call("POST", "/scan", body=scan_request(sample_event())).json()["scan_id"]
    wait_until(lambda: running.get("/scans/backlog")["entries"] == [], 60, "the first scan is launched")
    running.call("DELETE", f"/scan/{first}")
    yield running
    stop(running)


@pytest.fixture
def own_system(tmp_path: Path) -> Iterator[Running]:
    """A system of the test's own, to be ill-treated."""
    running = start(tmp_path / "own system")
    yield running
    stop(running)


@functools.cache
def sample_event() -> dict[str, Any]:
    """The project's own sample event."""
    made = subprocess.run(
        [sys.executable, "-m", "skydriver_sandbox.sample_event"], check=True, capture_output=True, timeout=600
    )
    event: dict[str, Any] = json.loads(made.stdout)
    return event


def scan_request(event: Any, **changes: Any) -> dict[str, Any]:
    """A small valid request."""
    return {
        "docker_tag": "latest",
        "reco_algo": "dummy",
        "nsides": {"2": 0, "4": 4},
        "real_or_simulated_event": "simulated",
        "max_pixel_reco_time": 60,
        "cluster": {"osg": 2},
        "event_i3live_json": event,
    } | changes
