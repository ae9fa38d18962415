"""Overload in figures: twice the load that the system can carry, from clients that do not wait for each other.

    python benchmarks/overload.py [--seconds 60] [--factor 2] [--connections 32]

First the capacity is measured: so many reports of progress per second as ``--connections`` clients get through that wait for each
answer. Then requests come at ``--factor`` times that rate, whatever becomes of them. What counts is the goodput: how many of them
are answered 200 per second, as a share of the capacity. Those refused should learn it at once, and no late command should become
a dead letter. Talks to loopback only, starts a system of its own in a temporary folder and stops it.
"""

import argparse
import asyncio
import itertools
import json
import resource
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import aio_pika
import aiohttp
import uvloop
from rich.console import Console
from rich.table import Table

from skydriver_cli.client import find_connection
from skydriver_cli.embedded.options import Options
from skydriver_cli.embedded.system import running
from skydriver_common.bus.topology import DEAD_LETTER_QUEUE

_SCANS = 128
_SETTLE_S = 20.0
"""After the load: what still waits is answered, or its deadline passes."""
_TICK_S = 0.01


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the REST gateway under more load than the system can carry.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the overload lasts")
    parser.add_argument("--factor", type=float, default=2.0, help="of the measured capacity")
    parser.add_argument("--connections", type=int, default=32, help="clients that measure the capacity")
    given = parser.parse_args()
    # before anything is started: the services inherit it
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_measure(given.seconds, given.factor, given.connections))


async def _measure(seconds: float, factor: float, connections: int) -> None:
    table = Table("figure", "measured", "target", title=f"{factor:g} times the capacity for {seconds:g} s")
    with (
        tempfile.TemporaryDirectory(prefix="skydriver-bench-") as folder,
        patch.dict(
            "os.environ",
            {"SKYDRIVER_LAUNCH_INTERVAL_S": "3600"},  # nothing is launched
        ),
    ):
        data = Path(folder)
        async with running(Options(data_dir=data), lambda _: None) as system:
            places = [part.ready_url.removesuffix("readyz") + "metrics" for part in system.components]
            await _figures(data, places, seconds, factor, connections, table)
    Console().print(table)


async def _figures(data: Path, places: list[str], seconds: float, factor: float, connections: int, table: Table) -> None:
    stored = json.loads((data / "connection.json").read_text())
    url = find_connection(None, None, data).url
    user, system = ({"Authorization": f"Bearer {stored[name]}"} for name in ("user_token", "system_token"))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        scans = [await _new_scan(session, url, user) for _ in range(_SCANS)]
        load = _Load(session, itertools.cycle(f"{url}/scan/{scan}/manifest" for scan in scans), system)
        await load.closed(connections, 3.0)  # warm
        capacity = await load.closed(connections, max(5.0, seconds / 6))
        table.add_row("capacity", f"{capacity:.0f}/s", "")
        dead = await _dead_letters(stored["amqp_url"])
        answers = await load.open(capacity * factor, seconds)
        await asyncio.sleep(_SETTLE_S)
        buried = await _dead_letters(stored["amqp_url"]) - dead
        late = await _outcomes(session, places, "late")
    table.add_row("offered", f"{len(answers) / seconds:.0f}/s", "")
    done = [took for status, took, ended in answers if status == "200" and ended <= seconds]
    table.add_row("goodput", f"{len(done) / seconds:.0f}/s, {len(done) / seconds / capacity:.0%} of capacity", ">= 80 %")
    table.add_row("200", _times([took for status, took, _ in answers if status == "200"]), "")
    table.add_row("503", _times([took for status, took, _ in answers if status == "503"]), "median < 100 ms")
    others = Counter(status for status, _, _ in answers if status not in ("200", "503"))
    table.add_row("other answers", ", ".join(f"{status}: {number}" for status, number in others.items()) or "none", "none")
    table.add_row("late commands dropped", f"{late:.0f}", "")
    table.add_row("dead letters", f"{buried}", "0")


def _times(took: list[float]) -> str:
    if not took:
        return "none"
    in_order = sorted(took)
    p99 = in_order[min(len(in_order) - 1, int(len(in_order) * 0.99))]
    return f"{len(took)}: median {statistics.median(took) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, most {in_order[-1] * 1000:.0f} ms"


async def _new_scan(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> str:
    body = {
        "docker_tag": "latest", "reco_algo": "dummy", "nsides": {"8": 0}, "request_clusters": {"osg": 1},
        "real_or_simulated_event": "simulated", "max_pixel_reco_time": 60, "priority": -1,
        "event_i3live_json": {"value": {"data": {"unique_id": time.time_ns()}}},
    }  # fmt: skip
    async with session.post(f"{url}/scan", headers=headers, json=body) as response:
        if response.status != 200:
            raise SystemExit(f"POST /scan: {response.status} {await response.text()}")
        return str((await response.json())["scan_id"])


class _Load:
    """Reports of progress, each to the next scan."""

    def __init__(self, session: aiohttp.ClientSession, urls: "itertools.cycle[str]", headers: dict[str, str]) -> None:
        self._session = session
        self._urls = urls
        self._headers = headers
        self._numbers = itertools.count()

    async def closed(self, connections: int, seconds: float) -> float:
        """Return how many requests per second so many clients get through that wait for each answer."""
        ends, statuses = time.perf_counter() + seconds, Counter[str]()

        async def client() -> None:
            while time.perf_counter() < ends:
                statuses[await self._once()] += 1

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(connections)))
        if statuses.total() != statuses["200"]:
            Console().print(f"answers while the capacity was measured: {dict(statuses)}")
        return statuses["200"] / (time.perf_counter() - began)

    async def open(self, rate: float, seconds: float) -> list[tuple[str, float, float]]:
        """Send at a rate, whatever becomes of it; return status, seconds it took, and seconds from the begin to its end."""
        answers: list[tuple[str, float, float]] = []
        tasks: set[asyncio.Task[None]] = set()
        began = time.perf_counter()

        async def one() -> None:
            sent = time.perf_counter()
            status = await self._once()
            now = time.perf_counter()
            answers.append((status, now - sent, now - began))

        sent = 0
        while (passed := time.perf_counter() - began) < seconds:
            while sent < passed * rate:
                task = asyncio.create_task(one())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                sent += 1
            await asyncio.sleep(_TICK_S)
        await asyncio.gather(*list(tasks))
        return answers

    async def _once(self) -> str:
        number = next(self._numbers)
        report = {"progress": {
            "summary": f"report {number}", "epilogue": "", "tallies": {"nsides": {"8": number}},
            "processing_stats": {"start": {}, "runtime": {}, "rate": {}}, "predictive_scanning_threshold": 1.0,
            "last_updated": "2026-01-01 00:00:00", "start": 1_700_000_000, "end": None,
        }}  # fmt: skip
        try:
            async with self._session.patch(next(self._urls), headers=self._headers, json=report) as response:
                await response.read()
                return str(response.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return type(error).__name__


async def _dead_letters(amqp_url: str) -> int:
    async with await aio_pika.connect(amqp_url) as bus:
        queue = await (await bus.channel()).declare_queue(DEAD_LETTER_QUEUE, passive=True)
        return queue.declaration_result.message_count or 0


async def _outcomes(session: aiohttp.ClientSession, places: list[str], outcome: str) -> float:
    """Return how many commands ended so, summed over the services' figures."""
    total = 0.0
    for place in places:
        async with session.get(place) as response:
            for line in (await response.text()).splitlines():
                if line.startswith("skydriver_commands_total") and f'outcome="{outcome}"' in line:
                    total += float(line.rpartition(" ")[2])
    return total


if __name__ == "__main__":
    main()
