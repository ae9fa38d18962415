"""The REST gateway in figures, beside bare handlers on the same machine in the same run.

    python benchmarks/rest.py [--seconds 4] [--connections 32]

Reads are given as a ratio to an aiohttp handler that does one asyncpg statement; results to one that serves static bytes.
Talks to loopback only, starts a system of its own in a temporary folder and stops it.
"""

import argparse
import asyncio
import base64
import itertools
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import uvloop
from aiohttp import web
from rich.console import Console
from rich.table import Table

from skydriver_api.payloads.requests import parse_scan_request
from skydriver_cli.client import find_connection
from skydriver_cli.embedded.options import Options
from skydriver_cli.embedded.ports import LOOPBACK, choose
from skydriver_cli.embedded.system import running

CLUSTERS: dict[str, int | None] = {"osg": None}
_numbers = itertools.count()
_COSTS = Table("CPU ms per request", title="Where the processor's time goes")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the REST gateway.")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each figure")
    parser.add_argument("--connections", type=int, default=32)
    given = parser.parse_args()
    uvloop.run(_measure(given.seconds, given.connections))


async def _measure(seconds: float, connections: int) -> None:
    table = Table("figure", "measured", "target", title=f"REST at {connections} connections")
    with tempfile.TemporaryDirectory(prefix="skydriver-bench-") as folder:
        data = Path(folder)
        # nothing is launched: what is measured is the gateway with the services that decide
        environment = {"SKYDRIVER_LAUNCH_INTERVAL_S": "3600"}
        with _environment(environment):
            async with running(Options(data_dir=data), lambda _: None):
                await _figures(data, seconds, connections, table)
    Console().print(table)
    Console().print(_COSTS)


def _environment(values: dict[str, str]) -> Any:
    from unittest.mock import patch

    return patch.dict("os.environ", values)


async def _figures(data: Path, seconds: float, connections: int, table: Table) -> None:
    stored = json.loads((data / "connection.json").read_text())
    url = find_connection(None, None, data).url
    port = choose(["bare"], {})["bare"]
    bare = multiprocessing.get_context("spawn").Process(target=_bare_server, args=(port, stored["database_url"]), daemon=True)
    bare.start()
    headers = {"Authorization": f"Bearer {stored['user_token']}"}
    system = {"Authorization": f"Bearer {stored['system_token']}"}
    limit = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=limit, timeout=aiohttp.ClientTimeout(total=60)) as session:
        load = _Load(session, seconds, connections)
        await _until_it_answers(session, f"http://{LOOPBACK}:{port}/bytes/1")
        small, middle, large = (_request(size) for size in (2_000, 100_000, 480_000))
        # the throttle lets one scan start: that one is taken away, so that nothing but the gateway's own work is measured
        first = json.loads(await load.once("POST", f"{url}/scan", headers, small()))["scan_id"]
        await load.once("DELETE", f"{url}/scan/{first}", headers)
        await asyncio.sleep(2)
        scan = json.loads(await load.once("POST", f"{url}/scan", headers, small()))["scan_id"]
        one = f"{url}/scan/{scan}"

        raw = await load.run("GET", f"http://{LOOPBACK}:{port}/statement", {})
        table.add_row("bare handler, one statement", f"{raw.rate:.0f}/s", "")
        for name in ("manifest", "status"):
            got = await load.run("GET", f"{one}/{name}", headers)
            table.add_row(f"GET {name}", f"{got.rate:.0f}/s, {got.rate / raw.rate:.0%} of bare", ">= 50 %")
        alone = await _Load(session, seconds / 2, 1).run("POST", f"{url}/scan", headers, small)
        table.add_row("POST scan, one at a time", f"median {alone.median_ms:.1f} ms", "< 20 ms")
        for name, body, target in (
            ("small event", small, ">= 400/s, p99 < 250 ms"),
            ("100 kB event", middle, ""),
            ("480 kB event", large, ">= 80/s"),
        ):
            posted = await load.run("POST", f"{url}/scan", headers, body)
            table.add_row(f"POST scan, {name}", f"{posted.rate:.0f}/s, p99 {posted.p99_ms:.0f} ms", target)
        scans = [
            json.loads(await load.once("POST", f"{url}/scan", headers, small()))["scan_id"] for _ in range(2 * connections)
        ]
        urls = itertools.cycle([f"{url}/scan/{scan}/manifest" for scan in scans])
        patched = await load.run("PATCH", lambda: next(urls), system, _progress)
        table.add_row("PATCH progress", f"{patched.rate:.0f}/s, p99 {patched.p99_ms:.0f} ms", ">= 500/s, p99 < 250 ms")
        for size in (80_000, 5_000_000):
            body = b'{"skyscan_result":{"nside-1":{"data":"%b"}},"is_final":false}' % (b"x" * size)
            await load.once("PUT", f"{one}/result", system, body)
            if len(await load.once("GET", f"{one}/result", headers)) < size:
                raise SystemExit("the result is not what was put")
            static = await load.run("GET", f"http://{LOOPBACK}:{port}/bytes/{size}", {})
            got = await load.run("GET", f"{one}/result", headers)
            table.add_row(
                f"GET result, {size / 1000:.0f} kB", f"{got.rate:.0f}/s, {got.rate / static.rate:.0%} of static", ">= 90 %"
            )
    bare.terminate()
    bare.join(5)
    began, times = time.perf_counter(), 500
    for _ in range(times):
        parse_scan_request(small(), clusters=CLUSTERS)
    table.add_row("validation of a request", f"{(time.perf_counter() - began) / times * 1000:.3f} ms", "< 0.5 ms")


class _Figure:
    def __init__(self, took: list[float], seconds: float) -> None:
        self.rate = len(took) / seconds
        self.median_ms = statistics.median(took) * 1000
        self.p99_ms = statistics.quantiles(took, n=100)[-1] * 1000 if len(took) > 1 else 0.0


class _Load:
    """So many connections that ask again and again."""

    def __init__(self, session: aiohttp.ClientSession, seconds: float, connections: int) -> None:
        self._session = session
        self._seconds = seconds
        self._connections = connections

    async def once(self, method: str, url: str, headers: dict[str, str], body: bytes | None = None) -> bytes:
        async with self._session.request(method, url, headers=headers, data=body) as response:
            content = await response.read()
            if response.status != 200:
                raise SystemExit(f"{method} {url}: {response.status} {content[:300]!r}")
            return content

    async def run(
        self,
        method: str,
        url: str | Callable[[], str],
        headers: dict[str, str],
        body: bytes | Callable[[], bytes] | None = None,
    ) -> _Figure:
        """url, body: the same for each request, or made anew for each."""
        took: list[float] = []
        ends = time.perf_counter() + self._seconds

        async def ask() -> None:
            while time.perf_counter() < ends:
                began = time.perf_counter()
                await self.once(method, url() if callable(url) else url, headers, body() if callable(body) else body)
                took.append(time.perf_counter() - began)

        asks: list[Awaitable[None]] = [ask() for _ in range(self._connections)]
        before, began = _processor_seconds(), time.perf_counter()
        await asyncio.gather(*asks)
        figure = _Figure(took, time.perf_counter() - began)
        path, content = url() if callable(url) else url, body() if callable(body) else body
        _note_costs(f"{method} {path.rpartition('/')[2]}, {len(content or b'') / 1000:.0f} kB", before, len(took))
        return figure


_PARTS = {
    "skydriver_api": "gateway", "skydriver_dispatcher": "dispatcher", "skydriver_progress": "progress",
    "skydriver_ewms_bridge": "bridge", "beam": "rabbitmq", "bin/postgres": "postgres",
}  # fmt: skip


def _processor_seconds() -> dict[str, float]:
    """Processor time of each part of the system so far, by the names of processes below this one (Linux)."""
    parents, names, seconds = {}, {}, {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            names[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])
        seconds[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    sums: dict[str, float] = {}
    for process in parents:
        above = process
        while above in parents and above != os.getpid():
            above = parents[above]
        if above != os.getpid():
            continue
        name = names[process]  # of a server process of Postgres: with the user's, who may be called like a service
        part = (
            "postgres"
            if name.startswith("postgres")
            else next((part for each, part in _PARTS.items() if each in name), "others")
        )
        part = "load" if process == os.getpid() else part
        sums[part] = sums.get(part, 0.0) + seconds[process]
    return sums


def _note_costs(figure: str, before: dict[str, float], requests: int) -> None:
    spent = {part: (after - before.get(part, 0.0)) * 1000 / requests for part, after in _processor_seconds().items()}
    told = ", ".join(f"{part} {ms:.2f}" for part, ms in sorted(spent.items(), key=lambda each: -each[1]) if ms >= 0.01)
    _COSTS.add_row(f"{figure}: {sum(spent.values()):.2f} = {told}")


def _request(size: int) -> Callable[[], bytes]:
    """Requests whose events have so many bytes, mostly packed pulses, as real ones have; and no event is like another."""
    pulses = base64.b64encode(random.Random(size).randbytes(size * 3 // 4)).decode()
    frames = [["P", {"pulses": pulses[start : start + 40_000]}] for start in range(0, len(pulses), 40_000)]
    event = {"value": {"version": "2023a", "streams": ["neutrino"], "data": {"unique_id": "UNIQUE", "frames": frames}}}
    body = json.dumps(
        {
            "docker_tag": "latest", "reco_algo": "dummy", "nsides": {"8": 0}, "request_clusters": {"osg": 1},
            "real_or_simulated_event": "simulated", "max_pixel_reco_time": 60, "priority": -1, "event_i3live_json": event,
        }
    ).encode()  # fmt: skip
    return lambda: body.replace(b"UNIQUE", b"E%09d" % next(_numbers), 1)


def _progress() -> bytes:
    """A report of a scanner's usual size that says something new."""
    number = next(_numbers)
    nside = {str(nside): {"recos": number, "pixels": {"done": number, "of": 768, "percent": "12.5%"}} for nside in (8, 64, 512)}
    stats = {"start": {"scanner start": "now"}, "runtime": {"elapsed": "0:00:10"}, "rate": {"all recos": {"mean": 1.5}}}
    return json.dumps(
        {
            "progress": {
                "summary": f"report {number}: " + "the scan is going on, " * 5, "epilogue": "",
                "tallies": {"nsides": nside, "overall": number}, "processing_stats": stats | {"predictions": {"left": "1 h"}},
                "predictive_scanning_threshold": 1.0, "last_updated": "2026-01-01 00:00:00", "start": 1_700_000_000, "end": None,
            },
            "event_metadata": {"run_id": 1, "event_id": 2, "event_type": "track", "mjd": 6e4, "is_real_event": False, "version": 1},
            "scan_metadata": {"nside_progression": {"8": 0, "64": 12, "512": 24}, "position_variations": 7},
        }
    ).encode()  # fmt: skip


def _bare_server(port: int, database_url: str) -> None:
    """The raw limits: a handler with one statement, and one with bytes."""

    async def serve() -> None:
        pool = await asyncpg.create_pool(database_url, min_size=1, max_size=20)
        contents = {str(size): b"x" * size for size in (1, 80_000, 5_000_000)}

        async def statement(_: web.Request) -> web.Response:
            return web.json_response(await pool.fetchval("SELECT 1"))

        async def static(request: web.Request) -> web.Response:
            return web.Response(body=contents[request.match_info["size"]])

        app = web.Application()
        app.add_routes([web.get("/statement", statement), web.get("/bytes/{size}", static)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, port).start()
        await asyncio.Event().wait()

    uvloop.run(serve())


async def _until_it_answers(session: aiohttp.ClientSession, url: str) -> None:
    for _ in range(100):
        try:
            async with session.get(url):
                return
        except aiohttp.ClientError:
            await asyncio.sleep(0.1)
    raise SystemExit("the bare server does not start")


if __name__ == "__main__":
    main()
