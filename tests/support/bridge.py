"""The bridge without its process: real use cases and real Postgres, with EWMS in memory and time in the test's hands."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from pydantic import SecretStr

from skydriver_common.db.notifier import Notifier
from skydriver_common.db.pool import Pool, open_pool
from skydriver_common.db.schedule import Schedule
from skydriver_common.faults import TryLater
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.model import events as ev
from skydriver_common.model.commands import Context
from skydriver_common.model.ids import ScanId, new_scan_id
from skydriver_common.model.scan import Scan
from skydriver_common.runtime.due_work import Handler
from skydriver_common.runtime.loops import Step
from skydriver_ewms_bridge.adapters.profile_files import ProfileFiles
from skydriver_ewms_bridge.breaker import Breaker
from skydriver_ewms_bridge.decide.worker_replacement import ReplacementPolicy
from skydriver_ewms_bridge.due_kinds import WORKFORCE, DueKind
from skydriver_ewms_bridge.due_work import consumer
from skydriver_ewms_bridge.reconciliation import Reconciliation
from skydriver_ewms_bridge.settings import BridgeSettings
from skydriver_ewms_bridge.start_checks import StartChecks
from skydriver_ewms_bridge.taskforces import Taskforces
from skydriver_ewms_bridge.teardown import Teardown
from skydriver_ewms_bridge.usecases import UseCases
from skydriver_ewms_bridge.worker_replacement import WorkerReplacement
from skydriver_ewms_bridge.worker_requests import WorkerRequests
from skydriver_ewms_bridge.workflows import Workflows
from skydriver_ewms_bridge.workforce import Workforces
from tests.support.fake_ewms import FakeEwms

INTERVAL = timedelta(seconds=60)
FAST_INTERVAL = timedelta(seconds=10)
NO_REPLACEMENT = ReplacementPolicy()
INSTANCE = "test"


class FakeObjects:
    """The port `ObjectStore`: URLs that say what they are for, objects that are there or not."""

    are_there = False

    def presigned_get(self, key: str) -> str:
        return f"https://s3.example/get/{key}"

    def presigned_put(self, key: str) -> str:
        return f"https://s3.example/put/{key}"

    async def exists(self, key: str) -> bool:
        return self.are_there


@dataclass
class Bridge:
    """One replica of the bridge. Several may share a database and an EWMS."""

    pool: Pool
    ewms: FakeEwms
    work_dir: Path
    settings: BridgeSettings
    usecases: UseCases
    additions: WorkerRequests
    workforces: Workforces
    taskforces: Taskforces
    objects: FakeObjects
    steps: dict[str, Step]
    reconciliation: Reconciliation
    uows: dict[str, UnitOfWork] = field(default_factory=dict)
    faults: list[Exception] = field(default_factory=list)

    async def launched_scan(self, *, priority: int = 0, **request: Any) -> ScanId:
        """A new scan whose scanner server runs; the bridge has been told."""
        scan_id = await self.new_scan(priority=priority, **request)
        await self.append("dispatcher", scan_id, ev.ScanLaunched(launcher="local", job=scan_id))
        await self.usecases.scan_launched(scan_id)
        return scan_id

    async def new_scan(self, **changes: Any) -> ScanId:
        """A new scan on the backlog."""
        scan_id = new_scan_id()
        request = {
            "docker_tag": "4.1.2", "request_clusters": [["osg", 10], ["local", 2]], "max_pixel_reco_time": 60, "priority": 0,
            "worker_memory_bytes": 8_000_000_000, "worker_disk_bytes": 1_000_000_000, "debug_mode": [],
            "classifiers": {}, "i3_event_id": uuid.uuid4().hex, **changes,
        }  # fmt: skip
        event = ev.ScanRequested(
            requested_at=int(scan_id[:11], 16) / 1000, request=request, request_scan_id=scan_id, event_digest="sha256:0",
            classifiers={}, scanner_server_args="python -m skymap_scanner.server",
        )  # fmt: skip
        await self.append("dispatcher", scan_id, event)
        return scan_id

    async def append(self, writer: str, scan_id: ScanId, *events: ev.Event) -> Scan:
        """Let another service have its say."""
        async with self.uows[writer].on_scans(a_context(), [scan_id]) as tx:
            scan = tx.append(scan_id, events)
        assert scan is not None
        return scan

    async def deleted(self, scan_id: ScanId) -> None:
        """The scan is deleted; the bridge has been told."""
        scan = await self.append("dispatcher", scan_id, ev.ScanDeleted())
        await self.usecases.scan_ends(scan_id, since=_moment(scan.last_updated))

    async def complete(self, scan_id: ScanId) -> None:
        """The scan has its final result; the bridge has been told."""
        scan = await self.append("progress", scan_id, ev.ResultReceived(digest="sha256:1", size_bytes=1, is_final=True))
        await self.usecases.scan_ends(scan_id, since=_moment(scan.last_updated))

    async def scan(self, scan_id: ScanId) -> Scan:
        """The scan as it is now."""
        scan = await self.usecases.scan(scan_id)
        assert scan is not None
        return scan

    async def types(self, scan_id: ScanId) -> list[str]:
        """The types of the bridge's events in the scan's log."""
        rows = await self.pool.fetch("SELECT type FROM event_log WHERE scan_id = $1 ORDER BY version", scan_id)
        return [row["type"] for row in rows if row["type"] in ev.EVENT_OWNERS["ewms_bridge"]]

    async def work(self, kind: str, *, until_s: float = 0.0) -> list[str]:
        """Do all work of this kind that is due within `until_s`; returns the faults that were met."""
        faults: list[str] = []
        await self.pass_time(kind, until_s)
        self.faults.clear()
        for _ in range(100):
            try:
                is_more = await self.steps[kind]()
            except TryLater as fault:
                faults.append(fault.what)
                continue
            for met in self.faults:
                if not isinstance(met, TryLater):
                    raise met
                faults.append(met.what)
            self.faults.clear()
            if is_more is not True:
                return faults
        raise AssertionError(f"{kind} does not come to rest")

    async def pass_time(self, kind: str, seconds: float) -> None:
        """Let due work and its leases become older."""
        by = timedelta(seconds=seconds)
        await self.pool.execute(
            "UPDATE due_work SET due_at = due_at - $2::interval, created_at = created_at - $2::interval,"
            " leased_until = leased_until - $2::interval WHERE kind = $1", kind, by,
        )  # fmt: skip
        if kind in (DueKind.ASSIGN, DueKind.DUPLICATES):
            await self.pool.execute(
                "UPDATE ewms_attempts SET attempted_at = attempted_at - $1::interval, first_at = first_at - $1::interval", by
            )
        if kind == DueKind.ADDITIONS:
            await self.pool.execute(
                "UPDATE ewms_additions SET attempted_at = attempted_at - $1::interval, held_until = held_until - $1::interval",
                by,
            )
        if kind == WORKFORCE:
            await self.pool.execute("UPDATE ewms_watch SET refresh_at = refresh_at - $1::interval", by)

    async def due(self, kind: str) -> list[str]:
        """The scans that have work of this kind, due or not."""
        return [row["scan_id"] for row in await self.pool.fetch("SELECT scan_id FROM due_work WHERE kind = $1", kind)]

    async def running(self) -> ScanId:
        """A scan with a live workflow and active queues."""
        scan_id = await self.launched_scan()
        await self.work(DueKind.ASSIGN)
        workflow_id = (await self.scan(scan_id)).ewms_workflow_id
        assert workflow_id is not None
        self.ewms.activated.add(workflow_id)
        await self.work(DueKind.QUEUES)
        return scan_id

    def handed_over(self, scan_id: ScanId) -> dict[str, Any]:
        """The files in the scan's folder, by name."""
        folder = self.work_dir / scan_id
        return {path.name: orjson.loads(path.read_bytes()) for path in folder.iterdir()} if folder.exists() else {}


@asynccontextmanager
async def a_bridge(
    database_url: str,
    work_dir: Path,
    ewms: Any,
    *,
    policy: ReplacementPolicy = NO_REPLACEMENT,
    objects: Any = None,
    **settings: Any,
) -> AsyncIterator[Bridge]:
    """A replica on this database. settings: those of `BridgeSettings` that matter to the test.

    ewms: a `FakeEwms`, or another `Ewms` for a test that keeps to itself what a fake is needed for. objects: an `ObjectStore`.
    """
    values: dict[str, Any] = {
        "database_url": SecretStr(database_url), "amqp_url": SecretStr("amqp://unused"), "work_dir": work_dir,
        "ewms_url": "http://ewms.example", "ewms_issuer": "http://ewms.example", "ewms_client_id": "bridge",
        "ewms_client_secret": SecretStr("s"), "instance": INSTANCE, "s3_url": "https://s3.example", "s3_key_id": "k",
        "s3_secret": SecretStr("s"), "s3_bucket": "b", **settings,
    }  # fmt: skip
    configured = BridgeSettings(**values)
    pool = await open_pool(database_url, name="test", size=5)
    try:
        notifier = Notifier(pool)
        uows = {writer: UnitOfWork(pool, notifier, writer=writer) for writer in ev.EVENT_OWNERS}
        uow, schedule = uows["ewms_bridge"], Schedule(pool, notifier, holder=uuid.uuid4().hex)
        breaker = Breaker(pool, notifier)
        usecases = UseCases(uow, schedule, teardown_delay=configured.teardown_delay, startup_limit=configured.startup_limit)
        sink = ProfileFiles(work_dir)
        objects = objects or FakeObjects()
        workflows = Workflows(pool, usecases, schedule, ewms, objects, sink, configured)
        teardown = Teardown(usecases, ewms, sink)
        additions = WorkerRequests(
            pool, uow, schedule, ewms, unclear_wait=configured.unclear_wait, limits=configured.worker_limits
        )
        checks = StartChecks(usecases, objects)
        replacement = WorkerReplacement(usecases, schedule, ewms, additions, policy)
        handlers: dict[DueKind, Handler] = {
            DueKind.ASSIGN: workflows.assign, DueKind.DUPLICATES: workflows.duplicates, DueKind.QUEUES: workflows.queues,
            DueKind.STOP: teardown.stop, DueKind.STOP_VERIFICATION: teardown.verify_stop, DueKind.ADDITIONS: additions.resolve,
            DueKind.STARTUP: checks.startup, DueKind.TOKENS: checks.tokens, DueKind.REPLACEMENT: replacement.replace,
        }  # fmt: skip
        faults: list[Exception] = []
        yield Bridge(
            pool=pool, ewms=ewms, work_dir=work_dir, settings=configured, usecases=usecases, additions=additions,
            taskforces=Taskforces(pool, usecases, ewms), objects=objects,
            workforces=Workforces(
                pool, usecases, ewms, interval=INTERVAL, fast_interval=FAST_INTERVAL, open_for_s=breaker.open_for_s,
                replacement=replacement,
            ),
            steps={
                kind: consumer(schedule, kind, handle, open_for_s=breaker.open_for_s, on_fault=faults.append).step
                for kind, handle in handlers.items()
            },
            reconciliation=Reconciliation(pool, usecases, schedule, unclear_wait=configured.unclear_wait), uows=uows, faults=faults,
        )  # fmt: skip
    finally:
        async with asyncio.timeout(120):
            await pool.close()


def a_context(**changes: Any) -> Context:
    """The context of some command."""
    return Context(**{"command_id": uuid.uuid4().hex, "correlation_id": "c", "actor": "test", **changes})


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
