"""Scans with a history, made through the real store; time and ids as they come."""

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from skydriver_common.db.notifier import Notifier
from skydriver_common.db.pool import Pool, open_pool
from skydriver_common.log import system_chain
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.model import events as ev
from skydriver_common.model.commands import Context
from skydriver_common.model.ids import ScanId, new_scan_id
from skydriver_common.model.scan import Scan


def a_context(command_id: str | None = None, **changes: Any) -> Context:
    """A command's context with a fresh id."""
    values: dict[str, Any] = {"correlation_id": "c", "actor": "tester", **changes}
    return Context(command_id=command_id or uuid.uuid4().hex, **values)


def a_request(scan_id: ScanId, **changes: Any) -> ev.ScanRequested:
    """The first event of a scan."""
    request = {
        "docker_tag": "4.1.2", "reco_algo": "dummy", "nsides": {"8": 0}, "request_clusters": [["osg", 1]], "priority": 0,
        "real_or_simulated_event": "real", "predictive_scanning_threshold": 1.0, "max_pixel_reco_time": 60, "debug_mode": [],
        "classifiers": {}, "i3_event_id": uuid.uuid4().hex, **changes,
    }  # fmt: skip
    return ev.ScanRequested(
        requested_at=int(scan_id[:11], 16) / 1000, request=request, request_scan_id=scan_id, event_digest="sha256:0",
        classifiers={}, scanner_server_args="python -m skymap_scanner.server",
    )  # fmt: skip


def a_report(sequence: int, *, finished: bool = False, text: str = "") -> ev.ProgressReported:
    """A progress report."""
    progress = {"summary": text or f"report {sequence}", "processing_stats": {"rate": {}, "finished": finished}}
    return ev.ProgressReported(progress=progress, producer="p", sequence=sequence)


@dataclass(slots=True)
class Store:
    """The store of one test, with every service's unit of work."""

    url: str
    pool: Pool
    notifier: Notifier
    uows: dict[str, UnitOfWork]

    async def append(self, writer: str, scan_id: ScanId, *events: ev.Event, context: Context | None = None) -> Scan:
        """Append as a service would."""
        async with self.uows[writer].on_scans(context or a_context(), [scan_id]) as tx:
            scan = tx.append(scan_id, events)
        assert scan is not None
        return scan

    async def a_scan(self, **request: Any) -> ScanId:
        """A scan on the backlog."""
        scan_id = new_scan_id()
        await self.append("dispatcher", scan_id, a_request(scan_id, **request))
        return scan_id

    async def a_finished_scan(self) -> ScanId:
        """A scan with a bit of everything."""
        scan_id = await self.a_scan()
        await self.append("dispatcher", scan_id, ev.LaunchAttempted(attempt=1), ev.ScanLaunched(launcher="local", job="j"))
        await self.append("ewms_bridge", scan_id, ev.WorkflowAssigned(workflow_id="w" + scan_id, ewms_address="http://ewms"))
        await self.append("ewms_bridge", scan_id, ev.WorkforceChanged(statuses={"RUNNING": {"osg": 1}}, n_running=1))
        for sequence in range(1, 4):
            await self.append("progress", scan_id, a_report(sequence))
        await self.append("progress", scan_id, ev.ResultReceived(digest="sha256:1", size_bytes=10, is_final=True))
        return scan_id

    async def a_system_fact(self, command_id: str | None = None) -> bool:
        """A fact that belongs to no scan; whether it is new under this command id."""
        fact = ev.DeadLetterDiscarded(
            letter_id="l", message_id="m", queue="q", reason="no use", first_failed_at=1.0, last_failed_at=2.0,
            body_sha256="0" * 64, why="seen to",
        )  # fmt: skip
        return await system_chain.record(self.pool, self.notifier, "operator", a_context(command_id), fact)

    async def views(self) -> dict[str, list[tuple[Any, ...]]]:
        """All rows of all views."""
        return {
            name: [tuple(row) for row in await self.pool.fetch(f"SELECT * FROM {name} ORDER BY 1")]
            for name in ("manifests", "scan_requests", "i3_events", "results", "backlog", "workforces")
        }


@asynccontextmanager
async def a_store(database_url: str, *, size: int = 5) -> AsyncIterator[Store]:
    """The store on this database."""
    pool = await open_pool(database_url, name="test", size=size)
    try:
        notifier = Notifier(pool)
        yield Store(
            database_url, pool, notifier, {writer: UnitOfWork(pool, notifier, writer=writer) for writer in ev.EVENT_OWNERS}
        )
    finally:
        await pool.close()


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The standard output as JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The standard output as lines of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


async def skydriver(*words: str, timeout_s: float = 60.0) -> Ran:
    """Run the command line in a process of its own, as a person would."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "skydriver_cli.app", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(timeout_s):
        out, err = await process.communicate()
    return Ran(process.returncode or 0, out.decode(), err.decode())
