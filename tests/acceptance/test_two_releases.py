"""A rolling upgrade: processes of the release before and of this one on the same scans, rows, queues and events.

First the whole system is the old one, and replicas of this release come beside it; then this one's, with old replicas beside.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from skydriver_cli.embedded.ports import choose
from skydriver_common.model.ids import ScanId
from tests.acceptance.conftest import UP_LIMIT_S, Running, sample_event, scan_request, start, stop
from tests.support import previous_release
from tests.support.waiting import wait_until

_BESIDE = {"api": "skydriver_api", "progress": "skydriver_progress", "ewms_bridge": "skydriver_ewms_bridge"}
"""Services of which a second replica works beside the system's own."""
_SCANS = 3


@contextmanager
def _beside(system: Running, *, is_old: bool) -> Iterator[str]:
    """A second replica of each service, with the settings of the system's own ones; the address of the gateway."""
    with ExitStack() as stack:
        ports = choose(["http", *(f"health_{name}" for name in _BESIDE)], {})
        processes: dict[str, subprocess.Popen[bytes]] = {}
        for name, module in _BESIDE.items():
            own = json.loads((system.data_dir / "run" / f"{name}.pid.json").read_text())["pid"]
            words = Path(f"/proc/{own}/environ").read_bytes().split(b"\0")
            environment = dict(word.decode().split("=", 1) for word in words if word)
            environment |= {
                "SKYDRIVER_REPLICA": f"{name}-beside", "SKYDRIVER_HEALTH_PORT": str(ports[f"health_{name}"]),
                **({"SKYDRIVER_HTTP_PORT": str(ports["http"])} if name == "api" else {}),
            }  # fmt: skip
            python = sys.executable
            if is_old:
                python, module = previous_release.python(), previous_release.module_of(name, module)
                environment = previous_release.environment_of(environment)
            log = stack.enter_context((system.data_dir / f"{name}-beside.log").open("ab"))
            process = subprocess.Popen([python, "-m", module], env=environment, stdout=log, stderr=log, cwd=system.data_dir)
            stack.callback(_end, process)
            processes[name] = process
        for name in _BESIDE:
            ready_or_ended = partial(_is_ready_or_ended, ports[f"health_{name}"], processes[name])
            wait_until(ready_or_ended, UP_LIMIT_S, f"{name} beside is ready")
            assert processes[name].poll() is None, (system.data_dir / f"{name}-beside.log").read_text()[-2000:]
        yield f"http://127.0.0.1:{ports['http']}"


def _is_complete(system: Running, scan_id: ScanId) -> bool:
    return bool(system.get(f"/scan/{scan_id}/status")["scan_complete"])


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=600)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=600)


def _is_ready_or_ended(port: int, process: "subprocess.Popen[bytes]") -> bool:
    return process.poll() is not None or _is_ready(port)


def _is_ready(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=30).status_code == 200
    except requests.ConnectionError:
        return False


class _Load(threading.Thread):
    """Scans requested through both gateways in turn, looked at, and some of them deleted, until it is told to end."""

    def __init__(self, system: Running, urls: list[str]) -> None:
        super().__init__()
        self._system, self._urls = system, urls
        self.scans: list[str] = []
        self.deleted: list[str] = []
        self.refused: Counter[int] = Counter()

    def run(self) -> None:
        for number in range(_SCANS):
            asked = self._until_taken(number, "POST", "/scan", scan_request(sample_event()))
            self.scans.append(asked["scan_id"])
            self._until_taken(number + 1, "GET", f"/scan/{self.scans[-1]}/manifest", None)
            if number % 3 == 2:
                self._until_taken(number + 1, "DELETE", f"/scan/{self.scans[-1]}", None)
                self.deleted.append(self.scans[-1])

    def _until_taken(self, number: int, method: str, path: str, body: Any) -> Any:
        headers = {"Authorization": f"Bearer {self._system.connection['user_token']}"}
        if method == "POST":
            headers["Idempotency-Key"] = f"{id(self)}-{number}"

        def taken() -> requests.Response | None:
            answer = requests.request(method, self._urls[number % 2] + path, json=body, headers=headers, timeout=600)
            if answer.status_code != 503:
                return answer
            self.refused[503] += 1
            return None

        answer = wait_until(taken, 240, f"{method} {path} is taken", poll_s=0.5)
        assert answer.status_code == 200, answer.text
        return answer.json()


def _command(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "skydriver_cli.app", *words], capture_output=True, text=True, timeout=600, check=False
    )


def _all_end(system: Running, load: _Load) -> None:
    load.join(timeout=600)
    assert not load.is_alive()
    for scan_id in set(load.scans) - set(load.deleted):
        wait_until(partial(_is_complete, system, ScanId(scan_id)), 240, f"{scan_id} is complete")


@pytest.mark.timeout(900)
def test_two_releases_work_side_by_side(tmp_path: Path) -> None:
    old = previous_release.python()
    data = tmp_path / "two releases"
    system = _start_old(data, old)
    try:
        began = _Load(system, [system.connection["url"]] * 2)
        began.start()
        migrated = _command(
            "migrate",
            "--roles",
            "--database-url",
            system.connection["database_url"],
            "--amqp-url",
            system.connection["amqp_url"],
        )
        assert migrated.returncode == 0, migrated.stderr
        with _beside(system, is_old=False) as url:
            load = _Load(system, [system.connection["url"], url])
            load.start()
            # an old process that restarts meanwhile goes on
            own = system.data_dir / "run" / "progress.pid.json"
            died = json.loads(own.read_text())
            os.kill(died["pid"], signal.SIGKILL)
            wait_until(
                lambda: own.exists() and json.loads(own.read_text()) != died, 60, "the old progress service was started again"
            )
            _all_end(system, began)
            _all_end(system, load)
    finally:
        stop(system)
    system = start(data, SKYDRIVER_TEARDOWN_DELAY_S="1")
    try:
        with _beside(system, is_old=True) as url:
            later = _Load(system, [system.connection["url"], url])
            later.start()
            _all_end(system, later)
        scans = [*began.scans, *load.scans, *later.scans]
        assert len(set(scans)) == 3 * _SCANS
        _judge(system.connection, scans)
    finally:
        stop(system)


def _start_old(data: Path, python: str) -> Running:
    """The release before as a whole, by its own command."""
    data.mkdir(parents=True)
    with (data / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [python, "-m", "skydriver_cli.app", "up", "--data-dir", str(data), "--workers", "2"],
            stdout=log, stderr=log, env={**os.environ, "SKYDRIVER_TEARDOWN_DELAY_S": "1"}, cwd=data, start_new_session=True,
        )  # fmt: skip
    running = Running(data, process)
    wait_until(lambda: (data / "connection.json").exists() or process.poll() is not None, UP_LIMIT_S, "the old system is up")
    assert process.poll() is None, (data / "up.log").read_text()
    running.connection = json.loads((data / "connection.json").read_text())
    return running


def _judge(connection: dict[str, str], scans: list[str]) -> None:
    """The views are what the log says, the log is whole, nothing was given up, and nothing happened twice."""
    servers = ("--database-url", connection["database_url"])
    checked = _command("log", "rebuild", "--check", "--json", *servers)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert json.loads(checked.stdout)["differences"] == []
    assert _command("log", "verify", *servers).returncode == 0
    dead = _command("dead", "list", "--json", "--amqp-url", connection["amqp_url"])
    assert dead.returncode == 0, dead.stderr
    assert dead.stdout.strip() in ("", "[]")
    for scan_id in scans:
        history = _command("log", "history", scan_id, "--json", *servers)
        types = Counter(json.loads(line)["type"] for line in history.stdout.splitlines())
        assert types["scan.requested"] == 1
        assert types["scan.workflow-assigned"] <= 1
        assert types["scan.scanner-failed"] == types["scan.launch-abandoned"] == 0, types
