"""Attempts, delays and answers in any order: in the end exactly one workflow of a scan is not stopped."""

import asyncio
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from skydriver_common.faults import TryLater
from skydriver_ewms_bridge.due_kinds import DueKind
from skydriver_ewms_bridge.ewms_types import Workflow, WorkflowSpec
from skydriver_ewms_bridge.ports import EwmsRejectedForNow, OutcomeUnknown
from tests.support.bridge import Bridge, a_bridge
from tests.support.fake_ewms import FakeEwms

UNCLEAR_WAIT_S = 100.0
LONGEST_S = 4_000.0
KINDS = (DueKind.ASSIGN, DueKind.DUPLICATES, DueKind.STOP)


@dataclass(frozen=True)
class Answer:
    """What comes of one attempt. comes_true_after: as a part of the longest time that is possible, None: never; busy_s: the Retry-After
    that came instead of an answer, which stretches that time."""

    kind: str
    comes_true_after: float | None = None
    busy_s: float = 0.0


ANSWERS = st.one_of(
    st.sampled_from([Answer("made"), Answer("away"), Answer("refused for now")]),
    st.builds(
        Answer,
        st.just("lost"),
        st.none() | st.floats(0.0, 0.99),
        st.sampled_from([0.0, 0.0, 45.0, 250.0]),
    ),
)


@dataclass
class SlowEwms(FakeEwms):
    """Attempts have the answers that the test wants; a lost one may come true later, by a clock of its own."""

    clock_s: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    on_its_way: list[tuple[float, WorkflowSpec]] = field(default_factory=list)

    async def create_workflow(self, spec: WorkflowSpec) -> Workflow:
        answer = self.answers.pop(0) if self.answers else Answer("made")
        match answer.kind:
            case "away":
                raise TryLater("EWMS is not reachable")
            case "refused for now":
                raise EwmsRejectedForNow("a lock")
            case "lost":
                if answer.comes_true_after is not None:
                    at = self.clock_s + answer.comes_true_after * (UNCLEAR_WAIT_S + answer.busy_s)
                    self.on_its_way.append((at, spec))
                raise OutcomeUnknown("create workflow", longer_by_s=answer.busy_s)
        return self._create(spec)

    def pass_time(self, seconds: float) -> None:
        self.clock_s += seconds
        for at, spec in [each for each in self.on_its_way if each[0] <= self.clock_s]:
            self.on_its_way.remove((at, spec))
            self._create(spec)


async def pass_time(bridge: Bridge, ewms: SlowEwms, seconds: float) -> None:
    """Time passes for everybody at once: due work, the intents on disk, EWMS."""
    by = timedelta(seconds=seconds)
    await bridge.pool.execute(
        "UPDATE due_work SET due_at = due_at - $1::interval, created_at = created_at - $1::interval,"
        " leased_until = leased_until - $1::interval", by,
    )  # fmt: skip
    await bridge.pool.execute("UPDATE ewms_attempts SET attempted_at = attempted_at - $1::interval", by)
    ewms.pass_time(seconds)
    for kind in KINDS:
        await bridge.work(kind)


async def history(database: str, answers: list[Answer], ticks: list[float], ends_after: int | None) -> tuple[list[str], object]:
    """Ids of the workflows alive in the end, and the one that the scan knows (None: the scan has ended)."""
    ewms = SlowEwms(answers=list(answers))
    with tempfile.TemporaryDirectory() as folder:
        async with a_bridge(database, Path(folder), ewms, ewms_unknown_outcome_wait_s=UNCLEAR_WAIT_S) as bridge:
            await bridge.pool.execute("TRUNCATE due_work, ewms_attempts, ewms_watch, ewms_outages")
            scan_id = await bridge.launched_scan()
            await bridge.work(DueKind.ASSIGN)
            for number, tick in enumerate(ticks):
                if number == ends_after:
                    await bridge.deleted(scan_id)
                await pass_time(bridge, ewms, tick)
            while ewms.clock_s < LONGEST_S and (
                ewms.on_its_way or await bridge.due(DueKind.ASSIGN) or await bridge.due(DueKind.DUPLICATES)
            ):
                await pass_time(bridge, ewms, 40.0)
            assert (
                await bridge.due(DueKind.ASSIGN) == await bridge.due(DueKind.DUPLICATES) == await bridge.due(DueKind.STOP) == []
            )
            assert await bridge.pool.fetchval("SELECT count(*) FROM ewms_attempts") == 0, "each request is brought to an end"
            scan = await bridge.scan(scan_id)
            return ewms.live(), None if scan.is_deleted else scan.ewms_workflow_id


@pytest.mark.timeout(900)
def test_in_the_end_exactly_one_workflow_of_a_scan_is_not_stopped(database: str) -> None:
    @settings(
        max_examples=40, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        st.lists(ANSWERS, max_size=5),
        st.lists(st.sampled_from([1.0, 11.0, 35.0, 65.0, 101.0]), max_size=12),
        st.none() | st.integers(0, 8),
    )
    def check(answers: list[Answer], ticks: list[float], ends_after: int | None) -> None:
        live, known = asyncio.run(history(database, answers, ticks, ends_after))
        assert live == ([] if known is None else [known])

    check()
