"""How a workflow is ended, and whether its workers stay away. Pure. Source: EWMS contract 5, 9, 12; REST contract 8.8."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import Enum, auto

from skydriver_common.model.events import Event, WorkersCameBack, WorkflowDeactivated
from skydriver_common.model.scan import Scan
from skydriver_ewms_bridge.decide.scan import FINISHED, stop_label
from skydriver_ewms_bridge.decide.workforce_problems import is_submission_given_up
from skydriver_ewms_bridge.ewms_types import Taskforce, Workflow
from skydriver_ewms_bridge.retry_policy import (
    EARLY_STOP_VERIFICATION_DELAY,
    LAST_STOP_VERIFICATION_DELAY,
    STOP_VERIFICATION_DELAY,
    STOPPED_WORKERS_CHECK,
)

_RETURNING_PHASES = frozenset({"pre-mq-activation", "pre-launch", "pending-starter", "condor-submit"})
"""Phases that a stopped workflow's taskforces have left for good, unless EWMS's own loops have raced with the stop."""


class StopStep(Enum):
    """What to do when a workflow is to be stopped."""

    NOTHING = auto()
    """The scan goes on."""
    REMOVE_CREDENTIALS = auto()
    """There is no workflow, or it is stopped."""
    STOP = auto()


def stop_step(scan: Scan | None) -> StopStep:
    """Return what to do about the end of this scan's workflow."""
    if scan is None or stop_label(scan) is None:
        return StopStep.NOTHING
    return StopStep.STOP if scan.has_workflow and not scan.ewms.deactivated else StopStep.REMOVE_CREDENTIALS


def stop_delay(scan: Scan | None, *, since: datetime, now: datetime, teardown_delay: timedelta) -> timedelta | None:
    """Return when the workflow of a scan that is over since `since` is to be stopped, from now; None: not at all.

    After a final result there is a delay, because the scanner still reports; after a deletion or a failure there is none.
    """
    if scan is None or (label := stop_label(scan)) is None or scan.ewms.deactivated:
        return None
    return since + teardown_delay - now if label == FINISHED else timedelta(0)


def decide_deactivated(scan: Scan | None, workflow_id: str, label: str) -> list[Event]:
    """Record that EWMS shows the workflow stopped; nothing when that is known, or it is not this scan's workflow."""
    if scan is None or scan.ewms_workflow_id != workflow_id or scan.ewms.deactivated:
        return []
    return [WorkflowDeactivated(workflow_id=workflow_id, label=label.upper())]


def may_race_with_activation(scan: Scan) -> bool:
    """Whether its workflow, stopped now, may just be on its way through EWMS's activation and launch: no worker was reported yet.

    EWMS moves all taskforces of the workflow on at the end of an activation, also those that were stopped during it.
    """
    return not scan.ewms.statuses


def first_stop_verification(scan: Scan) -> timedelta:
    """Return how long after the stop it is first checked that no worker has come back. scan: as of the stop."""
    return EARLY_STOP_VERIFICATION_DELAY if may_race_with_activation(scan) else STOP_VERIFICATION_DELAY


def next_stop_verification(n_workers: int, *, age_s: float) -> timedelta | None:
    """Return when to check next; None: the workflow is over. n_workers: that came back. age_s: since the stop."""
    if n_workers:
        return STOPPED_WORKERS_CHECK
    age = timedelta(seconds=age_s)
    return next((at - age for at in (STOP_VERIFICATION_DELAY, LAST_STOP_VERIFICATION_DELAY) if at > age), None)


def returning(taskforces: Iterable[Taskforce]) -> list[Taskforce]:
    """Return the taskforces of a stopped workflow that are about to start, or start again."""
    return [t for t in taskforces if t.phase in _RETURNING_PHASES and not is_submission_given_up(t)]


def decide_workers_came_back(scan: Scan | None, n_workers: int) -> list[Event]:
    """Record a change in how many workers of the stopped workflow run nevertheless."""
    if scan is None or scan.ewms_workflow_id is None or scan.ewms.n_came_back == n_workers:
        return []
    return [WorkersCameBack(workflow_id=scan.ewms_workflow_id, n_workers=n_workers)]


def further_workflows(scan: Scan, found: Iterable[Workflow]) -> list[Workflow]:
    """Return the live workflows beside the one assigned to the scan: a request whose response was lost may have made one."""
    return [w for w in found if w.deactivated is None and w.workflow_id != scan.ewms_workflow_id]
