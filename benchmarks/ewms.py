"""What it costs to keep 1,000 live workflows' workers known: HTTP calls and CPU per interval, and memory for one huge workflow.

    SKYDRIVER_TEST_DATABASE_URL=postgresql://… python benchmarks/ewms.py    (an administrator's URL; a database is made and dropped)

Without the variable a Postgres is started for the run. EWMS is a process of its own that answers with taskforces of the usual size, in
pages of 10 MiB, on loopback. The raw limit beside it: the same pages fetched and only decoded. Exit code 1 if a goal is missed.
"""

import asyncio
import multiprocessing
import os
import resource
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import orjson
from aiohttp import web
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from skydriver_common.db.migrate import migrate
from skydriver_common.model import events as ev
from skydriver_ewms_bridge.adapters.ewms_rest import open_ewms
from skydriver_ewms_bridge.decide.workforce import WorkforceFold

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.bridge import INSTANCE, Bridge, a_bridge

WORKFLOWS = 1_000
MOST_CALLS = 5
MOST_CPU_S = 2.0
PAGE_BYTES = 10 << 20
FEW, MANY = 20_000, 200_000
MOST_GROWTH = 1.25
_BASE = 1_700_000_000.0


def a_taskforce(workflow_id: str, number: int, round_: int) -> dict[str, Any]:
    """As projected for the bridge: six phase changes, a dozen counts, some errors."""
    phases = ["pre-mq-activation", "pre-launch", "pending-starter", "condor-submit"]
    return {
        "taskforce_uuid": f"TF-{workflow_id[3:]}-{number:06x}", "task_id": f"TK-{workflow_id[3:]}-{number % 2}",
        "workflow_id": workflow_id, "timestamp": _BASE + number, "priority": 100, "n_workers": 250, "schedd": "ap1.example",
        "phase": "condor-submit", "cluster_id": 1000 + number,
        "phase_change_log": [
            {"target_phase": phase, "timestamp": _BASE + n, "was_successful": True, "source_event_time": None,
             "source_entity": "WMS", "context": "the usual way of a taskforce"} for n, phase in enumerate(phases)
        ],
        "compound_statuses": {
            "IDLE": {"null": 40, "Tasking": 3},
            "RUNNING": {"null": 2, "RunningInitCommand": 10, "AwaitingFirstMessage": 25, "Tasking": 110 + round_, "FatalError": 4},
            "HELD: over its memory limit": {"Tasking": 1}, "COMPLETED": {"Done": 3, "FatalError": 2},
        },
        "top_task_errors": {"task failed (exit code 1): MemoryError": 5, f"init-container failed (exit code 22): {number % 5000}": 1},
    }  # fmt: skip


class Ewms:
    """Answers the two questions of a refresh, and counts what it is asked. `huge`: one workflow with so many taskforces."""

    def __init__(self) -> None:
        self.calls = 0
        self.round = 0

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20)
        app.add_routes(
            [
                web.get("/.well-known/openid-configuration", self.discovery),
                web.post("/token", self.token),
                web.post("/v1/query/taskforces", self.taskforces),
                web.post("/v1/query/workflows", self.workflows),
                web.post("/round/{round}", self.next_round),
            ]
        )
        return app

    async def discovery(self, request: web.Request) -> web.Response:
        return web.json_response({"token_endpoint": "/token"})

    async def token(self, _: web.Request) -> web.Response:
        return web.json_response({"access_token": "token", "expires_in": 3600})

    async def next_round(self, request: web.Request) -> web.Response:
        calls, self.calls, self.round = self.calls, 0, int(request.match_info["round"])
        return web.json_response(calls)

    async def taskforces(self, request: web.Request) -> web.Response:
        self.calls += 1
        body = orjson.loads(await request.read())
        ids = body["query"]["workflow_id"]["$in"]
        n = int(ids[0].removeprefix("WF-huge-")) if ids[0].startswith("WF-huge-") else 2 * len(ids)
        number, size, page = int(body.get("after", "0")), 0, []
        while number < n and size < PAGE_BYTES:
            page.append(orjson.dumps(a_taskforce(ids[number % len(ids)], number, self.round)))
            size += len(page[-1])
            number += 1
        after = orjson.dumps(str(number) if number < n else None)
        return web.Response(
            body=b'{"taskforces":[%b],"next_after":%b}' % (b",".join(page), after), content_type="application/json"
        )

    async def workflows(self, request: web.Request) -> web.Response:
        self.calls += 1
        ids = orjson.loads(await request.read())["query"]["workflow_id"]["$in"]
        found = [{"workflow_id": w, "timestamp": _BASE, "priority": 100, "deactivated": None} for w in ids]
        return web.json_response({"workflows": found, "next_after": None})


def serve(listening: socket.socket) -> None:
    """The process that is EWMS."""
    web.run_app(Ewms().application(), sock=listening, print=None, access_log=None)


async def refreshed(bridge: Bridge, session: aiohttp.ClientSession, url: str, round_: int) -> tuple[int, float, float]:
    """HTTP calls, CPU seconds and seconds of one interval's refresh."""
    async with session.post(f"{url}/round/{round_}"):
        pass
    await bridge.pool.execute("UPDATE ewms_watch SET refresh_at = now()")
    began, cpu = time.monotonic(), time.process_time()
    assert await bridge.workforces.refresh() is True
    cpu, took = time.process_time() - cpu, time.monotonic() - began
    async with session.post(f"{url}/round/{round_}") as answer:
        return await answer.json(), cpu, took


async def raw_limit(session: aiohttp.ClientSession, url: str, ids: list[str]) -> float:
    """CPU seconds for fetching and decoding the same answers."""
    cpu = time.process_time()
    for path in ("taskforces", "workflows"):
        async with session.post(f"{url}/v1/query/{path}", json={"query": {"workflow_id": {"$in": ids}}}) as answer:
            orjson.loads(await answer.read())
    return time.process_time() - cpu


async def peak_mib(ewms: Any, n: int) -> float:
    """The highest resident size of this process, in MiB, after one workflow of n taskforces was folded."""
    fold = WorkforceFold()
    async for page in ewms.find_taskforces([f"WF-huge-{n}"]):
        for taskforce in page:
            fold.add(taskforce)
    assert fold.result().n_taskforces == n
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@asynccontextmanager
async def database() -> AsyncIterator[str]:
    """A fresh database with the schema."""
    async with _server() as admin:
        name = f"skydriver_bench_{uuid.uuid4().hex[:8]}"
        connection = await asyncpg.connect(admin)
        await connection.execute(f'CREATE DATABASE "{name}"')
        url = urlsplit(admin)._replace(path=f"/{name}").geturl()
        try:
            await asyncio.to_thread(migrate, url)
            yield url
        finally:
            await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            await connection.close()


@asynccontextmanager
async def _server() -> AsyncIterator[str]:
    named = os.environ.get("SKYDRIVER_TEST_DATABASE_URL") or os.environ.get("SKYDRIVER_DATABASE_URL")
    if named:
        yield named
        return
    from skydriver_cli.embedded import postgres
    from skydriver_cli.embedded.ports import choose

    with tempfile.TemporaryDirectory(prefix="skydriver-bench-") as folder:
        home = Path(folder)
        port = choose(["postgres"], {})["postgres"]
        server = await postgres.start(home / "postgres", port=port, run_dir=home / "run", log=home / "log", durable=False)
        try:
            yield server.url
        finally:
            await server.stop()


async def live_workflows(bridge: Bridge, n: int) -> list[str]:
    """Scans with a workflow each."""
    ids = []
    for number in range(n):
        scan_id = await bridge.new_scan()
        await bridge.append("dispatcher", scan_id, ev.ScanLaunched(launcher="local", job=scan_id))
        ids.append(f"WF-{number:08x}-00000000")
        assert await bridge.usecases.assign_own(scan_id, ids[-1], "http://ewms.example")
    return ids


async def measure(url: str) -> bool:
    table = Table("figure", "measured", "goal", title=f"{WORKFLOWS:,} live workflows of 2 taskforces each")
    async with database() as database_url, aiohttp.ClientSession() as session:
        with tempfile.TemporaryDirectory(prefix="skydriver-bench-") as folder:
            async with (
                open_ewms(url=url, issuer=url, client_id="b", client_secret=SecretStr("s"), instance=INSTANCE) as ewms,
                a_bridge(database_url, Path(folder), ewms) as bridge,
            ):
                ids = await live_workflows(bridge, WORKFLOWS)
                raw_s = await raw_limit(session, url, ids)
                rows = [
                    (what, *await refreshed(bridge, session, url, round_))
                    for what, round_ in (("first look: all is news", 0), ("nothing has changed", 0), ("all have changed", 1))
                ]
                few, many = [await peak_mib(ewms, n) for n in (FEW, MANY)]
    for what, calls, cpu_s, took_s in rows:
        table.add_row(f"{what}: HTTP calls", str(calls), f"≤ {MOST_CALLS}")
        table.add_row(
            f"{what}: CPU", f"{cpu_s:.2f} s ({cpu_s / raw_s:.1f} × only decoding), {took_s:.2f} s in all", f"< {MOST_CPU_S:g} s"
        )
    table.add_row(
        f"peak memory, one workflow of {FEW:,} and {MANY:,} taskforces", f"{few:.0f} MiB, {many:.0f} MiB ({many / few:.2f} ×)",
        f"≤ {MOST_GROWTH:g} ×",
    )  # fmt: skip
    Console().print(table)
    return all(calls <= MOST_CALLS and cpu_s < MOST_CPU_S for _, calls, cpu_s, _ in rows) and many <= MOST_GROWTH * few


def main() -> int:
    """Measure and print."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        process = multiprocessing.get_context("fork").Process(target=serve, args=(listening,), daemon=True)
        process.start()
    try:
        return 0 if asyncio.run(measure(url)) else 1
    finally:
        process.terminate()
        process.join(5)


if __name__ == "__main__":
    sys.exit(main())
