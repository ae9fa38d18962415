"""Which due work the state of a scan calls for, whatever was lost. Pure."""

from collections.abc import Set
from datetime import UTC, datetime, timedelta

from skydriver_common.model.progress_report import has_reconstructed
from skydriver_common.model.scan import Scan
from skydriver_ewms_bridge.decide.scan import is_working, may_order_workflow, stop_label, wants_queues
from skydriver_ewms_bridge.decide.start_checks import token_warning_in
from skydriver_ewms_bridge.due_kinds import DueKind

KINDS = (DueKind.ASSIGN, DueKind.QUEUES, DueKind.STARTUP, DueKind.TOKENS, DueKind.STOP)


def missing_work(scan: Scan, noted: Set[str]) -> list[DueKind]:
    """Return the kinds of due work that the state of a scan calls for and that are not noted, in the order of `KINDS`."""
    is_at_work = is_working(scan) and bool(scan.ewms.queues)
    has_begun = has_reconstructed(scan.progress)
    is_called_for = {
        DueKind.ASSIGN: may_order_workflow(scan),
        DueKind.QUEUES: wants_queues(scan) and not scan.ewms.queues,
        DueKind.STARTUP: is_at_work and not has_begun,
        DueKind.TOKENS: is_at_work and scan.ewms.tokens_end_at is not None and not scan.ewms.are_tokens_ending,
        DueKind.STOP: scan.has_workflow and scan.ewms.deactivated is None and stop_label(scan) is not None,
    }
    return [kind for kind in KINDS if is_called_for[kind] and kind not in noted]


def due_in(kind: DueKind, scan: Scan, *, now: datetime, startup_limit: timedelta) -> timedelta:
    """Return when work that was lost is due, from now.

    kind: `QUEUES`, `STARTUP` or `TOKENS`; the others depend on events, and are noted as these are. Raises ValueError for any other.
    """
    match kind:
        case DueKind.QUEUES:
            return timedelta(0)
        case DueKind.STARTUP:
            return startup_limit
        case DueKind.TOKENS if scan.ewms.tokens_end_at is not None:
            return token_warning_in(scan.ewms.tokens_end_at, now=now)
        case _:
            raise ValueError(f"no rule notes {kind} again")


def over_since(scan: Scan, *, now: datetime) -> datetime:
    """Return when the scan was over, as far as its state says so; else now."""
    return now if scan.scanner.ended_at is None else datetime.fromtimestamp(scan.scanner.ended_at, UTC)
