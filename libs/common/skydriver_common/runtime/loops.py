"""The one background loop: small steps, woken by work, backing off from failures, stopped by an event.

Relay, launcher, watchdog, workforce and teardown are all this loop with another step. A step claims with a lease, does one
thing and records it; "not now" is a new due time, never a long wait inside the step.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

import structlog

from skydriver_common.backoff import Backoff
from skydriver_common.db.errors import fault_of
from skydriver_common.faults import TryLater

logger = structlog.get_logger(__name__)


Step = Callable[[], Awaitable[bool | float]]
"""One small piece of work. True: there is more, call again at once. False: nothing to do. A number: the next piece is due in
so many seconds (0 or less: at once); the loop waits at most its idle time anyway."""

FAILURE = Backoff(first_s=1.0, cap_s=60.0)
"""After failures we cannot explain: a bug does not go away by asking it often."""
OUTAGE = Backoff(first_s=1.0, cap_s=5.0)
"""While something is unavailable (`TryLater`): after the outage work must go on soon. A longer `after_s` of the fault itself is
honoured, up to the longest pause after a failure."""
_RECORD = Backoff(first_s=0.1, cap_s=1.0)
"""Between attempts to record what has happened outside."""

_on_failure: ContextVar[Callable[[], None]] = ContextVar("on_failure", default=lambda: None)


def count_failure(_: Exception) -> None:
    """Count a failure that the loop's step has dealt with itself, as one of the loop that runs it."""
    _on_failure.get()()


@dataclass(frozen=True, slots=True)
class LoopSignals:
    """What one loop listens to: work to do, and the end.

    A pulse belongs to one loop, because the loop clears `work`. `wake` and `stop` may be called from callbacks of the same
    event loop (a NOTIFY listener, a signal handler); they never block.
    """

    work: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Say that there may be work: an idle loop takes its next step at once."""
        self.work.set()

    def stop(self) -> None:
        """Let the loop end after the step in hand; repeating it changes nothing."""
        self.stopping.set()
        self.work.set()  # an idle loop waits for work only


async def wait_or_timeout(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, but not longer than `seconds`; True when it is set. Lets other tasks run in any case."""
    if event.is_set() or seconds <= 0:
        await asyncio.sleep(0)
        return event.is_set()
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


async def run_loop(
    step: Step,
    pulse: LoopSignals,
    *,
    name: str,
    idle_s: float,
    gather_s: float = 0.0,
    on_failure: Callable[[str], None] | None = None,
    on_success: Callable[[str], None] | None = None,
) -> None:
    """Take steps until the pulse stops; return after the step in hand.

    A failing step is logged and tried again after a growing, jittered pause that only `stop` cuts short: a wake-up must not
    turn an outage into a busy loop. Success resets the pause. Cancellation goes through.

    name: the loop in logs and metrics. idle_s: seconds between two looks when nobody wakes the loop (the poll behind NOTIFY).
    gather_s: a loop that is woken again and again looks so often at most; the first wake-up after a rest is followed at once.
    on_failure, on_success: called with the name after each step, for metrics.
    """
    failures, clock = 0, asyncio.get_running_loop().time
    _on_failure.set(partial(on_failure, name) if on_failure is not None else lambda: None)
    while not pulse.stopping.is_set():
        began = clock()
        pulse.work.clear()  # before the step: a wake-up during it is not lost
        try:
            result = await step()
        except Exception as error:  # CancelledError is none of these
            failures += 1
            if (fault := error if isinstance(error, TryLater) else fault_of(error)) is not None:
                pause_s = max(min(fault.after_s, FAILURE.cap_s), OUTAGE.pause_s(failures))
                logger.warning("loop.retrying", loop=name, failures=failures, what=fault.what, retry_in_s=round(pause_s, 3))
            else:
                pause_s = FAILURE.pause_s(failures)
                logger.exception("loop.failed", loop=name, failures=failures, retry_in_s=round(pause_s, 3))
        else:
            failures = 0
            if on_success is not None:
                on_success(name)
            if await wait_or_timeout(pulse.work, _wait_s(result, idle_s)) and result is not True:
                await wait_or_timeout(pulse.stopping, began + gather_s - clock())
            continue
        _on_failure.get()()
        await wait_or_timeout(pulse.stopping, pause_s)


async def retry_for(attempt: Callable[[], Awaitable[None]], *, for_s: float) -> None:
    """Within a step: record what has happened outside, again and again while the database is away. Raises TryLater after for_s."""
    clock = asyncio.get_running_loop().time
    deadline, failures = clock() + for_s, 0
    while True:
        try:
            return await attempt()
        except TryLater as fault:
            failures += 1
            pause_s = _RECORD.pause_s(failures)
            if clock() + pause_s > deadline:
                raise
            logger.warning("record.retrying", what=fault.what, retry_in_s=round(pause_s, 2))
        await asyncio.sleep(pause_s)


def _wait_s(result: bool | float, idle_s: float) -> float:
    if isinstance(result, bool):
        return 0.0 if result else idle_s
    return min(idle_s, result)  # in this order: for NaN, min keeps the idle time
