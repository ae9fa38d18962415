"""What a search costs: 100,000 manifests, the look-ups that people do, and a bare indexed SELECT in the same run.

    SKYDRIVER_TEST_DATABASE_URL=postgresql://… python benchmarks/find.py    (an administrator's URL; a database is made and dropped)

Without the variable a Postgres is started for the run. Exit code 1 if the look-up by run and event id takes 10 ms or more.
"""

import asyncio
import os
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from skydriver_api.find.compile import compile_filter
from skydriver_api.find.filters import parse_filter
from skydriver_api.find.search import find_query, stream
from skydriver_common.db.migrate import migrate
from skydriver_common.db.pool import Pool, open_pool

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.find_manifests import a_manifest, scan_id, store

MANIFESTS = 100_000
GOAL_MS = 10.0


def manifest(n: int) -> dict[str, Any]:
    """Most scans are done, with a progress report of the usual size."""
    nsides = [f"nside-{nside}" for nside in (8, 64, 512)]
    rate = {name: {"pixels": n, "seconds": 1.5} for name in nsides}
    progress = {
        "summary": "the scan is done",
        "epilogue": "",
        "tallies": {name: {"done": n, "of": 768, "percent": 99.5, "note": "in order of arrival"} for name in nsides},
        "processing_stats": {
            "start": {"t": n},
            "runtime": {"s": 1.5},
            "rate": rate,
            "end": "now",
            "finished": n % 50 != 0,
            "predictions": {},
        },
        "predictive_scanning_threshold": 1.0,
        "last_updated": "2025-01-01 00:00:00",
        "start": 1_739_560_000 + n,
        "end": None,
    }
    return a_manifest(
        n,
        event_metadata={
            "run_id": 130_000 + n // 100,
            "event_id": n * 7,
            "event_type": "gfu-gold",
            "mjd": 60000.25,
            "is_real_event": True,
        },
        classifiers={"_TEST": n % 5000 == 0, "origin_scan_id": scan_id(n - 1), "batch": f"b{n % 200}"},
        ewms_workflow_id=f"WF-{n:08x}",
        progress=progress if n % 20 else None,
        is_deleted=n % 40 == 0,
        scan_metadata={"nsides": [[8, 0], [64, 12], [512, 24]], "notes": "x" * 300},
    )


@asynccontextmanager
async def server() -> AsyncIterator[str]:
    named = os.environ.get("SKYDRIVER_TEST_DATABASE_URL") or os.environ.get("SKYDRIVER_DATABASE_URL")
    if named:
        yield named
        return
    from skydriver_cli.embedded import postgres
    from skydriver_cli.embedded.ports import choose

    with tempfile.TemporaryDirectory() as home:
        root = Path(home)
        port = choose(["postgres"], {})["postgres"]
        embedded = await postgres.start(
            root / "postgres", port=port, run_dir=root / "run", log=root / "postgres.log", durable=False
        )
        try:
            yield embedded.url
        finally:
            await embedded.stop()


@asynccontextmanager
async def database() -> AsyncIterator[str]:
    async with server() as url:
        name = f"skydriver_bench_{uuid.uuid4().hex[:8]}"
        admin = await asyncpg.connect(url, timeout=10)
        try:
            await admin.execute(f'CREATE DATABASE "{name}"')
            own = urlsplit(url)._replace(path=f"/{name}").geturl()
            await asyncio.to_thread(migrate, own)
            yield own
            await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        finally:
            await admin.close()


async def timed(work: Callable[[int], Awaitable[object]], times: int) -> tuple[float, float]:
    """Median and 99th percentile, ms."""
    taken = []
    for n in range(times):
        start = perf_counter()
        await work(n)
        taken.append((perf_counter() - start) * 1000)
    return median(taken), quantiles(taken, n=100)[98]


async def search(pool: Pool, raw: dict[str, Any], expected: int | None = None, **options: Any) -> int:
    count = 0
    async with aclosing(stream(pool, find_query(raw, **options))) as rows:
        async for _ in rows:
            count += 1
    assert expected is None or count == expected, (raw, count)
    return count


async def look_ups(pool: Pool) -> float:
    """Print the cost of each kind of look-up; returns the median of the one by run and event id, ms."""

    async def bare(n: int) -> object:
        return await pool.fetch("SELECT body FROM manifests WHERE scan_id = $1", scan_id(n * 97 + 1))

    def by_event(n: int) -> dict[str, Any]:
        number = (n * 131 + 1) % MANIFESTS
        number += number % 40 == 0
        return {
            "event_metadata.run_id": 130_000 + number // 100,
            "event_metadata.event_id": number * 7,
            "event_metadata.is_real_event": True,
        }

    floor, _ = await timed(bare, 500)
    print(f"{'bare indexed SELECT':34} {floor:8.2f} ms")
    cases: dict[str, Callable[[int], Awaitable[object]]] = {
        "run id + event id": lambda n: search(pool, by_event(n), 1),
        "i3 event id": lambda n: search(pool, {"i3_event_id": f"event-{n * 41 + 1}"}),
        "workflow id": lambda n: search(pool, {"ewms_workflow_id": f"WF-{n * 41 + 1:08x}"}),
        "classifiers.origin_scan_id": lambda n: search(pool, {"classifiers.origin_scan_id": scan_id(n * 41)}),
        "classifiers._TEST, timestamp": lambda _: search(
            pool, {"classifiers._TEST": True, "timestamp": {"$gte": 1_739_560_009}}, include_deleted=True
        ),
        "100 scan ids": lambda n: search(pool, {"scan_id": {"$in": [scan_id(n + 41 * k + 1) for k in range(100)]}}),
        "last 100 by timestamp": lambda _: search(pool, {"timestamp": {"$gt": 1_739_560_000 + MANIFESTS - 100}}),
        "first page of all": lambda n: search(pool, {}, 100, limit=100, after=scan_id(n * 300)),
    }
    answer = 0.0
    for name, work in cases.items():
        middle, high = await timed(work, 200)
        answer = answer or middle
        print(f"{name:34} {middle:8.2f} ms   p99 {high:6.2f} ms   {middle / floor:5.1f} x bare")
    return answer


def peak_mb(*, reset: bool = False) -> float:
    """The process' largest memory since the last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


async def scans_of_everything(pool: Pool) -> None:
    live = await pool.fetchval("SELECT count(*) FROM manifests WHERE NOT is_deleted")
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "everything, all fields": ({}, {}),
        "everything, scan ids": ({}, {"projection": ["scan_id"]}),
        "unfinished": (
            {"$or": [{"progress": None}, {"progress.processing_stats.finished": False}]},
            {"projection": ["scan_id"]},
        ),
        "regex on the arguments, no match": ({"scanner_server_args": {"$regex": "no-such", "$options": "i"}}, {}),
        "free-form path, no index": ({"progress.tallies.nside-8.done": 12345}, {}),
    }
    for name, (raw, options) in cases.items():
        before = peak_mb(reset=True)
        start = perf_counter()
        count = await search(pool, raw, **options)
        taken = perf_counter() - start
        grown = peak_mb() - before
        print(f"{name:34} {taken * 1000:8.0f} ms   {count} of {live}, {count / taken:9.0f} rows/s, memory +{grown:.0f} MB")


async def main() -> int:
    async with database() as url:
        pool = await open_pool(url, name="bench-find", size=2)
        try:
            start = perf_counter()
            for first in range(1, MANIFESTS + 1, 5_000):
                await store(pool, map(manifest, range(first, first + 5_000)))
            await pool.execute("VACUUM ANALYZE manifests", timeout=300)
            size = await pool.fetchval("SELECT pg_size_pretty(pg_total_relation_size('manifests'))")
            print(f"{MANIFESTS} manifests in {perf_counter() - start:.0f} s, {size}")
            raw = {"event_metadata.run_id": 1, "event_metadata.event_id": 2, "event_metadata.is_real_event": True}
            compiling, _ = await timed(lambda _: asyncio.sleep(0, compile_filter(parse_filter(raw))), 1_000)
            print(f"{'compile the filter':34} {compiling:8.3f} ms")
            taken = await look_ups(pool)
            await scans_of_everything(pool)
        finally:
            await pool.close()
    print(f"by run and event id: {taken:.2f} ms, goal below {GOAL_MS:g} ms: {'met' if taken < GOAL_MS else 'MISSED'}")
    return 0 if taken < GOAL_MS else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
