"""The one background loop, on a virtual clock: exact times, no waiting."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from skydriver_common.faults import TryLater
from skydriver_common.runtime.loops import LoopSignals, run_loop, wait_or_timeout
from tests.support import virtual_time
from tests.support.waiting import pause


class Script:
    """A step that plays a list of results and notes when it was called; stops the pulse after the last."""

    def __init__(self, pulse: LoopSignals, results: Sequence[bool | float | Exception]) -> None:
        self.pulse = pulse
        self.results = list(results)
        self.called_at: list[float] = []

    async def __call__(self) -> bool | float:
        self.called_at.append(asyncio.get_running_loop().time())
        result = self.results.pop(0)
        if not self.results:
            self.pulse.stop()
        if isinstance(result, Exception):
            raise result
        return result


def play(
    *results: bool | float | Exception, idle_s: float = 10.0, meanwhile: Callable[[LoopSignals], None] | None = None
) -> list[float]:
    async def main() -> list[float]:
        pulse = LoopSignals()
        script = Script(pulse, results)
        if meanwhile is not None:
            meanwhile(pulse)
        await run_loop(script, pulse, name="test", idle_s=idle_s)
        return script.called_at

    return virtual_time.run(main())


def wake_at(*seconds: float) -> Callable[[LoopSignals], None]:
    def plan(pulse: LoopSignals) -> None:
        for at in seconds:
            asyncio.get_running_loop().call_at(at, pulse.wake)

    return plan


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)


def test_a_busy_step_is_called_again_at_once() -> None:
    assert play(True, True, False) == [0.0, 0.0, 0.0]


def test_an_idle_loop_looks_again_after_the_idle_time() -> None:
    assert play(False, False, False) == [0.0, 10.0, 20.0]


@pytest.mark.parametrize(
    ("due_in_s", "second_call_at"),
    [(2.5, 2.5), (0.0, 0.0), (-3.0, 0.0), (99.0, 10.0), (float("inf"), 10.0), (float("nan"), 10.0), (4, 4.0)],
)
def test_a_step_that_says_when_it_is_due_is_called_then_but_not_later_than_the_idle_time(
    due_in_s: float, second_call_at: float
) -> None:
    assert play(due_in_s, False) == [0.0, second_call_at]


def test_a_wake_up_ends_the_idle_wait() -> None:
    assert play(False, False, False, meanwhile=wake_at(3.0)) == [0.0, 3.0, 13.0]


def test_a_wake_up_during_a_step_is_not_lost() -> None:
    async def main() -> list[float]:
        pulse = LoopSignals()
        called_at: list[float] = []

        async def step() -> bool:
            called_at.append(asyncio.get_running_loop().time())
            if len(called_at) == 1:
                pulse.wake()
            else:
                pulse.stop()
            await pause(1.0)
            return False

        await run_loop(step, pulse, name="test", idle_s=10.0)
        return called_at

    assert virtual_time.run(main()) == [0.0, 1.0]


def test_a_stop_lets_the_step_in_hand_finish_and_takes_no_other() -> None:
    async def main() -> tuple[int, int, float]:
        pulse = LoopSignals()
        started = finished = 0

        async def step() -> bool:
            nonlocal started, finished
            started += 1
            await pause(5.0)
            finished += 1
            return True

        asyncio.get_running_loop().call_at(2.0, pulse.stop)
        await run_loop(step, pulse, name="test", idle_s=10.0)
        return started, finished, asyncio.get_running_loop().time()

    assert virtual_time.run(main()) == (1, 1, 5.0)


def test_a_stop_ends_the_idle_wait_and_the_back_off() -> None:
    async def main(result: bool | Exception) -> float:
        pulse = LoopSignals()
        asyncio.get_running_loop().call_at(0.25, pulse.stop)
        await run_loop(Script(pulse, [result, False]), pulse, name="test", idle_s=10.0)
        return asyncio.get_running_loop().time()

    assert virtual_time.run(main(False)) == 0.25
    with capture_logs():
        assert virtual_time.run(main(RuntimeError("broken"))) == 0.25


@pytest.mark.usefixtures("no_jitter")
def test_failures_back_off_with_doubling_pauses_up_to_a_minute_and_success_resets_them() -> None:
    broken = RuntimeError("broken")
    with capture_logs() as logs:
        called_at = play(*[broken] * 8, False, broken, False, idle_s=10.0)
    pauses = [later - earlier for earlier, later in pairwise(called_at)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 10, 1]
    assert [(line["event"], line["log_level"], line["failures"]) for line in logs[:2]] == [
        ("loop.failed", "error", 1),
        ("loop.failed", "error", 2),
    ]


def test_pauses_are_jittered_within_their_upper_half() -> None:
    with capture_logs():
        pauses = [play(RuntimeError("broken"), False)[1] for _ in range(50)]
    assert all(0.5 <= pause <= 1.0 for pause in pauses)
    assert len(set(pauses)) > 1


@pytest.mark.usefixtures("no_jitter")
def test_a_wake_up_does_not_cut_the_back_off_short() -> None:
    with capture_logs():
        assert play(RuntimeError("broken"), False, meanwhile=wake_at(0.1, 0.2)) == [0.0, 1.0]


@pytest.mark.usefixtures("no_jitter")
def test_an_outage_is_a_warning_without_traceback_and_is_asked_again_soon() -> None:
    away = TryLater("the database is away", after_s=0.1)
    with capture_logs() as logs:
        called_at = play(*[away] * 5, TryLater("quota is used up", after_s=20.0), False)
    pauses = [later - earlier for earlier, later in pairwise(called_at)]
    assert pauses == [1, 2, 4, 5, 5, 20]
    assert {line["event"] for line in logs} == {"loop.retrying"}
    assert {line["log_level"] for line in logs} == {"warning"}
    assert all("exc_info" not in line for line in logs)
    assert logs[-1]["what"] == "quota is used up"


def test_each_failure_is_counted_under_the_name_of_the_loop() -> None:
    counted: list[str] = []

    async def main() -> None:
        pulse = LoopSignals()
        script = Script(pulse, [RuntimeError("broken"), TryLater("away"), True, False])
        await run_loop(script, pulse, name="relay", idle_s=1.0, on_failure=counted.append)

    with capture_logs():
        virtual_time.run(main())
    assert counted == ["relay", "relay"]


def test_a_busy_loop_lets_other_tasks_run() -> None:
    async def main() -> int:
        pulse = LoopSignals()
        steps = 0

        async def step() -> bool:
            nonlocal steps
            steps += 1
            return True

        async def other() -> None:
            pulse.stop()

        async with asyncio.TaskGroup() as group:
            group.create_task(run_loop(step, pulse, name="test", idle_s=1.0))
            group.create_task(other())
        return steps

    assert virtual_time.run(main()) <= 2


def test_cancelling_goes_through_a_step() -> None:
    async def main() -> bool:
        async def step() -> bool:
            await pause(100.0)
            return True

        task = asyncio.create_task(run_loop(step, LoopSignals(), name="test", idle_s=1.0))
        await pause(1.0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert virtual_time.run(main())


def test_within_says_whether_the_event_came_in_time() -> None:
    async def main() -> list[tuple[bool, float]]:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        answers = [(await wait_or_timeout(event, 2.0), loop.time()), (await wait_or_timeout(event, 0.0), loop.time())]
        loop.call_later(1.0, event.set)
        answers.append((await wait_or_timeout(event, 5.0), loop.time()))
        answers.append((await wait_or_timeout(event, 0.0), loop.time()))
        return answers

    assert virtual_time.run(main()) == [(False, 2.0), (False, 2.0), (True, 3.0), (True, 3.0)]


@pytest.mark.parametrize("after_s", [-1.0, float("inf"), float("nan")])
def test_a_fault_needs_a_finite_waiting_time(after_s: float) -> None:
    with pytest.raises(ValueError, match="after_s"):
        TryLater("away", after_s)
