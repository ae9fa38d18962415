"""The one runner: how every service starts, lives and stops.

Start: logs → health server (alive, not ready) → `build`, which opens what the service needs, in order → ready.
Stop, on SIGTERM, SIGINT or the failure of a root task: not ready → `on_stop` in reverse (consumers, HTTP server) → loops and
root tasks finish what they have in hand, up to the grace time, and are cancelled after it → everything opened is closed in
reverse. A second signal ends the process at once, and so does a timer when the stop hangs: a graceful stop is politeness,
correctness must not need it.

Exit codes: 0 stopped as asked; 1 a root task failed, or something was away at the start (trying again can help); 2 the start is
impossible as configured (`StartupProblem`, bad settings).
"""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NoReturn

import structlog
import uvloop

from skydriver_common.faults import TryLater
from skydriver_common.runtime.connections import raise_descriptor_limit
from skydriver_common.runtime.event_loop_delay import observe_delay
from skydriver_common.runtime.health import Check, Health, HealthServer
from skydriver_common.runtime.logs import configure_logging
from skydriver_common.runtime.loops import LoopSignals, Step, run_loop
from skydriver_common.runtime.memory import keep_little_memory
from skydriver_common.runtime.metrics import Metrics
from skydriver_common.runtime.redaction import redact_text
from skydriver_common.runtime.settings import PREFIX, ServiceSettings
from skydriver_common.trust import trust

__all__ = ["Build", "Service", "StartupProblem", "run", "serve"]

logger = structlog.get_logger(__name__)

_GATHER_S = 0.02
"""So often at most does a loop look that is woken all the time; under load one look then does for many wake-ups."""

EXIT_STOPPED = 0
EXIT_FAILED = 1
EXIT_IMPOSSIBLE = 2

CLOSE_LIMIT_S = 3.0
"""For closing what was opened, after the grace time: pools and connections, no work."""
LAST_RESORT_S = 1.0
"""After grace and closing: then the process ends itself, whatever hangs."""


class StartupProblem(Exception):
    """The service cannot start as configured; the message is one line for the operator and holds no secret."""


class Service:
    """What `build` works with. Everything here is to be used on the service's event loop.

    Attributes:
        name, replica: who this is, in logs and metrics.
        stack: opened things are entered here and closed in reverse order, after all tasks have ended.
        health_port: where the health server of this process listens.
        descriptors: how many files and connections this process may have open.
        stopping: set when the stop begins; for code that is no `loop` and must notice.
    """

    def __init__(
        self, name: str, replica: str, stack: AsyncExitStack, group: asyncio.TaskGroup, health: Health, metrics: Metrics
    ) -> None:
        self.name = name
        self.replica = replica
        self.stack = stack
        self.health = health
        self.metrics = metrics
        self.health_port = 0
        self.descriptors = raise_descriptor_limit()
        self.stopping = asyncio.Event()
        self.failed = False
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()
        self._pulses: list[LoopSignals] = []
        self._on_stop: list[Callable[[], Awaitable[None]]] = []
        self._building: asyncio.Task[Any] | None = None
        self._build_cancelled = False
        self._stop_began: Callable[[], None] | None = None

    def spawn(self, name: str, coro: Coroutine[Any, Any, object], *, may_end: bool = False) -> asyncio.Task[None]:
        """Run a root task for the life of the service.

        Its error stops the service with exit code 1. So does its end before the stop began: a task that should run and does
        not is invisible otherwise. `may_end` is for one that has an end.
        """
        task = self._group.create_task(self._guarded(name, coro, may_end), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def loop(self, name: str, step: Step, *, idle_s: float, pulse: LoopSignals | None = None) -> LoopSignals:
        """Run a background loop (see `runtime.loops`) as a root task; wake it through the pulse, stopping is done here."""
        pulse = pulse if pulse is not None else LoopSignals()
        self._pulses.append(pulse)
        if self.stopping.is_set():
            pulse.stop()
        self.spawn(
            name,
            run_loop(
                step, pulse, name=name, idle_s=idle_s, gather_s=_GATHER_S, on_failure=self.metrics.loop_failed,
                on_success=self.metrics.loop_succeeded,
            ),
        )  # fmt: skip
        return pulse

    def ready_check(self, name: str, check: Check) -> None:
        """Add a condition of readiness; `/readyz` names those that do not hold."""
        self.health.add(name, check)

    def on_stop(self, stop: Callable[[], Awaitable[None]]) -> None:
        """Call this when the stop begins, last registered first: take no new work, finish what is in hand.

        Loops still run while it does. What it does not finish within the grace time is cancelled.
        """
        self._on_stop.append(stop)

    def request_stop(self) -> None:
        """Begin the orderly stop; repeating it changes nothing."""
        self.health.stopping = True
        if not self.stopping.is_set():
            self.stopping.set()
            logger.info("service.stopping", failed=self.failed)
            if self._stop_began is not None:
                self._stop_began()
            # Not at once: a cancellation asked for by the task itself would strike at some later await.
            asyncio.get_running_loop().call_soon(self._cancel_build)

    def _cancel_build(self) -> None:
        if self._building is not None:
            self._build_cancelled = self._building.cancel()

    async def _guarded(self, name: str, coro: Coroutine[Any, Any, object], may_end: bool) -> None:
        try:
            await coro
        except Exception:
            # Logged here and not raised: the rest is to stop in order, not to be cancelled by the task group.
            self.failed = True
            logger.exception("service.task-failed", task=name)
            self.request_stop()
        finally:
            if not may_end and not self.stopping.is_set():
                self.failed = True
                logger.error("service.task-ended", task=name)
                self.request_stop()

    async def _live(self, build: "Build", grace_s: float) -> int:
        """Start, wait for the stop, stop; return the exit code."""
        code = EXIT_STOPPED
        try:
            if await self._start(build):
                self.health.started.set()
                logger.info("service.ready")
                await self.stopping.wait()
        except StartupProblem as problem:
            code = EXIT_IMPOSSIBLE
            _say(self.name, f"cannot start: {problem}")
        except TryLater as fault:
            code = EXIT_FAILED
            _say(self.name, f"cannot start: {fault.what} (exiting; the supervisor restarts it)")
        except Exception:
            code = EXIT_FAILED
            logger.exception("service.start-failed")
        await self._stop(grace_s)
        return code

    async def _start(self, build: "Build") -> bool:
        """Build the service; False when the stop began meanwhile.

        `build` runs in this very task, since what it enters into the stack is left from here; so a stop cancels this task.
        """
        task = asyncio.current_task()
        assert task is not None
        self._building = task
        try:
            await build(self)
        except asyncio.CancelledError:
            if not self._build_cancelled or task.cancelling() > 1:  # somebody else's cancellation
                raise
        finally:
            self._building = None
            if self._build_cancelled:
                task.uncancel()
        return not self.stopping.is_set()

    async def _stop(self, grace_s: float) -> None:
        self.request_stop()
        clock = asyncio.get_running_loop().time
        deadline = clock() + grace_s
        while self._on_stop:
            stop = self._on_stop.pop()
            what = getattr(stop, "__qualname__", type(stop).__name__)
            try:
                async with asyncio.timeout_at(deadline):
                    await stop()
            except TimeoutError:
                logger.warning("service.task-cancelled", what=what)
            except Exception:
                self.failed = True
                logger.exception("service.stop-failed", what=what)
        for pulse in self._pulses:
            pulse.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, deadline - clock()))
        for task in self._tasks:
            logger.warning("service.task-cancelled", what=task.get_name())
            task.cancel()


Build = Callable[[Service], Awaitable[None]]
"""Given by a service's `main`: constructs everything, and returns when the service can do its work. Raises StartupProblem when
it never will, TryLater when it may later."""


async def serve(
    name: str, settings: ServiceSettings, build: Build, *, on_created: Callable[[Service], None] | None = None
) -> int:
    """Run the service until it is stopped, and return its exit code.

    Logs, signals and the event loop are the caller's affair: `run` is this with all of them. on_created: gets the service
    before `build` does.
    """
    trust(settings.ca_file)
    replica = settings.replica or _replica()
    health, metrics = Health(), Metrics()
    server = HealthServer(health, metrics, service=name, replica=replica, host=settings.health_host, port=settings.health_port)
    try:
        await server.__aenter__()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        _say(name, f"cannot start: {PREFIX}HEALTH_PORT: cannot listen on {settings.health_host}:{settings.health_port}: {why}")
        return EXIT_IMPOSSIBLE
    logger.info(
        "service.starting", health=f"http://{settings.health_host}:{server.port}/readyz", descriptors=raise_descriptor_limit()
    )
    stack = AsyncExitStack()
    end_delays = observe_delay(metrics)
    try:
        async with asyncio.TaskGroup() as group:
            service = Service(name, replica, stack, group, health, metrics)
            service.health_port = server.port
            if on_created is not None:
                on_created(service)
            code = await service._live(build, settings.shutdown_grace_s)
    finally:
        end_delays()
        closed = await _close(stack)
        await server.__aexit__()
    if code == EXIT_STOPPED and (service.failed or not closed):
        code = EXIT_FAILED
    logger.info("service.stopped", exit_code=code)
    return code


async def _close(stack: AsyncExitStack) -> bool:
    """Close what the service opened, every part of it, whatever fails; False when something did."""
    try:
        async with asyncio.timeout(CLOSE_LIMIT_S):
            await stack.aclose()
    except Exception:
        logger.exception("service.close-failed")
        return False
    return True


def run(name: str, settings: ServiceSettings, build: Build) -> NoReturn:
    """Be the process of this service: logs, event loop, signals, then `serve`. Ends with the exit code, never returns."""
    configure_logging(
        service=name, replica=settings.replica or _replica(), log_format=settings.log_format, log_level=settings.log_level
    )
    keep_little_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(_log_unhandled)
        code = runner.run(serve(name, settings, build, on_created=partial(_attach, settings.shutdown_grace_s)))
    sys.exit(code)


def _attach(grace_s: float, service: Service) -> None:
    """Let signals stop the service, and a timer end the process when the stop hangs."""
    loop = asyncio.get_running_loop()
    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            _die(service.name, "second signal received; exiting immediately")
        service.request_stop()

    def arm_last_resort() -> None:
        # A thread: the event loop may be what hangs.
        limit_s = grace_s + CLOSE_LIMIT_S + LAST_RESORT_S
        timer = threading.Timer(limit_s, _die, (service.name, f"shutdown did not finish within {limit_s:g} s; exiting"))
        timer.daemon = True
        timer.start()

    service._stop_began = arm_last_resort
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


def _die(name: str, why: str) -> NoReturn:
    _say(name, why)
    os._exit(EXIT_FAILED)


def _say(name: str, text: str) -> None:
    """One line for the operator, outside the log: a start that fails is read by a person or a supervisor's tail."""
    print(f"{name}: {redact_text(' '.join(text.split()))}", file=sys.stderr, flush=True)


def _replica() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def _log_unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio reports of its own accord: errors nobody awaited, callbacks that raised."""
    logger.error("service.unhandled", message=context.get("message"), exc_info=context.get("exception"))
