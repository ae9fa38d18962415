"""``skydriver up --no-sandbox`` with an EWMS that is not its own, and with settings that it cannot take."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import Running, sample_event, scan_request, start, stop
from tests.support import sandbox_parts as ewms_parts
from tests.support.waiting import wait_until

INSTANCE, CLIENT = "a-test-installation", ewms_parts.CLIENT_ID


def _scan(system: Running) -> None:
    answer = system.call("POST", "/scan", body=scan_request(sample_event(), nsides={"1": 0}, priority=100))
    assert answer.status_code == 200, answer.text
    path = f"/scan/{answer.json()['scan_id']}/status"
    wait_until(lambda: system.get(path)["scan_complete"], 90, "the scan is complete")


async def test_a_scan_runs_on_an_ewms_that_is_not_started_by_up(tmp_path: Path, amqp_url: str) -> None:
    async with ewms_parts.running_ewms(tmp_path / "ewms", amqp_url) as ewms:
        settings = {
            "SKYDRIVER_EWMS_URL": ewms.url, "SKYDRIVER_EWMS_ISSUER": ewms.url, "SKYDRIVER_EWMS_CLIENT_ID": CLIENT,
            "SKYDRIVER_EWMS_CLIENT_SECRET": ewms_parts.CLIENT_SECRET, "SKYDRIVER_S3_URL": ewms.url,
            "SKYDRIVER_S3_KEY_ID": ewms_parts.S3_KEY_ID, "SKYDRIVER_S3_SECRET": ewms_parts.S3_SECRET,
            "SKYDRIVER_INSTANCE": INSTANCE, "SKYDRIVER_QUEUE_ACTIVATION_POLL_S": "0.5", "SKYDRIVER_WORKFORCE_FAST_INTERVAL_S": "1",
            "SKYDRIVER_EWMZ_URL": "x",
        }  # fmt: skip
        system = await asyncio.to_thread(lambda: start(tmp_path / "data", "--no-sandbox", **settings))
        try:
            await asyncio.to_thread(_scan, system)
        finally:
            await asyncio.to_thread(stop, system)
        _, found = await ewms.call("POST", "/v1/query/task-directives", {"query": {}})
        assert [task["task_env"]["SKYDRIVER_INSTANCE"] for task in found["task_directives"]] == [INSTANCE]
    log = (tmp_path / "data" / "up.log").read_text()
    assert f"{ewms.url} (SKYDRIVER_EWMS_URL)" in log
    assert "(embedded)" in log
    assert "SKYDRIVER_EWMZ_URL: unknown setting, ignored; did you mean SKYDRIVER_EWMS_URL?" in log
    assert ewms_parts.CLIENT_SECRET not in log
    assert ewms_parts.S3_SECRET not in log


@pytest.mark.parametrize(
    ("words", "variables", "named"),
    [
        ((), {"SKYDRIVER_PUBLIC_URL": "http://elsewhere"}, "SKYDRIVER_PUBLIC_URL: can't be set for `up`"),
        (("--no-sandbox",), {"SKYDRIVER_EWMS_URL": "https://ewms.example.org"}, "SKYDRIVER_EWMS_CLIENT_SECRET: required"),
        ((), {"SKYDRIVER_EWMS_CLIENT_SECRET": "canary"}, "SKYDRIVER_EWMS_CLIENT_SECRET: `up` sets it for the EWMS stand-in"),
    ],
)
def test_a_setting_that_would_be_ignored_stops_the_start(
    tmp_path: Path, words: tuple[str, ...], variables: dict[str, str], named: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "skydriver_cli.app", "up", "--data-dir", str(tmp_path), *words],
        env={**os.environ, **variables, "COLUMNS": "400"}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert named in done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
