"""``skydriver watch``: follows a scan to its end, as a person and as a script would."""

import json
import os
import subprocess
import sys

from tests.acceptance.conftest import Running
from tests.acceptance.rest import ok, request_scan


def _watch(system: Running, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        **os.environ, "SKYDRIVER_URL": system.connection["url"], "SKYDRIVER_TOKEN": system.connection["user_token"],
        "COLUMNS": "100",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "skydriver_cli.app", "watch", *words], capture_output=True, text=True, timeout=600,
        env=environment, check=False,
    )  # fmt: skip


def test_a_scan_is_watched_to_its_end(system: Running) -> None:
    scan = request_scan(system, nsides={"2": 0, "4": 4})["scan_id"]
    watched = _watch(system, scan, "--json")
    assert watched.returncode == 0, watched.stderr
    decoder, statuses, rest = json.JSONDecoder(), [], watched.stdout.strip()
    while rest:
        status, end = decoder.raw_decode(rest)
        statuses.append(status)
        rest = rest[end:].lstrip()
    assert statuses[-1]["scan_complete"]
    assert not any(status["scan_complete"] for status in statuses[:-1])
    # of one that is complete the whole story is there, too
    shown = _watch(system, scan)
    assert shown.returncode == 0, shown.stderr
    assert "nside 2" in shown.stdout
    assert "nside 4" in shown.stdout
    assert "best fit" in shown.stdout


def test_a_scan_that_ends_without_a_result_ends_the_watch_with_an_error(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    ok(quiet_system.call("DELETE", f"/scan/{scan}"))
    watched = _watch(quiet_system, scan)
    assert watched.returncode != 0
    assert "ABORTED" in watched.stdout + watched.stderr
    unknown = _watch(quiet_system, "00000000000x00000000000000000000")
    assert unknown.returncode != 0
    assert "not found" in unknown.stderr
