"""How late the event loop calls back what is due: what holds it up holds up every request, loop and heartbeat of the process."""

import asyncio
from collections.abc import Callable

from skydriver_common.runtime.metrics import Metrics

_INTERVAL_S = 0.5


def observe_delay(metrics: Metrics) -> Callable[[], None]:
    """Observe the delay of the running event loop, twice a second, until the returned function is called."""
    loop = asyncio.get_running_loop()
    histogram = metrics.histogram("skydriver_event_loop_delay_seconds")
    timer: asyncio.TimerHandle

    def tick(due_at: float) -> None:
        nonlocal timer
        now = loop.time()
        histogram.observe(max(0.0, now - due_at))
        timer = loop.call_at(now + _INTERVAL_S, tick, now + _INTERVAL_S)

    timer = loop.call_at(loop.time() + _INTERVAL_S, tick, loop.time() + _INTERVAL_S)
    return lambda: timer.cancel()
