"""The pair (bridge, EWMS) under random histories, faults and crashes: in the end at most one live workflow per scan."""

import asyncio
import functools
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from skydriver_common.db.schedule import Schedule
from skydriver_common.faults import TryLater
from skydriver_common.model.commands import AddWorkers
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge import store
from skydriver_ewms_bridge.adapters.profile_files import ProfileFiles
from skydriver_ewms_bridge.due_kinds import DueKind
from skydriver_ewms_bridge.usecases import UseCases
from tests.support.bridge import Bridge, a_bridge, a_context
from tests.support.fake_ewms import AWAY, CRASH_AFTER, CRASH_BEFORE, LATE, LOST, NOTHING, Crash, FakeEwms

T = TypeVar("T")
FAULTS = st.sampled_from([AWAY, LOST, LATE, NOTHING, CRASH_BEFORE, CRASH_AFTER])
CALLS = st.sampled_from(["find", "create", "create", "create", "abort", "finish", "get", "profiles", "add", "taskforces"])
LATEST_S = 1000.0
KINDS = [DueKind.ASSIGN, DueKind.DUPLICATES, DueKind.QUEUES, DueKind.STOP, DueKind.ADDITIONS]
WORKERS = [21, 22]
POINTS: list[tuple[Any, str]] = [
    *(
        (UseCases, name)
        for name in ("assign_own", "refuse_workflow", "queues_activated", "workflow_deactivated", "workflow_gone")
    ),
    *((store, name) for name in ("begin_attempt", "forget_attempt", "attempt_addition", "hold_addition", "drop_addition")),
    *((Schedule, name) for name in ("put", "finish", "postpone")),
    *((ProfileFiles, name) for name in ("put_upload", "put_profile", "remove")),
]
"""Where something becomes durable: a process may end just before or just after any of them."""


class Fuse:
    """Ends the process in hand after so many passages through `POINTS`, before or after the last one's effect."""

    def __init__(self) -> None:
        self.left: int | None = None

    def guarding(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            self._burn()
            done = await function(*args, **kwargs)
            self._burn()
            return done

        return guarded

    def _burn(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:
            self.left = None
            raise Crash


class Pair(RuleBasedStateMachine):
    """Two replicas of the bridge share one EWMS; scans come, end and are deleted at any moment."""

    database: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.ewms = FakeEwms()
        self.scans: list[str] = []
        self.ended: set[str] = set()
        self.replicas: list[Bridge] = []
        self.fuse = Fuse()
        self.answered: set[tuple[str, int]] = set()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def start(self) -> None:
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        for owner, name in POINTS:
            self.stack.enter_context(patch.object(owner, name, self.fuse.guarding(getattr(owner, name))))
        self.run(self._clear(folder))

    async def _clear(self, folder: str) -> None:
        for _ in range(2):
            bridge = a_bridge(self.database, Path(folder), self.ewms)
            self.replicas.append(await self.stack.enter_async_context(bridge))
        await self.replicas[0].pool.execute("TRUNCATE due_work, ewms_attempts, ewms_watch, ewms_additions")

    @rule(fault=st.none() | FAULTS, is_deleted=st.booleans())
    def launch(self, fault: str | None, is_deleted: bool) -> None:
        """A scan comes, EWMS may lose the answer to its first request, and its user may have second thoughts."""
        self.scans.append(self.run(self.replicas[0].launched_scan()))
        if fault is not None:
            self.ewms.struck["create"] = fault
        self.run(self._work([self.replicas[0]], DueKind.ASSIGN, 0))
        if is_deleted:
            self.end(len(self.scans) - 1, is_complete=False)

    @rule(which=st.integers(0, 5), is_complete=st.booleans())
    def end(self, which: int, *, is_complete: bool) -> None:
        if not self.scans:
            return
        scan_id = self.scans[which % len(self.scans)]
        self.ended.add(scan_id)
        self.run(self.replicas[0].complete(ScanId(scan_id)) if is_complete else self.replicas[0].deleted(ScanId(scan_id)))

    @rule(call=CALLS, fault=FAULTS)
    def strike(self, call: str, fault: str) -> None:
        self.ewms.struck[call] = fault

    @rule(
        which=st.integers(0, 2),
        kind=st.sampled_from([DueKind.ASSIGN, DueKind.ASSIGN, *KINDS]),
        passed_s=st.sampled_from([0, 5, 30, 100, 2000]),
        crash_after=st.none() | st.integers(0, 12),
    )
    def work(self, which: int, kind: str, passed_s: float, crash_after: int | None) -> None:
        """One replica works, or both at once (2); one may end in the middle of it, and its leases end with time."""
        if passed_s > LATEST_S:
            self.ewms.come_true()  # EWMS repeats a request for so long inside, not longer
        self.fuse.left = crash_after
        replicas = self.replicas if which == 2 else [self.replicas[which]]
        self.run(self._work(replicas, kind, passed_s))
        self.fuse.left = None

    async def _work(self, replicas: list[Bridge], kind: str, passed_s: float) -> None:
        ends = await asyncio.gather(*(one.work(kind, until_s=passed_s) for one in replicas), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, Crash):
                raise end

    @rule(
        which=st.integers(0, 5),
        replica=st.integers(0, 1),
        n_workers=st.sampled_from(WORKERS),
        crash_after=st.none() | st.integers(0, 5),
    )
    def ask_for_workers(self, which: int, replica: int, n_workers: int, crash_after: int | None) -> None:
        """A user asks, and asks again until there is an answer; never again after one."""
        if not self.scans or (self.scans[which % len(self.scans)], n_workers) in self.answered:
            return
        scan_id = self.scans[which % len(self.scans)]
        self.fuse.left = crash_after
        is_done = self.run(self._ask(self.replicas[replica], ScanId(scan_id), n_workers))
        self.fuse.left = None
        if is_done:
            self.answered.add((scan_id, n_workers))

    async def _ask(self, replica: Bridge, scan_id: ScanId, n_workers: int) -> bool:
        command = AddWorkers(scan_id=scan_id, n_workers=n_workers, cluster_location="osg")
        try:
            reply = await replica.additions.add_workers(command, a_context(deadline=time.time() + 20))
        except (Crash, TryLater):
            return False
        return reply.is_done

    @rule()
    def late_requests_come_true(self) -> None:
        self.ewms.come_true()

    @rule()
    def queues_are_activated(self) -> None:
        self.ewms.activated.update(self.ewms.live())

    @invariant()
    def a_scan_is_told_of_one_workflow_only(self) -> None:
        for scan_id in self.scans:
            types = self.run(self.replicas[0].types(ScanId(scan_id)))
            assert types.count("scan.workflow-assigned") <= 1
            assert types.count("scan.workflow-deactivated") <= 1

    def teardown(self) -> None:
        try:
            if self.replicas:
                self.run(self._settle())
                self._check()
        finally:
            self.run(self.stack.aclose())
            self.runner.close()

    async def _settle(self) -> None:
        """EWMS is well again, nothing is in flight any more, and time passes."""
        self.ewms.struck.clear()
        self.fuse.left = None
        self.ewms.come_true()
        for _ in range(4):
            for kind in KINDS:
                await self.replicas[0].work(kind, until_s=1000)

    def _check(self) -> None:
        for scan_id in self.scans:
            live = [w for w in self.ewms.live() if self.ewms._scan_of(self.ewms.workflows[w]) == scan_id]
            scan_workflows = [w.workflow_id for w in self.ewms.workflows.values() if self.ewms._scan_of(w) == scan_id]
            scan = self.run(self.replicas[0].scan(ScanId(scan_id)))
            if scan_id in self.ended or scan.ewms.refused:
                assert live == []
            else:
                assert live == [scan.ewms_workflow_id]
            for n_workers in WORKERS:
                made = [t for w in scan_workflows for t in self.ewms.taskforces[w] if t.n_workers == n_workers]
                assert len(made) <= 1, "one request, one batch"
                assert len(made) == 1 or (scan_id, n_workers) not in self.answered


@pytest.mark.timeout(900)
def test_in_the_end_there_is_one_live_workflow_per_live_scan_and_none_for_others(database: str) -> None:
    Pair.database = database
    run_state_machine_as_test(
        Pair,
        settings=settings(
            max_examples=80,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
