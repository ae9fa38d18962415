"""The loop on one machine, in figures: start-up, POST /scan, launch of an urgent scan, a whole scan, idle cost.

    python benchmarks/loop.py [--nsides 8:0,64:12,512:24] [--workers 2]

Talks to loopback only, starts a system of its own in a temporary folder and stops it.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from skydriver_cli.client import Client, find_connection
from skydriver_cli.embedded.options import Options
from skydriver_cli.embedded.system import running
from skydriver_cli.scan_commands import DEMO_NSIDES, parse_pairs
from skydriver_sandbox.sample_event import sample_event

POSTS = 50
IDLE_S = 15.0
SCAN_LIMIT_S = 300.0
_SETTLED_S = 0.4


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the loop.")
    parser.add_argument("--nsides", default=DEMO_NSIDES)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    table = Table("figure", "measured", "target", title="the loop on one machine")
    with tempfile.TemporaryDirectory(prefix="skydriver-bench-") as folder:
        data = Path(folder)
        began = time.monotonic()
        async with running(Options(data_dir=data, workers=given.workers), print):
            started_s = time.monotonic() - began
            async with Client(find_connection(None, None, data)) as client:
                scan_id = await _submit(client, dict(parse_pairs(given.nsides, "--nsides")), priority=100)
                await _complete(client, scan_id)
                whole_s = time.monotonic() - began
                # each waits until the scan before is launched and gone: the figure is for an idle system
                posts = [await _timed_post(client) for _ in range(POSTS)]
                launches = [await _timed_launch(client, data) for _ in range(5)]
                cpu, memory = await _idle(data)
    table.add_row("start-up of everything", f"{started_s:.1f} s", "")
    table.add_row(f"start-up and scan {given.nsides}", f"{whole_s:.1f} s", "< 60 s")
    table.add_row("POST /scan, median", f"{statistics.median(posts) * 1000:.1f} ms", "< 20 ms")
    table.add_row("POST to urgent scanner's process, median", f"{statistics.median(launches) * 1000:.0f} ms", "< 250 ms")
    table.add_row("idle, of one core", f"{cpu:.1%}", "< 5 %")
    table.add_row("idle, resident in total", f"{memory / 1e6:.0f} MB", "< 900 MB")
    Console().print(table)


async def _submit(client: Client, nsides: dict[str, int], *, priority: int) -> str:
    body = {
        "docker_tag": "latest", "reco_algo": "dummy", "nsides": nsides, "request_clusters": {"osg": 2},
        "real_or_simulated_event": "simulated", "max_pixel_reco_time": 60, "priority": priority,
        "event_i3live_json": sample_event(), "manifest_projection": ["scan_id"],
    }  # fmt: skip
    return str(json.loads(await client.content("POST", "/scan", body=body))["scan_id"])


async def _complete(client: Client, scan_id: str) -> None:
    async with asyncio.timeout(SCAN_LIMIT_S):
        while not (await client.get(f"/scan/{scan_id}/status"))["scan_complete"]:
            await asyncio.sleep(0.1)


async def _timed_post(client: Client) -> float:
    began = time.monotonic()
    scan_id = await _submit(client, {"1": 0}, priority=-10)
    took = time.monotonic() - began
    await client.content("DELETE", f"/scan/{scan_id}", body={"delete_completed_scan": True})
    await asyncio.sleep(_SETTLED_S)
    return took


async def _timed_launch(client: Client, data: Path) -> float:
    began = time.monotonic()
    scan_id = await _submit(client, {"1": 0}, priority=100)
    identity = data / "work" / scan_id / "scanner.pid.json"
    async with asyncio.timeout(10):
        while not identity.exists():
            await asyncio.sleep(0.002)
    took = time.monotonic() - began
    await client.content("DELETE", f"/scan/{scan_id}", body={"delete_completed_scan": True})
    return took


async def _idle(data: Path) -> tuple[float, int]:
    """Share of one core, and resident bytes, of everything that runs while nobody asks for anything."""
    await asyncio.sleep(10)  # what the last scans left to do
    before = _cpu_s(data)
    await asyncio.sleep(IDLE_S)
    return (_cpu_s(data) - before) / IDLE_S, sum(_resident(pid) for pid in _processes(data))


def _processes(data: Path) -> set[int]:
    """Everything below an identity file of the data folder."""
    found = {int(json.loads(path.read_text())["pid"]) for path in data.rglob("*.pid.json") if path.name != "up.pid.json"}
    parents = {int(entry.name): _stat(int(entry.name), 1) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _cpu_s(data: Path) -> float:
    return sum(_stat(pid, 11) + _stat(pid, 12) for pid in _processes(data)) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int, field: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[field])
    except OSError:
        return 0


def _resident(pid: int) -> int:
    """Proportional set size: shared pages are counted once over all processes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    asyncio.run(main())
