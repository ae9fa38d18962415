"""``skydriver up`` and ``down`` when something dies or is stopped at an awkward moment."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from skydriver_common import process_identity
from tests.acceptance.conftest import Running
from tests.acceptance.rest import request_scan
from tests.support.waiting import wait_until


def _skydriver(*words: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name not in ("SKYDRIVER_URL", "SKYDRIVER_TOKEN")}
    return subprocess.run(
        [sys.executable, "-m", "skydriver_cli.app", *words], capture_output=True, text=True, timeout=600, check=False,
        env=environment,
    )  # fmt: skip


def test_down_ends_what_a_killed_up_left_running(own_system: Running) -> None:
    scan = request_scan(own_system, nsides={"64": 0}, max_pixel_reco_time=60)["scan_id"]
    folder = own_system.data_dir / "work" / scan
    wait_until(lambda: list(folder.glob("*.pid.json")), 60, "the scanner server runs")
    [identity_file] = folder.glob("*.pid.json")
    scanner = process_identity.read(identity_file)
    assert scanner is not None
    own_system.process.kill()
    own_system.process.wait(timeout=600)
    told = _skydriver("status", "--data-dir", str(own_system.data_dir))
    assert told.returncode == 1
    assert "skydriver down" in told.stderr
    ended = _skydriver("down", "--data-dir", str(own_system.data_dir))
    assert ended.returncode == 0, ended.stderr
    assert "was killed earlier" in ended.stdout
    assert not process_identity.is_alive(scanner)
    assert not (own_system.data_dir / "connection.json").exists()
    assert "no system is running" in _skydriver("down", "--data-dir", str(own_system.data_dir)).stderr


def test_a_stop_while_it_starts_is_heard_at_once(tmp_path: Path) -> None:
    data = tmp_path / "starting"
    with (tmp_path / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "skydriver_cli.app", "up", "--data-dir", str(data)], stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    wait_until(lambda: (data / "run" / "postgres.pid.json").exists(), 90, "Postgres is being started")
    assert not (data / "connection.json").exists()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=90) == 0
    assert "stopped before the start was complete" in (tmp_path / "up.log").read_text()
    assert not list((data / "run").glob("*.pid.json"))
