"""SIGKILL to every process of the system in mid-scan; the next start brings the same scan to its end."""

import asyncio
import json
import os
import signal

import asyncpg
import pytest

from skydriver_common.model.ids import ScanId
from tests.acceptance.conftest import Running, sample_event, scan_request, start, stop
from tests.acceptance.killing import identified, is_alive, kill_everything
from tests.support.waiting import wait_until


async def _log_of(database_url: str, scan_id: ScanId) -> list[tuple[int, str]]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("SELECT version, type FROM event_log WHERE scan_id = $1 ORDER BY version", scan_id)
    finally:
        await connection.close()
    return [(row["version"], row["type"]) for row in rows]


def test_a_scan_survives_the_death_of_every_process(own_system: Running) -> None:
    submitted = own_system.call("POST", "/scan", body=scan_request(sample_event(), nsides={"8": 0, "16": 12}))
    assert submitted.status_code == 200, submitted.text
    scan_id = submitted.json()["scan_id"]
    wait_until(
        lambda: own_system.get(f"/scan/{scan_id}/status")["scan_state"].startswith("IN_PROGRESS"),
        60,
        "pixels are being scanned",
    )
    kill_everything(own_system)

    again = start(own_system.data_dir)
    try:
        wait_until(lambda: again.get(f"/scan/{scan_id}/status")["scan_complete"], 120, "the scan is complete")
        skymap = again.get(f"/scan/{scan_id}/result")["skyscan_result"]
        assert [row[0] for row in skymap["nside-8"]["data"]] == list(range(768))
        log = asyncio.run(_log_of(again.connection["database_url"], scan_id))
    finally:
        stop(again)
    types = [type_ for _, type_ in log]
    assert [version for version, _ in log] == list(range(1, len(log) + 1))
    for once in ("scan.requested", "scan.launched", "scan.workflow-assigned", "scan.event-metadata-set"):
        assert types.count(once) == 1, once
    assert not [pid for pid in identified(own_system.data_dir) if is_alive(pid)]


@pytest.mark.parametrize("server", ["postgres", "rabbitmq"])
def test_a_server_that_dies_is_started_again_and_the_system_goes_on(own_system: Running, server: str) -> None:
    before = own_system.call("POST", "/scan", body=scan_request(sample_event())).json()["scan_id"]
    identity = own_system.data_dir / "run" / f"{server}.pid.json"
    died = json.loads(identity.read_text())
    os.kill(died["pid"], signal.SIGKILL)
    wait_until(lambda: identity.exists() and json.loads(identity.read_text()) != died, 60, f"{server} was started again")
    wait_until(
        lambda: own_system.call("POST", "/scan", body=scan_request(sample_event())).status_code == 200, 60, "a scan is taken"
    )
    assert own_system.get(f"/scan/{before}/manifest")["scan_id"] == before
