"""Hundreds of people watch scans on one gateway: each sees every event, the database hardly notices, and a stop ends all streams."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.acceptance.conftest import Running
from tests.acceptance.gateways import Gateway, another_gateway
from tests.acceptance.rest import REAL_PATCH, ok, request_scan
from tests.support.proxy import proxying
from tests.support.statements import StatementCounter

WATCHERS, SCANS, REPORTS = 300, 3, 10
_READS_EVENTS = "FROM event_log"


async def test_hundreds_of_watchers_cost_no_query_each_and_are_let_go_in_order(quiet_system: Running, tmp_path: Path) -> None:
    scans = [(await asyncio.to_thread(request_scan, quiet_system))["scan_id"] for _ in range(SCANS)]
    key_file = next((quiet_system.data_dir / "keys").glob("*jwks*"))
    url, statements = quiet_system.connection["database_url"], StatementCounter()
    async with proxying(urlsplit(url).port or 0) as proxy:
        proxy.observer = statements.connection
        settings = {
            "SKYDRIVER_AUTH_JWKS_FILE": str(key_file),
            "SKYDRIVER_DATABASE_URL": url.replace(f":{urlsplit(url).port}/", f":{proxy.port}/"),
        }
        made = another_gateway(quiet_system, tmp_path / "log", **settings)
        gateway = await asyncio.to_thread(made.__enter__)  # the loop carries what it says to the database
        try:
            await _watch(quiet_system, gateway, scans, statements)
        finally:
            await asyncio.to_thread(made.__exit__, None, None, None)


async def _watch(system: Running, gateway: Gateway, scans: list[str], statements: StatementCounter) -> None:
    headers = {"Authorization": f"Bearer {system.connection['user_token']}", "Accept": "text/event-stream"}
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120))
    seen: list[list[int]] = [[] for _ in range(WATCHERS)]
    all_began, all_saw = asyncio.Event(), asyncio.Event()

    def note(number: int, event: dict[str, Any]) -> None:
        seen[number].append(event["version"])
        if all(seen):
            all_began.set()
        if all(len(versions) == 1 + REPORTS for versions in seen):
            all_saw.set()

    async def watch(number: int) -> str:
        async with session.get(f"{gateway.url}/scan/{scans[number % SCANS]}/events", headers=headers) as response:
            assert response.status == 200
            async for line in response.content:
                if line.startswith(b"data: "):
                    note(number, json.loads(line[6:]))
            return "ended"

    async with session, asyncio.timeout(120):
        watchers = [asyncio.create_task(watch(number)) for number in range(WATCHERS)]
        await all_began.wait()
        before = statements.count(_READS_EVENTS)
        for number in range(REPORTS):
            for scan in scans:
                body = {"progress": REAL_PATCH["progress"] | {"summary": str(number)}}
                ok(await asyncio.to_thread(system.call, "PATCH", f"/scan/{scan}/manifest", body=body, role="system"))
        await all_saw.wait()
        read = statements.count(_READS_EVENTS) - before
        assert before > 0, "the beginnings of streams are read, and the counter sees it"
        assert read <= 4 * SCANS * REPORTS, "by scan and report, not by watcher"
        assert all(versions == list(range(1, 2 + REPORTS)) for versions in seen)
        assert await asyncio.to_thread(gateway.stop) == 0
        assert await asyncio.gather(*watchers) == ["ended"] * WATCHERS
