"""SIGKILL to every process of the system in mid-scan; the next start brings the same scan to its end."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from tests.acceptance.conftest import Running, sample_event, scan_request, start, stop, wait_until


def _processes_of(root_pid: int, data_dir: Path) -> set[int]:
    """The starter, all its descendants, and whatever left an identity file below the data folder."""
    found = {root_pid}
    parents = {int(p.name): _parent(p) for p in Path("/proc").iterdir() if p.name.isdigit()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found | set(_identified(data_dir))


def _identified(data_dir: Path) -> Iterator[int]:
    for path in data_dir.rglob("*.pid.json"):
        try:
            yield int(json.loads(path.read_text())["pid"])
        except (OSError, ValueError, KeyError):
            continue


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def _log_of(database_url: str, scan_id: str) -> list[tuple[int, str]]:
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
    victims = _processes_of(own_system.process.pid, own_system.data_dir) - {os.getpid()}
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    own_system.process.wait(timeout=10)
    wait_until(lambda: not any(_is_alive(pid) for pid in victims), 20, "all processes are dead")

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
    assert not [pid for pid in _identified(own_system.data_dir) if _is_alive(pid)]
