"""Identity files, and ending what a crash left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

from skydriver_sandbox.processes import end_leftover, start_ticks, write_atomically, write_identity


def test_a_process_is_known_by_id_and_start() -> None:
    assert start_ticks(os.getpid()) == start_ticks(os.getpid())
    assert start_ticks(2**22 + 1) is None


def test_a_leftover_is_ended_by_its_identity(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    path = tmp_path / "a.pid.json"
    write_identity(path, child.pid, attempt=1)
    assert json.loads(path.read_text())["attempt"] == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert end_leftover(path)
    assert child.wait(10) == -9
    assert not path.exists()


def test_another_process_with_the_same_id_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.pid.json"
    path.write_text(json.dumps({"pid": os.getpid(), "start_ticks": 1}))
    assert not end_leftover(path)
    assert not path.exists()


def test_a_damaged_identity_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.pid.json"
    path.write_text("{")
    assert not end_leftover(path)
    assert not path.exists()


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
