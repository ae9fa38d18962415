"""The pair (bridge, EWMS) under random histories and faults: in the end at most one live workflow per scan."""

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from skydriver_ewms.due import ASSIGN, DUPLICATES, QUEUES, STOP
from tests.support.bridge import Bridge, a_bridge
from tests.support.fake_ewms import AWAY, LATE, LOST, NOTHING, FakeEwms

T = TypeVar("T")
FAULTS = st.sampled_from([AWAY, LOST, LATE, NOTHING])
CALLS = st.sampled_from(["find", "create", "create", "create", "abort", "finish", "get", "profiles"])
LATEST_S = 1000.0
KINDS = [ASSIGN, DUPLICATES, QUEUES, STOP]


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

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def start(self) -> None:
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
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
        self.run(self.replicas[0].work(ASSIGN))
        if is_deleted:
            self.end(len(self.scans) - 1, is_complete=False)

    @rule(which=st.integers(0, 5), is_complete=st.booleans())
    def end(self, which: int, *, is_complete: bool) -> None:
        if not self.scans:
            return
        scan_id = self.scans[which % len(self.scans)]
        self.ended.add(scan_id)
        self.run(self.replicas[0].complete(scan_id) if is_complete else self.replicas[0].deleted(scan_id))

    @rule(call=CALLS, fault=FAULTS)
    def strike(self, call: str, fault: str) -> None:
        self.ewms.struck[call] = fault

    @rule(which=st.integers(0, 1), kind=st.sampled_from([ASSIGN, ASSIGN, *KINDS]), passed_s=st.sampled_from([0, 5, 30, 2000]))
    def work(self, which: int, kind: str, passed_s: float) -> None:
        if passed_s > LATEST_S:
            self.ewms.come_true()  # EWMS repeats a request for so long inside, not longer
        self.run(self.replicas[which].work(kind, until_s=passed_s))

    @rule()
    def late_requests_come_true(self) -> None:
        self.ewms.come_true()

    @rule()
    def queues_are_activated(self) -> None:
        self.ewms.activated.update(self.ewms.live())

    @invariant()
    def a_scan_is_told_of_one_workflow_only(self) -> None:
        for scan_id in self.scans:
            types = self.run(self.replicas[0].types(scan_id))
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
        self.ewms.come_true()
        for _ in range(4):
            for kind in KINDS:
                await self.replicas[0].work(kind, until_s=1000)

    def _check(self) -> None:
        for scan_id in self.scans:
            live = [w for w in self.ewms.live() if self.ewms._scan_of(self.ewms.workflows[w]) == scan_id]
            scan = self.run(self.replicas[0].scan(scan_id))
            if scan_id in self.ended or scan.ewms.refused:
                assert live == []
            else:
                assert live == [scan.ewms_workflow_id]


@pytest.mark.timeout(240)
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
