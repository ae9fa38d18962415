"""The dispatcher on a real Kubernetes API server, in figures, each beside what bounds it in the same run.

    python -m benchmarks.dispatch [--posts 40] [--backlog 10000] [--waiting 100000] [--only post,drain,claim,watch]

Starts Postgres, RabbitMQ, etcd, an API server (`make kube-assets` first) and the services on loopback, and stops them all. No
controllers run: a Job stays as it was made, and the two cores are the API server's and ours.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import structlog
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.watch import measure_watch
from skydriver_cli.embedded import postgres, rabbitmq
from skydriver_cli.embedded.ports import choose
from skydriver_common.db.migrate import migrate
from skydriver_common.db.pool import open_pool
from skydriver_dispatcher import store
from tests.support.kube.api import Api, path, spec_of
from tests.support.kube.control_plane import ControlPlane
from tests.support.kube.installation import Installation, request
from tests.support.kube.rights import grant

PARTS = ("post", "drain", "claim", "watch")
NAMESPACE = "bench"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the dispatcher on a real Kubernetes API server.")
    parser.add_argument("--posts", type=int, default=40, help="urgent scans, one after the other")
    parser.add_argument("--backlog", type=int, default=10_000, help="scans that wait before the drain begins")
    parser.add_argument("--waiting", type=int, default=100_000, help="entries beside which a claim is measured")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to measure, by commas")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    uvloop.run(_measure(given))


async def _measure(given: argparse.Namespace) -> None:
    parts = given.only.split(",")
    table = Table("figure", "measured", "target", title="Dispatcher on Kubernetes")
    with tempfile.TemporaryDirectory(prefix="skydriver-bench-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        async with _servers(home) as (database_url, amqp_url):
            if "claim" in parts:
                await _claims(database_url, given.waiting, table)
            if "watch" in parts:
                await measure_watch(table)
            if {"post", "drain"} & set(parts):
                async with _cluster(home) as (plane, api):
                    await _scans(home, plane, api, database_url, amqp_url, given, parts, table)
    Console().print(table)


@contextlib.asynccontextmanager
async def _servers(home: Path) -> AsyncIterator[tuple[str, str]]:
    ports = choose(["postgres", *rabbitmq.PORTS], {})
    async with contextlib.AsyncExitStack() as stack:
        database = await postgres.start(
            home / "postgres", port=ports["postgres"], run_dir=home / "run", log=home / "postgres.log"
        )
        stack.push_async_callback(database.stop)
        node = await rabbitmq.start(home / "rabbitmq", ports=ports, run_dir=home / "run", logs=home / "logs")
        stack.push_async_callback(node.stop)
        await asyncio.to_thread(migrate, database.url)
        yield database.url, node.url


@contextlib.asynccontextmanager
async def _cluster(home: Path) -> AsyncIterator[tuple[ControlPlane, Api]]:
    plane = await ControlPlane.start(home / "kube", nodes=0)
    try:
        async with plane.session() as session:
            api = Api(session)
            await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
            yield plane, api
    finally:
        await plane.stop()


async def _scans(
    home: Path, plane: ControlPlane, api: Api, database_url: str, amqp_url: str, given: Any, parts: Sequence[str], table: Table
) -> None:  # fmt: skip
    kubeconfig = await grant(plane, api, NAMESPACE, "skydriver-dispatcher")
    system = Installation(
        home / "services", api=api, namespace=NAMESPACE, kubeconfig=kubeconfig, database_url=database_url, amqp_url=amqp_url
    )
    try:
        await system.start()
        if "post" in parts:
            await _posts(plane, system, given.posts, table)
        if "drain" in parts:
            await _drain(plane, system, given.backlog, table)
    finally:
        await system.stop()


async def _posts(plane: ControlPlane, system: Installation, posts: int, table: Table) -> None:
    """From the first byte of POST /scan to the Job's ADDED, as a watch of the API server sees it; nothing else goes on."""
    accepted: dict[str, asyncio.Future[float]] = {}

    async def watch(session: aiohttp.ClientSession) -> None:
        where = path("Job", NAMESPACE)
        async with session.get(where, params={"watch": "true"}, timeout=aiohttp.ClientTimeout(total=None)) as stream:
            async for line in stream.content:
                event = json.loads(line)
                if event["type"] == "ADDED":
                    future = accepted.setdefault(event["object"]["metadata"]["name"], asyncio.Future())
                    if not future.done():
                        future.set_result(time.perf_counter())

    async with plane.session() as session:
        watching = asyncio.create_task(watch(session))
        times, raw = [], []
        for number in range(posts + 3):
            await asyncio.sleep(0.3)  # idle in between
            began = time.perf_counter()
            scan_id = await system.submit()
            future = accepted.setdefault(f"skyscan-{scan_id}", asyncio.Future())
            took = await asyncio.wait_for(future, 30) - began
            if number >= 3:
                times.append(took)
        job = await system.job(scan_id)
        assert job is not None
        for number in range(posts):
            copy = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": f"raw-{number}"}, "spec": spec_of(job)}
            future = accepted.setdefault(f"raw-{number}", asyncio.Future())
            began = time.perf_counter()
            await system.api.create(copy, namespace=NAMESPACE)
            raw.append(await asyncio.wait_for(future, 30) - began)
        watching.cancel()
    median, bound = statistics.median(times) * 1000, statistics.median(raw) * 1000
    worst = max(times) * 1000
    table.add_row("a Job made by hand, seen by a watch", f"median {bound:.1f} ms", "")
    table.add_row(
        "POST /scan to Job accepted, urgent, idle", f"median {median:.0f} ms ({median / bound:.1f} x by hand), worst {worst:.0f} ms",
        "median < 100 ms",
    )  # fmt: skip


async def _drain(plane: ControlPlane, system: Installation, backlog: int, table: Table) -> None:
    """So many waiting scans are let go at once; how fast, and with which calls."""
    await system.kill("dispatcher-0")
    system.settings |= {"SKYDRIVER_MAX_RUNNING_SCANS": "0"}
    await system.start_service("dispatcher-0")
    await system.until_ready("dispatcher-0")
    manifest = await system.get(f"/scan/{await system.submit(priority=200)}/manifest")
    body = request(priority=0, i3_event_id=manifest["i3_event_id"])
    del body["event_i3live_json"]
    with Progress(transient=True) as progress:
        task = progress.add_task("filling the backlog", total=backlog)

        async def fill(count: int) -> None:
            for _ in range(count):
                status, answer = await system.call("POST", "/scan", body=body)
                assert status == 200, answer
                progress.advance(task)

        await asyncio.gather(*(fill(len(range(number, backlog, 32))) for number in range(32)))
        before = Counter((call.verb, call.resource) for call in plane.calls(NAMESPACE))
        await system.kill("dispatcher-0")
        del system.settings["SKYDRIVER_MAX_RUNNING_SCANS"]
        await system.start_service("dispatcher-0")
        await system.until_ready("dispatcher-0")
        began = time.perf_counter()
        task = progress.add_task("draining it", total=backlog)
        pool = await asyncpg.connect(system._servers["SKYDRIVER_DATABASE_URL"])
        count = "SELECT count(*) FROM due_work WHERE kind = 'launch'"
        first = left = await pool.fetchval(count)
        while left:
            await asyncio.sleep(0.5)
            left = await pool.fetchval(count)
            progress.update(task, completed=backlog - left)
        took = time.perf_counter() - began
        await pool.close()
    calls = Counter((call.verb, call.resource) for call in plane.calls(NAMESPACE)) - before
    creates = {resource: calls.pop(("create", resource), 0) for resource in ("jobs", "secrets")}
    scans = backlog
    others = ", ".join(f"{count} {verb} {resource}" for (verb, resource), count in calls.most_common())
    raw = await _raw_rate(system, 400)
    rate = first / took
    table.add_row("Jobs and Secrets made by hand, 4 at a time", f"{raw:.0f} pairs/s", "")
    table.add_row(f"a backlog of {backlog} drained", f"{rate:.0f} scans/s, {rate / raw:.0%} of by hand", "")
    table.add_row(
        "calls per scan", f"{creates['jobs'] / scans:.3f} Job + {creates['secrets'] / scans:.3f} Secret creates", "1 + 1"
    )
    table.add_row("other calls in that time", others or "none", "renewals of the Lease, one list and watch each")


async def _raw_rate(system: Installation, pairs: int) -> float:
    jobs = await system.api.list("Job", NAMESPACE)
    spec = spec_of(jobs[0])
    secret = {"apiVersion": "v1", "kind": "Secret", "data": {"scan-token": "eA=="}}
    numbers = iter(range(pairs))

    async def make() -> None:
        for number in numbers:
            job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": f"pair-{number}"}, "spec": spec}
            await system.api.create(job, namespace=NAMESPACE)
            await system.api.create(secret | {"metadata": {"name": f"pair-{number}"}}, namespace=NAMESPACE)

    began = time.perf_counter()
    await asyncio.gather(*(make() for _ in range(4)))
    return pairs / (time.perf_counter() - began)


async def _claims(database_url: str, most: int, table: Table) -> None:
    """What one claim costs beside so many waiting entries, and beside the least that a durable write can cost."""
    pool = await open_pool(database_url, name="bench", size=2)
    await store.set_throttle_defaults(pool, interval_s=0.0, max_running=None)
    # entries without scans: a claim looks at nothing else
    fill = """INSERT INTO due_work (kind, scan_id, due_at, priority, created_at)
              SELECT 'launch', lpad(to_hex(n), 24, '0'), $3::timestamptz, n % 100, $3::timestamptz - n * interval '1 second'
                FROM generate_series($1::int, $2::int) n"""
    counts = sorted({min(1_000, most), min(10_000, most), most})
    now, filled = datetime.now(UTC) - timedelta(hours=1), 0
    update = "UPDATE launch_throttle SET changed_by = $1"
    raw = [await _timed(pool.execute(update, str(number))) for number in range(500)]
    table.add_row("an update of one row, committed", f"p50 {_p(raw, 50):.2f} ms, p99 {_p(raw, 99):.2f} ms", "")
    for count in counts:
        await pool.execute(fill, filled + 1, count, now)
        filled = count
        await pool.execute("VACUUM ANALYZE due_work")
        took = [
            await _timed(store.claim_launch(pool, holder="bench", lease=timedelta(minutes=10)))
            for _ in range(min(500, count // 2))
        ]
        table.add_row(
            f"a claim, {count} entries waiting",
            f"p50 {_p(took, 50):.2f} ms, p99 {_p(took, 99):.2f} ms ({_p(took, 50) / _p(raw, 50):.1f} x update)", "p99 < 5 ms",
        )  # fmt: skip
    await pool.execute("DELETE FROM due_work WHERE kind = 'launch'")
    await pool.close()


async def _timed(work: Any) -> float:
    began = time.perf_counter()
    await work
    return (time.perf_counter() - began) * 1000


def _p(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


if __name__ == "__main__":
    main()
