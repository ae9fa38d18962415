"""A day with the command line: list, look, change, stop; through the front door."""

import json
import os
import subprocess
import sys

from tests.acceptance.conftest import Running
from tests.acceptance.rest import request_scan


def skydriver(system: Running, *words: str, stdin: str = "", token: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "skydriver_cli.app", *words],
        input=stdin, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "SKYDRIVER_URL": system.connection["url"], "SKYDRIVER_TOKEN": token or system.connection["user_token"]},
    )  # fmt: skip


def test_a_day_with_the_command_line(quiet_system: Running) -> None:
    first = request_scan(quiet_system, classifiers={"day": "long"})["scan_id"]
    remixed = skydriver(quiet_system, "remix", first, "priority=7")
    assert remixed.returncode == 0, remixed.stderr
    second = remixed.stdout.strip()
    listed = skydriver(quiet_system, "list", "-l", "day=long", "-o", "name")
    assert listed.stdout.split() == [second, first]
    shown = json.loads(skydriver(quiet_system, "get", second, "-o", "json").stdout)
    assert shown["priority"] == 7
    assert "scan_state" in shown
    found = skydriver(quiet_system, "find", '{"classifiers.day": "long"}', "-o", "name")
    assert found.stdout.split() == [first, second]
    rescanned = skydriver(quiet_system, "rescan", first, "-o", "json")
    assert json.loads(rescanned.stdout)[0]["classifiers"]["rescan"] is True
    history = skydriver(quiet_system, "events", first, "-o", "jsonl").stdout.splitlines()
    assert json.loads(history[0])["type"] == "scan.requested"
    assert skydriver(quiet_system, "wait", first, "--timeout", "0").returncode == 6
    stopped = skydriver(quiet_system, "stop", "-", "--yes", stdin=listed.stdout)
    assert (stopped.returncode, stopped.stdout) == (0, listed.stdout)
    assert skydriver(quiet_system, "wait", first).returncode == 3
    assert skydriver(quiet_system, "get", "unknown").returncode == 5
    assert skydriver(quiet_system, "backlog", token="not.a.token").returncode == 4
