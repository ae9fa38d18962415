"""The one consumer of due work: claim a row with a lease, do its one thing, then it is finished or due again.

A lease can end while its holder still works, so every kind of work may be done twice; what must not happen twice is guarded where it
happens. Work that fails is due again after a growing pause, and the next piece follows at once: one scan never slows the others.
When several scans in a row fail, the cause is not theirs, and the loop waits, too.
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Any

import structlog

from skydriver_common.backoff import Backoff
from skydriver_common.db.schedule import ANY_PRIORITY, DueWork, Schedule
from skydriver_common.faults import TryLater
from skydriver_common.runtime.loops import count_failure

logger = structlog.get_logger(__name__)

RETRY = Backoff(first_s=1.0, cap_s=30.0)
"""Between two tries of one piece of work that fails."""
MAX_FAILING_SCANS = 3
"""When the work of so many different scans fails without a success in between, something is unavailable for all of them."""
_MIN_IDLE_S = 0.2
"""Between two looks at work whose time has nearly come."""
_MIN_CLAIM_PAUSE_S = 0.05
"""The same, where the claim itself tells when to come back."""


@dataclass(frozen=True, slots=True)
class DueAgain:
    """The work is due again after this time. note: for the next try; None leaves the one that is there."""

    after: timedelta
    note: dict[str, Any] | None = None


class Settled(Enum):
    """The handler has finished the work, or put it off, itself: in the transaction of its decision."""

    SETTLED = auto()


SETTLED = Settled.SETTLED

Outcome = None | timedelta | DueAgain | Settled
"""What became of a piece of work. None: it is done. A time: it is due again after it."""
Handler = Callable[[DueWork], Awaitable[Outcome]]
"""Does one piece of work. May raise TryLater, and anything else, which is a bug."""
Claim = Callable[[], Awaitable[DueWork | float | None]]
"""Leases the next piece of work; else the seconds after which to ask again, None: when somebody puts work."""


async def _never_paused() -> float:
    return 0.0


def _no_urgency(_: DueWork) -> AbstractContextManager[None]:
    return nullcontext()


class DueWorkConsumer:
    """The loop step for one kind of due work. Several consumers of a kind, and several replicas, work side by side."""

    def __init__(
        self,
        schedule: Schedule,
        kind: str,
        handle: Handler,
        *,
        min_priority: int = ANY_PRIORITY,
        claim: Claim | None = None,
        paused_s: Callable[[], Awaitable[float]] = _never_paused,
        urgency: Callable[[DueWork], AbstractContextManager[None]] = _no_urgency,
        uses_up_patience: Callable[[Exception], bool] = lambda _: True,
        keeps_claim_s: float = 0.0,
        postpones_failures: bool = True,
        on_fault: Callable[[Exception], None] = count_failure,
    ) -> None:
        """Wire one consumer.

        min_priority: less urgent work is left to others. claim: in place of the schedule's own. paused_s: seconds during which work is
        left where it is, 0.0: none. urgency: entered around the handler. uses_up_patience: False for a failure that is one scan's
        alone, so that it does not make the loop wait. keeps_claim_s: after TryLater the claim is kept for so long since it was
        made, and the handler is called again with it by the next step; must be less than the lease. postpones_failures: False makes
        the loop wait after every failure, whatever was raised; with keeps_claim_s the claim is kept then, and the work is otherwise
        done again when its lease has ended. on_fault: called with each failure after which the loop goes on; counts it as the loop's.
        """
        self._schedule = schedule
        self._kind = kind
        self._handle = handle
        self._min_priority = min_priority
        self._claim = claim or self._claim_due
        self._paused_s = paused_s
        self._urgency = urgency
        self._uses_up_patience = uses_up_patience
        self._keeps_claim_s = keeps_claim_s
        self._postpones_failures = postpones_failures
        self._on_fault = on_fault
        self._failed_in_a_row: set[str] = set()
        self._kept: DueWork | None = None
        self._kept_until = 0.0

    async def step(self) -> bool | float:
        """Do the most urgent piece, or tell when to look again.

        Raises TryLater when the database is unavailable or the claim is kept, what the last of several scans in a row failed by, and
        without ``postpones_failures`` whatever the handler raises.
        """
        if (pause_s := await self._paused_s()) > 0:
            return pause_s
        began = time.monotonic()
        work, self._kept = self._kept, None
        if work is None or began >= self._kept_until:
            claimed = await self._claim()
            if not isinstance(claimed, DueWork):
                return False if claimed is None else max(claimed, _MIN_CLAIM_PAUSE_S)
            work, self._kept_until = claimed, began + self._keeps_claim_s
        with structlog.contextvars.bound_contextvars(scan_id=work.scan_id), self._urgency(work):
            try:
                outcome = await self._handle(work)
            except Exception as fault:
                if not self._postpones_failures or (isinstance(fault, TryLater) and time.monotonic() < self._kept_until):
                    # looked at again by the next step: a claim that is not kept any longer is nobody's before its lease ends
                    self._kept = work if self._keeps_claim_s else None
                    raise
                await self._postpone_failed(work, fault)
                if len(self._failed_in_a_row) >= MAX_FAILING_SCANS:
                    raise
                self._on_fault(fault)
                return True
            self._failed_in_a_row.clear()
            await self._settle(work, outcome)
        return True

    async def _claim_due(self) -> DueWork | float | None:
        work = await self._schedule.claim(self._kind, min_priority=self._min_priority)
        if work is not None or self._min_priority != ANY_PRIORITY:
            return work
        next_s = await self._schedule.seconds_to_next([self._kind])
        return None if next_s is None else max(next_s, _MIN_IDLE_S)

    async def _settle(self, work: DueWork, outcome: Outcome) -> None:
        match outcome:
            case None:
                await self._schedule.finish(work)
            case DueAgain():
                await self._schedule.postpone(work, outcome.after, note=outcome.note)
            case timedelta():
                await self._schedule.postpone(work, outcome)

    async def _postpone_failed(self, work: DueWork, fault: Exception) -> None:
        pause_s = RETRY.pause_s(work.tries)
        if isinstance(fault, TryLater):
            pause_s = max(pause_s, fault.after_s)
            logger.warning("work.retrying", kind=work.kind, tries=work.tries, what=fault.what, retry_in_s=round(pause_s, 1))
        else:
            logger.exception("work.failed", kind=work.kind, tries=work.tries, retry_in_s=round(pause_s, 1))
        if self._uses_up_patience(fault) and len(self._failed_in_a_row) < MAX_FAILING_SCANS:
            self._failed_in_a_row.add(work.scan_id)
        await self._schedule.postpone(work, timedelta(seconds=pause_s))
