"""The one runner: start, readiness, stop and failure, within this process and as a process of its own."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from skydriver_common.faults import TryLater
from skydriver_common.runtime.health import Health
from skydriver_common.runtime.service import Build, Service, StartupProblem, serve
from skydriver_common.runtime.settings import ServiceSettings
from tests.support.waiting import let_others_run

LIMIT_S = 120.0


def settings(**more: Any) -> ServiceSettings:
    return ServiceSettings(database_url=SecretStr("postgresql://x"), amqp_url=SecretStr("amqp://x"), **more)


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


def events(logs: list[Any], prefix: str = "service.") -> list[str]:
    return [line["event"] for line in logs if line["event"].startswith(prefix)]


async def nothing(_: Service) -> None:
    pass


async def stop_when_ready(service: Service) -> None:
    await service.health.started.wait()
    service.request_stop()


async def live(build: Build, *, until: Callable[[Service], Awaitable[None]] = stop_when_ready, **more: Any) -> int:
    """Run a service until `until` returns, which is to stop it."""
    driver: list[asyncio.Task[None]] = []

    def created(service: Service) -> None:
        driver.append(asyncio.ensure_future(_drive(until, service)))

    async with asyncio.timeout(LIMIT_S):
        code = await serve("example", settings(**more), build, on_created=created)
    driver[0].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await driver[0]
    return code


async def _drive(until: Callable[[Service], Awaitable[None]], service: Service) -> None:
    await until(service)


async def get(service: Service, path: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session,
        session.get(f"http://127.0.0.1:{service.health_port}{path}") as response,
    ):
        return response.status, await (response.json() if response.content_type == "application/json" else response.text())


async def test_a_service_that_is_stopped_ends_with_code_0_and_says_what_it_does(logs: list[Any]) -> None:
    assert await live(nothing) == 0
    assert events(logs) == ["service.starting", "service.ready", "service.stopping", "service.stopped"]


async def test_the_stop_is_in_reverse_order_of_the_start(logs: list[Any]) -> None:
    done: list[str] = []

    @contextlib.asynccontextmanager
    async def opened(name: str) -> AsyncIterator[None]:
        yield
        done.append(f"{name} closed")

    async def build(service: Service) -> None:
        def stopper(name: str) -> Callable[[], Awaitable[None]]:
            async def stop() -> None:
                assert await service.health.not_ready() == ["stopping"]
                done.append(f"{name} stopped")

            return stop

        async def step() -> bool:
            return False

        async def loop_ends(pulse_stopped: asyncio.Event) -> None:
            await pulse_stopped.wait()
            done.append("loop finished")

        await service.stack.enter_async_context(opened("pool"))
        await service.stack.enter_async_context(opened("bus"))
        pulse = service.loop("relay", step, idle_s=60.0)
        service.spawn("watcher", loop_ends(pulse.stopping))
        service.on_stop(stopper("http"))
        service.on_stop(stopper("consumers"))

    assert await live(build) == 0
    assert done == ["consumers stopped", "http stopped", "loop finished", "bus closed", "pool closed"]


async def test_readiness_names_what_is_missing_and_liveness_does_not_depend_on_it(logs: list[Any]) -> None:
    answers: list[tuple[int, Any]] = []
    database_up = False

    async def broken() -> bool:
        raise TryLater("away")

    async def build(service: Service) -> None:
        service.ready_check("database", lambda: database_up)
        service.ready_check("bus", broken)
        answers.append(await get(service, "/healthz"))
        answers.append(await get(service, "/readyz"))

    async def until(service: Service) -> None:
        nonlocal database_up
        await service.health.started.wait()
        answers.append(await get(service, "/readyz"))
        database_up = True
        service.health._checks["bus"] = lambda: True
        answers.append(await get(service, "/readyz"))
        service.request_stop()

    assert await live(build, until=until) == 0
    statuses = [status for status, _ in answers]
    assert statuses == [200, 503, 503, 200]
    assert answers[0][1]["alive"] is True
    assert answers[0][1]["service"] == "example"
    assert [body["not_ready"] for _, body in answers[1:]] == [["starting", "database", "bus"], ["database", "bus"], []]


async def test_a_check_that_raises_or_takes_too_long_means_not_ready(logs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skydriver_common.runtime.health.CHECK_LIMIT_S", 0.01)
    health = Health()
    health.started.set()

    def bug() -> bool:
        raise KeyError("x")

    async def slow() -> bool:
        await asyncio.Event().wait()
        return True

    async def fine() -> bool:
        return True

    health.add("bug", bug)
    health.add("slow", slow)
    health.add("fine", fine)
    assert await health.not_ready() == ["bug", "slow"]
    assert "readiness.check-failed" in events(logs, "readiness.")
    with pytest.raises(ValueError, match="bug"):
        health.add("bug", bug)


async def test_metrics_are_served_and_count_failing_steps_of_loops(logs: list[Any]) -> None:
    failed = asyncio.Event()

    async def build(service: Service) -> None:
        async def step() -> bool:
            failed.set()
            raise RuntimeError("broken")

        service.loop("relay", step, idle_s=60.0)

    async def until(service: Service) -> None:
        await failed.wait()
        status, text = await get(service, "/metrics")
        assert status == 200
        assert 'skydriver_loop_failures_total{loop="relay"} 1.0' in text
        service.request_stop()

    assert await live(build, until=until) == 0
    assert events(logs, "loop.") == ["loop.failed"]


async def test_a_failing_root_task_takes_the_rest_down_in_order_and_is_logged_once(logs: list[Any]) -> None:
    done: list[str] = []

    async def build(service: Service) -> None:
        async def fails() -> None:
            raise RuntimeError("broken")

        async def works() -> None:
            await service.stopping.wait()
            done.append("work given back")

        async def stop() -> None:
            done.append("consumers stopped")

        service.spawn("works", works())
        service.on_stop(stop)
        service.spawn("fails", fails())

    async def until(service: Service) -> None:
        await service.stopping.wait()

    assert await live(build, until=until) == 1
    assert sorted(done) == ["consumers stopped", "work given back"]
    errors = [line for line in logs if line["log_level"] == "error"]
    assert [(line["event"], line["task"]) for line in errors] == [("service.task-failed", "fails")]


async def test_a_root_task_that_just_ends_is_a_failure_unless_it_may(logs: list[Any]) -> None:
    async def ends() -> None:
        pass

    async def build(service: Service) -> None:
        service.spawn("ends", ends())

    async def tolerant(service: Service) -> None:
        await service.spawn("ends", ends(), may_end=True)

    async def until(service: Service) -> None:
        await service.stopping.wait()

    assert await live(build, until=until) == 1
    assert "service.task-ended" in events(logs)
    assert await live(tolerant) == 0


async def test_a_stop_during_the_start_cuts_it_short_and_closes_what_was_opened(logs: list[Any]) -> None:
    done: list[str] = []
    waiting = asyncio.Event()

    async def build(service: Service) -> None:
        service.stack.callback(done.append, "closed")
        waiting.set()
        await asyncio.Event().wait()

    async def until(service: Service) -> None:
        await waiting.wait()
        service.request_stop()

    assert await live(build, until=until) == 0
    assert done == ["closed"]
    assert "service.ready" not in events(logs)


async def test_a_stop_asked_for_by_the_start_itself_is_orderly(logs: list[Any]) -> None:
    done: list[str] = []

    async def build(service: Service) -> None:
        async def stop() -> None:
            await let_others_run()
            done.append("stopped")

        service.on_stop(stop)
        service.request_stop()

    assert await live(build) == 0
    assert done == ["stopped"]


@pytest.mark.parametrize(
    ("problem", "code", "line"),
    [
        (StartupProblem("the database has a newer\nschema"), 2, "example: cannot start: the database has a newer schema\n"),
        (
            TryLater("postgresql://sky:canary@db is away"),
            1,
            "example: cannot start: postgresql://[redacted]@db is away (exiting; the supervisor restarts it)\n",
        ),
        (KeyError("bug"), 1, ""),
    ],
    ids=["impossible", "not now", "bug"],
)
async def test_a_failed_start_closes_what_was_opened_and_tells_why(
    logs: list[Any], capsys: pytest.CaptureFixture[str], problem: Exception, code: int, line: str
) -> None:
    done: list[str] = []

    async def build(service: Service) -> None:
        service.stack.callback(done.append, "closed")
        raise problem

    assert await live(build) == code
    assert done == ["closed"]
    assert capsys.readouterr().err == line
    assert ("service.start-failed" in events(logs)) == (line == "")


async def test_a_used_health_port_is_one_readable_line(logs: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        assert await serve("example", settings(health_port=port), nothing) == 2
    finally:
        server.close()
        await server.wait_closed()
    assert capsys.readouterr().err == (
        f"example: cannot start: SKYDRIVER_HEALTH_PORT: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    )


async def test_work_that_does_not_end_within_the_grace_time_is_cut_off(logs: list[Any]) -> None:
    done: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            done.append("cancelled")

    async def build(service: Service) -> None:
        service.spawn("hangs", hang())
        service.on_stop(hang)
        service.stack.callback(done.append, "closed")

    assert await live(build, shutdown_grace_s=0.05) == 0
    assert done == ["cancelled", "cancelled", "closed"]
    assert events(logs).count("service.task-cancelled") == 2


async def test_a_failing_stop_or_close_does_not_keep_the_others_from_it(logs: list[Any]) -> None:
    done: list[str] = []

    async def build(service: Service) -> None:
        async def fails() -> None:
            raise RuntimeError("broken")

        async def works() -> None:
            done.append("stopped")

        service.stack.callback(done.append, "closed")
        service.stack.push_async_callback(fails)
        service.on_stop(works)
        service.on_stop(fails)

    assert await live(build) == 1
    assert done == ["stopped", "closed"]
    assert {"service.stop-failed", "service.close-failed"} <= set(events(logs))


PROGRAM = """
import asyncio, sys, threading
from pydantic import SecretStr
from skydriver_common.runtime.service import Service, StartupProblem, run
from skydriver_common.runtime import service as runner
from skydriver_common.runtime.settings import ServiceSettings

async def build(service: Service) -> None:
{build}

settings = ServiceSettings(database_url=SecretStr("postgresql://x"), amqp_url=SecretStr("amqp://x"), shutdown_grace_s={grace_s})
runner.CLOSE_LIMIT_S = runner.LAST_RESORT_S = 0.1
run("example", settings, build)
"""


class Process:
    """A service of its own; its log lines are read as they come."""

    def __init__(self, folder: Path, build: str, grace_s: float = 10.0) -> None:
        program = folder / "program.py"
        program.write_text(PROGRAM.format(build=textwrap.indent(textwrap.dedent(build), "    "), grace_s=grace_s))
        self.popen = subprocess.Popen([sys.executable, program], stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []

    def wait_for(self, text: str) -> None:
        """Read on until a line holds the text."""
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.lines.append(line)
            if text in line:
                return
        raise AssertionError(f"ended without {text!r}:\n{''.join(self.lines)}")

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self) -> int:
        """The exit code, and the rest of the lines."""
        assert self.popen.stderr is not None
        self.lines += self.popen.stderr.readlines()
        return self.popen.wait(LIMIT_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(build: str, grace_s: float = 10.0) -> Process:
        started.append(Process(tmp_path, build, grace_s))
        return started[-1]

    yield start
    for process in started:
        process.popen.kill()
        process.popen.wait()
        if process.popen.stderr is not None:
            process.popen.stderr.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_process_in_order(start: Callable[..., Process], number: signal.Signals) -> None:
    process = start("async def step() -> bool: return False\nservice.loop('relay', step, idle_s=60)")
    process.wait_for("service.ready")
    process.signal(number)
    assert process.end() == 0
    assert "service.stopped" in process.lines[-1]
    assert not any("Traceback" in line for line in process.lines)


@pytest.mark.timeout(900)
def test_a_second_signal_ends_the_process_at_once(start: Callable[..., Process]) -> None:
    process = start("async def hang() -> None: await asyncio.Event().wait()\nservice.on_stop(hang)", grace_s=600.0)
    process.wait_for("service.ready")
    process.signal(signal.SIGTERM)
    process.wait_for("service.stopping")
    process.signal(signal.SIGTERM)
    assert process.end() == 1
    assert process.lines[-1] == "example: second signal received; exiting immediately\n"


@pytest.mark.timeout(900)
def test_a_stop_that_blocks_the_event_loop_is_ended_by_the_last_resort(start: Callable[..., Process]) -> None:
    process = start("async def block() -> None: threading.Event().wait()\nservice.on_stop(block)", grace_s=0.1)
    process.wait_for("service.ready")
    process.signal(signal.SIGTERM)
    assert process.end() == 1
    assert process.lines[-1] == "example: shutdown did not finish within 0.3 s; exiting\n"


@pytest.mark.timeout(900)
def test_a_failing_root_task_ends_the_process_with_code_1_and_its_traceback_once(start: Callable[..., Process]) -> None:
    process = start(
        """
        async def fails() -> None:
            raise RuntimeError("broken")
        service.spawn("fails", fails())
        """
    )
    assert process.end() == 1
    assert sum("RuntimeError: broken" in line for line in process.lines) == 1


@pytest.mark.timeout(900)
def test_an_impossible_start_is_one_line_besides_the_log_and_code_2(start: Callable[..., Process]) -> None:
    process = start("raise StartupProblem('the schema is newer than this program')")
    assert process.end() == 2
    plain = [line for line in process.lines if not line.startswith("{")]
    assert plain == ["example: cannot start: the schema is newer than this program\n"]


async def test_a_check_added_during_a_probe_does_not_break_it() -> None:
    health = Health()
    health.started.set()
    added: list[str] = []

    async def adds_another() -> bool:
        if "another" not in added:
            added.append("another")
            health.add("another", lambda: False)
        return True

    health.add("first", adds_another)
    assert await health.not_ready() == []
    assert await health.not_ready() == ["another"]
