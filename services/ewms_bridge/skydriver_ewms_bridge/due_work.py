"""How the bridge does due work: not while EWMS is unavailable, and the most urgent calls first."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from skydriver_common.db.schedule import DueWork, Schedule
from skydriver_common.model.commands import Context
from skydriver_common.model.ids import ScanId
from skydriver_common.runtime.due_work import DueWorkConsumer, Handler
from skydriver_common.runtime.loops import count_failure
from skydriver_ewms_bridge.decide.urgency import urgency_of
from skydriver_ewms_bridge.due_kinds import NEEDS_NO_EWMS, DueKind
from skydriver_ewms_bridge.ports import ScanNotReady
from skydriver_ewms_bridge.priority_limiter import urgent

OpenForS = Callable[[], Awaitable[float]]
"""Seconds for which EWMS must not be called (the circuit is open), 0.0 while it may be."""


async def _never_open() -> float:
    return 0.0


def consumer(
    schedule: Schedule,
    kind: DueKind,
    handle: Handler,
    *,
    open_for_s: OpenForS = _never_open,
    on_fault: Callable[[Exception], None] = count_failure,
) -> DueWorkConsumer:
    """Return a consumer of one kind. open_for_s: while the circuit is open, work that needs EWMS is left where it is."""
    return DueWorkConsumer(
        schedule,
        kind,
        handle,
        paused_s=_never_open if kind in NEEDS_NO_EWMS else open_for_s,
        urgency=_urgency,
        uses_up_patience=lambda fault: not isinstance(fault, ScanNotReady),
        on_fault=on_fault,
    )


def _urgency(work: DueWork) -> AbstractContextManager[None]:
    return urgent(
        urgency_of(
            starts_a_scan=work.kind in (DueKind.ASSIGN, DueKind.QUEUES),
            stops_workers=work.kind in (DueKind.STOP, DueKind.DUPLICATES),
            counts_workers=False,
            priority=work.priority,
        )
    )


def context_of(work_kind: str, scan_id: ScanId, what: str = "") -> Context:
    """Return the context of what the bridge decides by itself."""
    command_id = f"{work_kind}/{scan_id}" + (f"/{what}" if what else "")
    return Context(command_id=command_id, correlation_id=scan_id, actor=f"ewms_bridge/{work_kind}")
