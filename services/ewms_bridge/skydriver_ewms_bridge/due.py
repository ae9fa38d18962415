"""One way to do due work: claim a row, do its one thing, then it is finished or due again.

Every kind of work here may be done twice, since a lease can end while its holder still works; what must not happen twice is
guarded where it happens.
"""

import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from skydriver_common.db.schedule import DueWork, Schedule
from skydriver_common.faults import TryLater
from skydriver_common.model.commands import Context
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.decide import backoff_s, urgency_of
from skydriver_ewms_bridge.ports import ScanNotReady
from skydriver_ewms_bridge.priority_limiter import Urgency, urgent

logger = structlog.get_logger(__name__)

ASSIGN = "ewms-assign"
"""Make, or find, the workflow of a launched scan."""
DUPLICATES = "ewms-duplicates"
"""Look once more whether a request without an answer has made a second workflow."""
QUEUES = "ewms-queues"
"""Wait for the queues and hand them over."""
STOP = "ewms-stop"
"""Stop the workflow, until EWMS shows it stopped."""
AFTERMATH = "ewms-aftermath"
"""Look once more whether a stopped workflow's workers have come back."""
ADDITIONS = "ewms-additions"
"""Find out what became of requests for workers without an answer."""
STARTUP = "ewms-startup"
"""See whether the scanner has uploaded what its workers need to begin."""
TOKENS = "ewms-tokens"
"""Say in time that the queues' tokens end."""
TOP_UP = "ewms-top-up"
"""Replace workers that have ended, where that is wanted."""
WORKFORCE = "ewms-workforce"
"""No due row: the name under which the workforce loop is woken."""

NEEDS_NO_EWMS = frozenset({STARTUP, TOKENS})

LONGEST_PAUSE_S = 30.0
MAX_FAILING_SCANS = 3
"""When the work of so many different scans fails without a success in between, something is away for all of them."""
_SHORTEST_IDLE_S = 0.2

Handler = Callable[[DueWork], Awaitable[timedelta | None]]
"""Does one piece of work. None: it is done. A time: it is due again after it. May raise TryLater."""


OnFault = Callable[[Exception], None]

Closed = Callable[[], Awaitable[float]]
"""Seconds for which EWMS is not to be asked, 0.0 while it is."""


async def _never() -> float:
    return 0.0


def _ignore(_: Exception) -> None:
    pass


class DueStep:
    """The loop step for one kind of due work.

    A piece that fails is postponed by itself, and the next one follows at once: one scan never slows the others. When several scans in
    a row fail, the cause is not theirs, and the loop waits too.

    closed: work that needs EWMS is left where it is while EWMS is away. on_fault: told of each failure after which the loop goes on.
    """

    def __init__(
        self, schedule: Schedule, kind: str, handle: Handler, *, closed: Closed = _never, on_fault: OnFault = _ignore
    ) -> None:
        self._schedule = schedule
        self._kind = kind
        self._handle = handle
        self._closed = _never if kind in NEEDS_NO_EWMS else closed
        self._on_fault = on_fault
        self._failed_in_a_row: set[str] = set()

    async def __call__(self) -> bool | float:
        """Do the most urgent piece. Raises what the last of several scans in a row failed by, and TryLater (the database)."""
        if (closed_s := await self._closed()) > 0:
            return closed_s
        work = await self._schedule.claim(self._kind)
        if work is None:
            next_s = await self._schedule.seconds_to_next([self._kind])
            return False if next_s is None else max(next_s, _SHORTEST_IDLE_S)
        with structlog.contextvars.bound_contextvars(scan_id=work.scan_id), urgent(_urgency_of(work)):
            try:
                again_after = await self._handle(work)
            except Exception as fault:
                await self._postpone_failed(work, fault)
                if len(self._failed_in_a_row) >= MAX_FAILING_SCANS:
                    raise
                self._on_fault(fault)
                return True
            self._failed_in_a_row.clear()
            if again_after is None:
                await self._schedule.finish(work)
            else:
                await self._schedule.postpone(work, again_after)
        return True

    async def _postpone_failed(self, work: DueWork, fault: Exception) -> None:
        pause_s = backoff_s(work.tries, cap_s=LONGEST_PAUSE_S, jitter=random.random())  # noqa: S311  (no secret)
        if isinstance(fault, TryLater):
            pause_s = max(pause_s, fault.after_s)
            logger.warning("work.waiting", kind=work.kind, tries=work.tries, what=fault.what, retry_in_s=round(pause_s, 1))
        else:
            logger.exception("work.failed", kind=work.kind, tries=work.tries, retry_in_s=round(pause_s, 1))
        if not isinstance(fault, ScanNotReady):
            self._failed_in_a_row.add(work.scan_id)
        await self._schedule.postpone(work, timedelta(seconds=pause_s))


def _urgency_of(work: DueWork) -> Urgency:
    return urgency_of(
        starts_a_scan=work.kind in (ASSIGN, QUEUES),
        stops_workers=work.kind in (STOP, DUPLICATES),
        counts_workers=False,
        priority=work.priority,
    )


def context_of(work_kind: str, scan_id: ScanId, what: str = "") -> Context:
    """The context of what the bridge decides by itself."""
    command_id = f"{work_kind}/{scan_id}" + (f"/{what}" if what else "")
    return Context(command_id=command_id, correlation_id=scan_id, actor=f"ewms_bridge/{work_kind}")
