"""What the scanner refuses ends at once, with code 2 and a line that says why."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from skydriver_sandbox.sample_event import sample_event
from tests.support.sandbox_parts import FakeSkyDriver, Scanner, serving


async def _no_workers() -> int:
    return 0


async def _end(tmp_path: Path, event: Any, **changes: Any) -> tuple[int, str]:
    async with serving(FakeSkyDriver(event, _no_workers)) as skydriver:
        scanner = Scanner(tmp_path, skydriver.url, **changes)
        process = await scanner.start()
        async with asyncio.timeout(120):
            return await process.wait(), scanner.log()


@pytest.mark.parametrize(
    ("nsides", "reason"),
    [
        pytest.param([], "empty", id="nothing"),
        pytest.param(["8:1"], "first extension must be 0", id="first-extension"),
        pytest.param(["8:0", "8:12"], "ascending", id="repeated"),
        pytest.param(["64:0", "8:12"], "ascending", id="descending"),
        pytest.param(["8:0", "48:12"], "not a power of two", id="no-power"),
        pytest.param(["8:0", "64:0"], "at least 1", id="no-extension"),
        pytest.param(["8:0", "64"], "'64' is not NSIDE:EXTENSION", id="no-pair"),
        pytest.param(["8:0", "64:-3"], "not NSIDE:EXTENSION", id="negative"),
        pytest.param(["0:0"], "not a power of two", id="zero"),
    ],
)
async def test_a_bad_progression_is_refused(tmp_path: Path, nsides: list[str], reason: str) -> None:
    code, log = await _end(tmp_path, sample_event(), nsides=nsides)
    assert code == 2
    assert log.startswith("scan refused: ")
    assert reason in log
    assert log.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(["--reco-algo", "magic", "--real-event"], "unknown reconstruction 'magic'", id="algorithm"),
        pytest.param(
            ["--reco-algo", "dummy", "--real-event", "--predictive-scanning-threshold", "0.05"], "0.1 to 1.0", id="threshold"
        ),
    ],
)
async def test_bad_arguments_are_refused(tmp_path: Path, words: list[str], reason: str) -> None:
    code, log = await _end(tmp_path, sample_event(), words=words)
    assert (code, reason in log) == (2, True), log


def _changed(**data: Any) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(json.dumps(sample_event()))
    event["value"]["data"] |= data
    return event


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        pytest.param({"a": 1}, "no object 'value'", id="no-value"),
        pytest.param(None, "no object 'value'", id="null"),
        pytest.param({"value": {"data": []}}, "5 frames", id="no-frames"),
        pytest.param(_changed(frames=sample_event()["value"]["data"]["frames"][:4]), "5 frames", id="four-frames"),
        pytest.param(_changed(frames=[[s, "!"] for s in "GCDQP"]), "frame G is not compressed base64", id="no-base64"),
        pytest.param(_changed(run_id=99_999), "run_id of 100000 to 999999", id="simulated-run"),
        pytest.param(_changed(event_id=None), "integer run_id or event_id", id="no-event-id"),
        pytest.param(_changed(eventtime="yesterday"), "eventtime", id="no-time"),
    ],
)
async def test_an_event_that_cannot_be_scanned_is_refused(tmp_path: Path, event: Any, reason: str) -> None:
    code, log = await _end(tmp_path, event)
    assert (code, reason in log) == (2, True), log


async def test_a_missing_queue_file_is_a_failure_that_may_pass(tmp_path: Path) -> None:
    code, log = await _end(tmp_path, sample_event(), environment={"SKYSCAN_EWMS_JSON_TIMEOUT_SEC": "0.3"})
    assert (code, "ewms.json did not appear" in log) == (1, True), log


async def test_a_scan_skydriver_does_not_know_is_a_failure(tmp_path: Path) -> None:
    skydriver = FakeSkyDriver(sample_event(), _no_workers)
    skydriver.refuse["GET manifest"] = [503, 404]
    async with serving(skydriver):
        scanner = Scanner(tmp_path, skydriver.url)
        process = await scanner.start()
        async with asyncio.timeout(120):
            assert await process.wait() == 1
    assert skydriver.calls == ["GET manifest", "GET manifest"]
    assert "HTTP 404" in scanner.log()
    assert "scan token" not in scanner.log()
