"""The past told again to the live system: it has heard it all before."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import requests

from skydriver_common.model import events as ev
from skydriver_common.model.ids import ScanId, new_scan_id
from skydriver_ops.eventlog.fold import VIEWS
from tests.acceptance.conftest import Running, sample_event, scan_request, start, stop
from tests.support.histories import a_request, a_store
from tests.support.waiting import wait_until

_BRIDGE = {
    "ewms_attempts": "scan_id", "ewms_watch": "scan_id, workflow_id, since", "ewms_additions": "*", "ewms_taskforces": "scan_id",
}  # fmt: skip
"""What the bridge remembers, without the times of its last looks at EWMS."""
_LOGGED = {
    "scan.deleted", "scan.rescan-recorded", "scan.scanner-failed", "scan.launch-failed", "scan.launch-abandoned", "scan.launched",
    "scan.failure-reported", "scan.result-received", "scan.workflow-deactivated",
}  # fmt: skip
"""Of each kind that somebody reacts to, and of each end that a scan can come to, there is one."""


async def _state(database_url: str) -> dict[str, Any]:
    """All views, byte by byte, the length of the log, the work that is due, and what the bridge knows."""
    connection = await asyncpg.connect(database_url)
    try:
        views = {name: [tuple(row) for row in await connection.fetch(f"SELECT * FROM {name} ORDER BY 1")] for name in VIEWS}
        due = [tuple(row) for row in await connection.fetch("SELECT kind, scan_id FROM due_work ORDER BY 1, 2")]
        bridge = {
            name: [tuple(row) for row in await connection.fetch(f"SELECT {columns} FROM {name} ORDER BY 1")]
            for name, columns in _BRIDGE.items()
        }
        return {**views, **bridge, "events": await connection.fetchval("SELECT count(*) FROM event_log"), "due": due}
    finally:
        await connection.close()


async def _queues_are_empty(amqp_url: str) -> bool:
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        for name in ("scan.launched", "scan.result-received", "scan.deleted", "scan.scanner-failed", "scan.launch-abandoned"):
            channel = await connection.channel()
            queue = await channel.declare_queue(f"skydriver.events.ewms-bridge.{name}", passive=True)
            if queue.declaration_result.message_count:
                return False
    return True


def test_replaying_everything_onto_the_live_exchange_changes_nothing(tmp_path: Path) -> None:
    running = start(tmp_path / "system", SKYDRIVER_TEARDOWN_DELAY_S="0")
    try:
        _replay_everything(running)
    finally:
        stop(running)


def _replay_everything(running: Running) -> None:
    urls = running.connection
    done = running.call("POST", "/scan", body=scan_request(sample_event())).json()["scan_id"]
    gone = running.call("POST", "/scan", body=scan_request(sample_event())).json()["scan_id"]
    running.call("DELETE", f"/scan/{gone}")
    fails = scan_request({"this": "is no event that a scanner can read"})
    failed = running.call("POST", "/scan", body=fails).json()["scan_id"]
    assert running.call("POST", f"/scan/{failed}/actions/rescan", body={}).status_code == 200
    asyncio.run(_abandoned(urls["database_url"]))
    wait_until(
        lambda: set(_types(urls["database_url"])) >= _LOGGED - {"scan.workflow-deactivated"}, 120, "all of it has happened"
    )
    wait_until(lambda: running.get(f"/scan/{done}/status")["scan_complete"], 120, "the scan is complete")
    wait_until(lambda: running.get(f"/scan/{done}/status")["ewms_deactivated"], 60, "its workflow is finished")
    before, workflows = _at_rest(urls), _workflows(running)
    assert _types(urls["database_url"]) >= _LOGGED
    assert len(workflows) >= 4, "taskforces and their workflows"
    stream = requests.get(
        f"{urls['url']}/scan/{done}/events", stream=True, timeout=600,
        headers={"Authorization": f"Bearer {urls['user_token']}", "Accept": "text/event-stream"},
    )  # fmt: skip
    lines = stream.iter_lines()
    shown = [0]
    while shown[-1] < _version(urls["database_url"], done):
        _read_id(next(lines), shown)

    ran = subprocess.run(
        [sys.executable, "-m", "skydriver_cli.app", "log", "replay", "--to", "skydriver.events", "--json",
         "--data-dir", str(running.data_dir)],
        check=True, capture_output=True, timeout=600,
    )  # fmt: skip
    assert json.loads(ran.stdout)["events"] == before["events"]
    wait_until(lambda: asyncio.run(_queues_are_empty(urls["amqp_url"])), 60, "the consumers have heard it")
    assert _at_rest(urls) == before
    assert _workflows(running) == workflows

    # a stream that was open all the time has shown each event once
    running.call("DELETE", f"/scan/{done}", body={"delete_completed_scan": True})
    newest = _version(urls["database_url"], done)
    assert newest > shown[-1]
    while shown[-1] < newest:
        _read_id(next(lines), shown)
    assert shown == list(range(newest + 1))
    stream.close()


async def _abandoned(database_url: str) -> None:
    """A scan whose launch was given up, and one whose scanner told that it failed: as the services note it."""
    async with a_store(database_url) as store:
        scan_id = new_scan_id()
        await store.append(
            "dispatcher", scan_id, a_request(scan_id), ev.LaunchAttempted(attempt=1), ev.LaunchFailed(attempt=1, reason="no image"),
            ev.LaunchAbandoned(reason="no image"),
        )  # fmt: skip
        scan_id = new_scan_id()
        await store.append("dispatcher", scan_id, a_request(scan_id), ev.LaunchAttempted(attempt=1))
        await store.append("dispatcher", scan_id, ev.ScanLaunched(launcher="local", job="elsewhere"))
        failure = ev.FailureReported(reason="no startup file", log_tail="", producer="p", sequence=1)
        await store.append("progress", scan_id, failure)
        await store.append("dispatcher", scan_id, ev.ScanDeleted())


def _types(database_url: str) -> set[str]:
    async def work() -> set[str]:
        connection = await asyncpg.connect(database_url)
        try:
            return {row["type"] for row in await connection.fetch("SELECT DISTINCT type FROM event_log")}
        finally:
            await connection.close()

    return asyncio.run(work())


def _workflows(running: Running) -> list[tuple[Any, ...]]:
    """Every workflow and taskforce at EWMS, whole."""
    (path,) = running.data_dir.rglob("ewms.sqlite")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        return [
            *store.execute("SELECT workflow_id, doc FROM workflows ORDER BY seq"),
            *store.execute("SELECT taskforce_uuid, phase, doc FROM taskforces ORDER BY seq"),
        ]


def _read_id(line: bytes, shown: list[int]) -> None:
    if line.startswith(b"id: "):
        shown.append(int(line[4:]))


def _version(database_url: str, scan_id: ScanId) -> int:
    async def work() -> int:
        connection = await asyncpg.connect(database_url)
        try:
            return int(await connection.fetchval("SELECT max(version) FROM event_log WHERE scan_id = $1", scan_id))
        finally:
            await connection.close()

    return asyncio.run(work())


def _at_rest(urls: dict[str, str]) -> dict[str, Any]:
    """The state once all is published and consumed, and two looks agree."""
    states: list[dict[str, Any]] = []

    def agree() -> bool:
        states.append(asyncio.run(_state(urls["database_url"])))
        is_idle = asyncio.run(_all_is_published(urls["database_url"])) and asyncio.run(_queues_are_empty(urls["amqp_url"]))
        return is_idle and states[-1:] == states[-2:-1]

    wait_until(agree, 120, "nothing changes any more", poll_s=1.0)
    return states[-1]


async def _all_is_published(database_url: str) -> bool:
    connection = await asyncpg.connect(database_url)
    try:
        return not await connection.fetchval(
            "SELECT EXISTS (SELECT FROM event_log l"
            " WHERE NOT EXISTS (SELECT FROM relay_cursors c WHERE (l.xid, l.position) <= (c.xid, c.position)))"
        )
    finally:
        await connection.close()
