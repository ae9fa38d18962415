"""Thousands of people who watch scans on one gateway process: how long an event takes to all of them, and what it costs.

    python benchmarks/watchers.py [--watchers 2500] [--events 20]

Each event goes to every watcher (all watch one scan). Printed beside it: what the same bytes take when a bare aiohttp handler
writes them to as many connections. Talks to loopback only, starts a system of its own in a temporary folder and stops it.
Exit code 1 if an event is missed, if the database is asked once per watcher, or if a stream does not end with the gateway.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
import asyncpg
import uvloop
from aiohttp import web
from rich.console import Console
from rich.table import Table

from skydriver_cli.embedded.options import Options
from skydriver_cli.embedded.ports import LOOPBACK, choose
from skydriver_cli.embedded.supervision import System
from skydriver_cli.embedded.system import running

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.rest import _progress, _request


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure streams of live events.")
    parser.add_argument("--watchers", type=int, default=2500)
    parser.add_argument("--events", type=int, default=20)
    given = parser.parse_args()
    raise SystemExit(uvloop.run(_measure(given.watchers, given.events)))


class _Crowd:
    """So many open streams; notes when each event has come to the last of them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.counts: dict[str, int] = {}
        self.complete: dict[str, float] = {}
        self.news = asyncio.Event()
        self.tasks: list[asyncio.Task[str]] = []

    def join(self, session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> None:
        self.tasks = [asyncio.create_task(self._watch(session, url, headers)) for _ in range(self.size)]

    async def _watch(self, session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> str:
        async with session.get(url, headers=headers) as response:
            async for line in response.content:
                if line.startswith(b"id: "):
                    self._note(line[4:].decode().strip())
        return "ended"

    def _note(self, event: str) -> None:
        self.counts[event] = self.counts.get(event, 0) + 1
        if self.counts[event] == self.size:
            self.complete[event] = time.perf_counter()
            self.news.set()

    async def has(self, event: str) -> float:
        """When the event had come to all of them."""
        while event not in self.complete:
            self.news.clear()
            if event not in self.complete:
                await self.news.wait()
        return self.complete[event]


@asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, sock_connect=60)
    ) as session:
        yield session


async def _measure(watchers: int, events: int) -> int:
    table = Table("figure", "measured", title=f"{watchers} watchers of one scan on one gateway")
    with (
        tempfile.TemporaryDirectory(prefix="skydriver-bench-") as folder,
        patch.dict("os.environ", {"SKYDRIVER_LAUNCH_INTERVAL_S": "3600"}),
    ):
        data = Path(folder)
        async with running(Options(data_dir=data, sandbox=False), lambda _: None) as system, _session() as session:
            failed = await _through_the_gateway(system, session, watchers, events, table)
            await _bare(session, watchers, events, table)
    Console().print(table)
    return 1 if failed else 0


async def _through_the_gateway(
    system: System, session: aiohttp.ClientSession, watchers: int, events: int, table: Table
) -> bool:
    connection = system.connection
    user = {"Authorization": f"Bearer {connection['user_token']}"}
    url = connection["url"]
    # the throttle lets one scan start; the next one stays in the backlog, and has no events but ours
    first, scan = [(await _ask(session, "POST", f"{url}/scan", user, _request(2000)()))["scan_id"] for _ in range(2)]
    await _ask(session, "DELETE", f"{url}/scan/{first}", user)
    gateway = next(part for part in system.components if part.name == "api")
    assert gateway.child is not None
    crowd, began = _Crowd(watchers), time.perf_counter()
    memory = _memory_mb(gateway.child.process.pid)
    crowd.join(session, f"{url}/scan/{scan}/events", user | {"Accept": "text/event-stream"})
    await crowd.has("1")
    table.add_row("all are connected and have read the past", f"{time.perf_counter() - began:.1f} s")
    grown = _memory_mb(gateway.child.process.pid) - memory
    table.add_row("memory of the gateway for each", f"{grown / watchers * 1024:.0f} kB ({memory:.0f} MB without)")
    before, cpu = await _transactions(connection["database_url"]), _cpu_s(gateway.child.process.pid)
    took = []
    for number in range(events):
        body = json.dumps({"progress": json.loads(_progress())["progress"]}).encode()
        asked = time.perf_counter()
        await _ask(session, "PATCH", f"{url}/scan/{scan}/manifest", _system(connection), body)
        took.append(await crowd.has(str(2 + number)) - asked)
    cpu = _cpu_s(gateway.child.process.pid) - cpu
    transactions = await _transactions(connection["database_url"]) - before
    table.add_row("from PATCH to the last watcher, median", f"{statistics.median(took) * 1000:.0f} ms")
    table.add_row("gateway's processor time for each delivery", f"{cpu / events / watchers * 1e6:.0f} us")
    table.add_row("transactions of the whole system for each event", f"{transactions / events:.1f}")
    began = time.perf_counter()
    await gateway.child.stop(grace_s=15)
    ends = await asyncio.wait_for(asyncio.gather(*crowd.tasks, return_exceptions=True), 30)
    whole = sum(end == "ended" for end in ends)
    table.add_row("streams ended in order when the gateway was stopped", f"{whole} in {time.perf_counter() - began:.1f} s")
    return whole != watchers or transactions > events * watchers / 10


async def _bare(session: aiohttp.ClientSession, watchers: int, events: int, table: Table) -> None:
    port = choose(["bare"], {})["bare"]
    process = multiprocessing.get_context("spawn").Process(target=_bare_server, args=(port,), daemon=True)
    process.start()
    try:
        for _ in range(100):
            try:
                await _ask(session, "POST", f"http://{LOOPBACK}:{port}/0", {})
                break
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
        crowd = _Crowd(watchers)
        crowd.join(session, f"http://{LOOPBACK}:{port}/", {})
        await crowd.has("1")
        took = []
        for number in range(events):
            asked = time.perf_counter()
            await _ask(session, "POST", f"http://{LOOPBACK}:{port}/{2 + number}", {})
            took.append(await crowd.has(str(2 + number)) - asked)
        table.add_row("the same bytes from a bare handler, median", f"{statistics.median(took) * 1000:.0f} ms")
        for task in crowd.tasks:
            task.cancel()
        await asyncio.gather(*crowd.tasks, return_exceptions=True)
    finally:
        process.terminate()
        process.join(5)


def _bare_server(port: int) -> None:
    """Writes to all who are connected when it is told to."""

    async def serve() -> None:
        streams: list[web.StreamResponse] = []
        data = b"event: scan.progress-reported\ndata: " + b"x" * 1800 + b"\n\n"

        async def watch(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"id: 1\n" + data)
            streams.append(response)
            await asyncio.Event().wait()
            return response

        async def tell(request: web.Request) -> web.Response:
            for stream in streams:
                await stream.write(b"id: %b\n%b" % (request.match_info["id"].encode(), data))
            return web.json_response({})

        app = web.Application()
        app.add_routes([web.get("/", watch), web.post("/{id}", tell)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, port, backlog=1024).start()
        await asyncio.Event().wait()

    uvloop.run(serve())


async def _ask(session: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str], body: bytes = b"") -> Any:
    async with session.request(method, url, headers=headers, data=body) as response:
        response.raise_for_status()
        return await response.json()


def _system(connection: dict[str, str]) -> dict[str, str]:
    return {"Authorization": f"Bearer {connection['system_token']}"}


async def _transactions(database_url: str) -> int:
    """Of the database so far; sessions report theirs within about a second."""
    await asyncio.sleep(2)
    connection = await asyncpg.connect(database_url)
    try:
        return int(await connection.fetchval("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"))
    finally:
        await connection.close()


def _memory_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def _cpu_s(pid: int) -> float:

    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
