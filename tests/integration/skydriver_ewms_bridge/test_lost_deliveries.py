"""Nothing hangs on the delivery of one event, nor on one row of due work: what got lost is found again from the state."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

from skydriver_common.bus.broker import connect, make_broker
from skydriver_common.bus.relay import Relay
from skydriver_common.faults import TryLater
from skydriver_common.model import events as ev
from skydriver_common.model.commands import AddWorkers
from skydriver_common.model.ids import ScanId
from skydriver_common.model.stages import ScannerStage
from skydriver_ewms_bridge import consumers
from skydriver_ewms_bridge.due_kinds import DueKind
from skydriver_ewms_bridge.usecases import UseCases
from tests.support.bridge import Bridge, a_bridge, a_context
from tests.support.fake_ewms import LATE, LOST, FakeEwms
from tests.support.waiting import pause, until

SEED = int(os.environ.get("SKYDRIVER_TEST_SEED") or random.SystemRandom().randrange(2**32))
SCANS = 200
FIRST, SECOND, END = "first event", "second event", "event of the end"
"""Deliveries of a scan; launch and stage may come in either order."""
KINDS = [DueKind.ASSIGN, DueKind.DUPLICATES, DueKind.QUEUES, DueKind.STOP, DueKind.STOP_VERIFICATION, DueKind.ADDITIONS]
FOR_GOOD_S = 3000
"""Longer than EWMS may repeat a request, and than a stopped workflow is looked after."""


@dataclass(frozen=True)
class Plan:
    """What happens to one scan, and what of it gets lost: the delivery of an event, or a row of due work ("": nothing)."""

    launcher: str
    has_node: bool
    end: ev.Event | None
    ends_early: bool
    lost: str


class LosesDeliveries(UseCases):
    """The bridge's use cases, to which one delivery of each scan does not get through; counts those that have arrived."""

    def __init__(self, real: UseCases) -> None:
        self.real = real
        self.lost: dict[str, str] = {}
        self.arrived: Counter[str] = Counter()

    async def scan_launched(self, scan_id: ScanId) -> None:
        self.arrived[scan_id] += 1
        if self.lost[scan_id] != (FIRST if self.arrived[scan_id] == 1 else SECOND):
            await self.real.scan_launched(scan_id)

    async def scan_ends(self, scan_id: ScanId, *, since: datetime) -> None:
        self.arrived[f"end of {scan_id}"] += 1
        if self.lost[scan_id] != END:
            await self.real.scan_ends(scan_id, since=since)


@asynccontextmanager
async def on_the_bus(bridge: Bridge, database_url: str, amqp_url: str) -> AsyncIterator[LosesDeliveries]:
    """The bridge's consumers on a real broker, fed by a real relay."""
    deliveries, stopping = LosesDeliveries(bridge.usecases), asyncio.Event()
    broker = make_broker(amqp_url, stopping=stopping, handled=lambda *_: None)
    consumers.register(broker, deliveries, bridge.additions, bridge.taskforces)
    bus = await connect(amqp_url, name="test-lost-deliveries")
    relay = Relay(database_url, bus)

    async def publish() -> None:
        while not stopping.is_set():
            if await relay.step() is not True:
                await pause(0.05)

    await broker.start()
    relaying = asyncio.create_task(publish())
    try:
        yield deliveries
    finally:
        stopping.set()
        await relaying
        await relay.close()
        await broker.stop()
        await bus.close()


def plan_of(rng: random.Random) -> Plan:
    ends = [
        None,
        None,
        ev.ScanDeleted(),
        ev.ResultReceived(digest="sha256:1", size_bytes=1, is_final=True),
        ev.ScannerFailed(reason="it ended", exit_code=1),
    ]
    return Plan(
        launcher=rng.choice(["local", "kubernetes"]),
        has_node=rng.random() < 0.8,
        end=rng.choice(ends),
        ends_early=rng.random() < 0.3,
        lost=rng.choice(["", FIRST, SECOND, END, *KINDS]),
    )


@dataclass
class Run:
    """All scans on their way."""

    bridge: Bridge
    ewms: FakeEwms
    deliveries: LosesDeliveries
    rng: random.Random
    plans: dict[str, Plan] = field(default_factory=dict)
    published: Counter[str] = field(default_factory=Counter)

    async def begin(self) -> None:
        """Each scan is launched, gets a node or not, and may end at once."""
        for _ in range(SCANS):
            scan_id, plan = await self.bridge.new_scan(), plan_of(self.rng)
            self.plans[scan_id], self.deliveries.lost[scan_id] = plan, plan.lost
            await self.bridge.append("dispatcher", scan_id, ev.ScanLaunched(launcher=plan.launcher, job=scan_id))
            self.published[scan_id] += 1
            if plan.launcher == "kubernetes":
                stage = ev.ScannerStageChanged(stage=ScannerStage.SCHEDULED if plan.has_node else ScannerStage.PENDING)
                await self.bridge.append("dispatcher", scan_id, stage)
                self.published[scan_id] += 1
            if plan.ends_early:
                await self.end(scan_id)

    async def end(self, scan_id: ScanId) -> None:
        end = self.plans[scan_id].end
        if end is not None:
            await self.bridge.append("progress" if isinstance(end, ev.ResultReceived) else "dispatcher", scan_id, end)
            self.published[f"end of {scan_id}"] += 1

    async def end_others(self) -> None:
        """Those that have not ended early, if they are to end."""
        for scan_id, plan in self.plans.items():
            if not plan.ends_early:
                await self.end(ScanId(scan_id))

    async def everything_has_arrived(self) -> bool:
        return self.deliveries.arrived == self.published

    async def lose(self, *kinds: str) -> None:
        """Rows of due work vanish."""
        for scan_id, plan in self.plans.items():
            if plan.lost in kinds:
                await self.bridge.pool.execute("DELETE FROM due_work WHERE scan_id = $1 AND kind = $2", scan_id, plan.lost)

    async def work(self, *kinds: str, passed_s: float = 0.0) -> None:
        """All work of these kinds that is due by then. EWMS loses some of its answers."""
        for kind in kinds:
            await self.bridge.pass_time(kind, passed_s)
            is_more: bool | float = True
            while is_more is True:
                if kind == DueKind.ASSIGN and self.rng.random() < 0.1:
                    self.ewms.struck["create"] = self.rng.choice([LOST, LATE])
                with suppress(TryLater):  # after several faults in a row
                    is_more = await self.bridge.steps[kind]()
        self.ewms.struck.clear()
        assert [fault for fault in self.bridge.faults if not isinstance(fault, TryLater)] == []

    async def ask_for_workers(self) -> None:
        """The answer is lost; later the row by which somebody would find out."""
        for scan_id, plan in self.plans.items():
            if plan.lost == DueKind.ADDITIONS and (await self.bridge.scan(ScanId(scan_id))).has_workflow:
                self.ewms.struck["add"] = LOST
                await self.bridge.additions.add_workers(
                    AddWorkers(scan_id=ScanId(scan_id), n_workers=7, cluster_location="osg"), a_context()
                )
        self.ewms.struck.clear()


@pytest.mark.timeout(900)
async def test_whatever_single_delivery_or_row_is_lost_every_scan_ends_right(
    database: str, clean_bus: str, tmp_path: Path
) -> None:
    print(f"SKYDRIVER_TEST_SEED={SEED}")
    ewms = FakeEwms()
    async with a_bridge(database, tmp_path, ewms) as bridge, on_the_bus(bridge, database, clean_bus) as deliveries:
        run = Run(bridge, ewms, deliveries, random.Random(SEED))
        await run.begin()
        await until(run.everything_has_arrived, limit_s=120)
        await run.lose(DueKind.ASSIGN)
        await bridge.reconciliation.step()
        await run.work(DueKind.ASSIGN)
        ewms.come_true()
        await run.work(DueKind.ASSIGN, passed_s=60)
        await run.lose(DueKind.QUEUES, DueKind.DUPLICATES)
        ewms.activated.update(ewms.live())
        await bridge.reconciliation.step()
        await run.work(DueKind.QUEUES, passed_s=60)

        await run.ask_for_workers()
        await run.lose(DueKind.ADDITIONS)
        await run.end_others()
        await until(run.everything_has_arrived, limit_s=120)
        await run.lose(DueKind.STOP)
        for _ in range(4):
            await bridge.reconciliation.step()
            await run.work(*KINDS, passed_s=FOR_GOOD_S)
            await run.lose(DueKind.STOP_VERIFICATION)
            ewms.come_true()

        live = {ewms._scan_of(ewms.workflows[workflow_id]): workflow_id for workflow_id in ewms.live()}
        made = Counter(ewms._scan_of(workflow) for workflow in ewms.workflows.values())
        assert len(live) == len(ewms.live()), "no scan has two live workflows"
        for scan_id, plan in run.plans.items():
            scan = await bridge.scan(ScanId(scan_id))
            about = f"{scan_id} {plan}, SKYDRIVER_TEST_SEED={SEED}"
            if plan.end is not None:
                assert scan_id not in live, about
                assert not scan.has_workflow or scan.ewms.deactivated, about
                assert bridge.handed_over(ScanId(scan_id)) == {}, about
            elif plan.launcher == "local" or plan.has_node:
                assert live[scan_id] == scan.ewms_workflow_id, about
                assert scan.ewms.queues, about
                assert set(bridge.handed_over(ScanId(scan_id))) == {"ewms.json", "startup-upload.json"}, about
            else:
                assert made[scan_id] == 0, about
        unclear = "SELECT count(*) FROM ewms_additions WHERE taskforce_uuid IS NULL AND NOT is_told"
        assert await bridge.pool.fetchval(unclear) == 0
        assert await bridge.pool.fetchval("SELECT count(*) FROM ewms_attempts") == 0


async def test_a_row_for_what_is_only_told_is_noted_again(bridge: Bridge) -> None:
    scan_id = await bridge.running()
    await bridge.pool.execute("DELETE FROM due_work")
    await bridge.reconciliation.step()
    assert await bridge.due(DueKind.STARTUP) == [scan_id]
    assert await bridge.due(DueKind.TOKENS) == [], "these passwords have no end"
    assert await bridge.work(DueKind.STARTUP) == [], "not before the scanner had its time"
    assert await bridge.due(DueKind.STARTUP) == [scan_id]


async def test_what_lacks_nothing_is_left_alone(bridge: Bridge, ewms: FakeEwms) -> None:
    scans = [await bridge.running() for _ in range(3)]
    waiting = await bridge.new_scan()
    await bridge.append("dispatcher", waiting, ev.ScanLaunched(launcher="kubernetes", job="j"))
    await bridge.deleted(scans[0])
    await bridge.work(DueKind.STOP)
    before = await bridge.pool.fetch("SELECT kind, scan_id, due_at FROM due_work ORDER BY 1, 2")
    ewms.calls.clear()
    for _ in range(3):
        await bridge.reconciliation.step()
    assert await bridge.pool.fetch("SELECT kind, scan_id, due_at FROM due_work ORDER BY 1, 2") == before
    assert ewms.calls == []


async def test_a_workflow_that_ewms_does_not_know_is_not_stopped_again_and_again(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    await bridge.pool.execute("DELETE FROM ewms_watch")  # as after an import of the log
    ewms.workflows.clear()
    await bridge.append("dispatcher", scan_id, ev.ScanDeleted())
    await bridge.reconciliation.step()
    assert await bridge.due(DueKind.STOP) == [scan_id]
    await bridge.work(DueKind.STOP)
    await bridge.reconciliation.step()
    assert await bridge.due(DueKind.STOP) == []


async def test_a_live_workflow_that_nobody_watches_is_watched_again(bridge: Bridge, ewms: FakeEwms) -> None:
    scan_id = await bridge.running()
    await bridge.pool.execute("DELETE FROM ewms_watch")
    await bridge.reconciliation.step()
    ewms.report(ewms.live()[0], statuses={"RUNNING": {"Tasking": 3}})
    await bridge.workforces.refresh()
    assert (await bridge.scan(scan_id)).ewms.n_running == 3


async def test_all_scans_get_their_turn_however_many_there_are(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skydriver_ewms_bridge.reconciliation.PAGE", 2)
    scans = [await bridge.launched_scan() for _ in range(7)]
    await bridge.pool.execute("DELETE FROM due_work")
    await bridge.reconciliation.step()
    assert sorted(await bridge.due(DueKind.ASSIGN)) == sorted(scans), "scans without a workflow at once"
    await bridge.work(DueKind.ASSIGN)
    await bridge.pool.execute("DELETE FROM due_work")
    for _ in range(4):
        await bridge.reconciliation.step()
    assert sorted(await bridge.due(DueKind.QUEUES)) == sorted(scans), "the others page by page"
