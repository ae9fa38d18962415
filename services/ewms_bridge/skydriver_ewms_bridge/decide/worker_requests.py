"""Requests for more workers: whether EWMS is asked, and what becomes of those it gave no response to. Pure.

Source: REST contract 4.7, EWMS contract 7, 12.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import Enum, auto

from skydriver_common.model.commands import AddWorkers
from skydriver_common.model.rejections import Code, Rejection, scan_not_found
from skydriver_common.model.scan import Scan
from skydriver_common.model.worker_limits import WorkerLimits
from skydriver_ewms_bridge.decide.scan import CLIENT_LOGS
from skydriver_ewms_bridge.ewms_types import Taskforce
from skydriver_ewms_bridge.records import Addition
from skydriver_ewms_bridge.retry_policy import UNCLAIMED_WORKERS_TTL

_NO_OTHER_LIMITS = WorkerLimits()


class RequestStep(Enum):
    """What to do with a request for workers, given an earlier one of the same shape that nobody has got the response of."""

    ASK = auto()
    """There is none: note this one and ask EWMS."""
    REPLY = auto()
    """The earlier one's workers were found: they are the response to this one."""
    ASK_AFRESH = auto()
    """They were found, and are too old to be meant by this one: settle the earlier one, then as `ASK`."""
    WAIT = auto()
    """Another replica processes the earlier one."""
    TAKE_UP = auto()
    """Continue the earlier one: look for its workers first."""


class OpenRequestStep(Enum):
    """What to do with a request that got no response, after a look for its workers."""

    RECORD = auto()
    DROP = auto()
    """They do not exist and will not come."""
    LOOK_AGAIN = auto()


def decide_add_workers(
    scan: Scan | None, command: AddWorkers, *, added: Iterable[tuple[str, int]] = (), limits: WorkerLimits = _NO_OTHER_LIMITS
) -> Rejection | None:
    """Return why no workers are to be added, or None: EWMS is to be asked. Source: REST contract 4.7, in its order.

    added: (cluster, workers) of the requests before, also of those without a response yet.
    """
    if scan is None:
        return scan_not_found(command.scan_id)
    if scan.is_deleted:
        return Rejection(Code.SCAN_IS_DELETED, "cannot add workers: the scan is deleted")
    if not scan.has_workflow:
        return Rejection(
            Code.WORKFLOW_IS_MISSING, "cannot add workers: the scan has no EWMS workflow yet; retry when its state shows one"
        )
    if scan.has_final_result:
        return Rejection(Code.SCAN_HAS_FINAL_RESULT, "cannot add workers: the scan has its final result")
    if scan.ewms.deactivated:
        return workflow_ended()
    requested = [(name, n_workers) for name, n_workers in scan.request["request_clusters"]]
    if too_many := limits.exceeded([*requested, *added, (command.cluster_location, command.n_workers)]):
        return Rejection(Code.TOO_MANY_WORKERS, f"n_workers: {'; '.join(too_many)}", ("n_workers",))
    cap = command.debug_cap
    if CLIENT_LOGS in scan.request["debug_mode"] and cap is not None and command.n_workers > cap:
        return Rejection(
            Code.TOO_MANY_DEBUG_WORKERS,
            f"n_workers: at most {cap} on cluster {command.cluster_location} while debug_mode contains client-logs",
            ("n_workers",),
        )
    return None


def request_step(earlier: Addition | None, *, now: datetime) -> RequestStep:
    """Return what to do with a request that may be made. earlier: the open one of the same shape, if any."""
    if earlier is None:
        return RequestStep.ASK
    if earlier.taskforce_uuid is not None and earlier.got_n_workers is not None:
        return RequestStep.REPLY if now - earlier.asked_at < UNCLAIMED_WORKERS_TTL else RequestStep.ASK_AFRESH
    return RequestStep.WAIT if earlier.held_until > now else RequestStep.TAKE_UP


def may_take_effect(addition: Addition, *, now: datetime, unclear_wait: timedelta) -> bool:
    """Whether EWMS may still add the workers of its last call. unclear_wait: after it a call without a response has no effect."""
    return addition.attempted_at is not None and now - addition.attempted_at <= unclear_wait


def open_request_step(
    addition: Addition, found: Taskforce | None, *, now: datetime, unclear_wait: timedelta
) -> OpenRequestStep:
    """Return what to do with a request without a response. found: its workers, as far as EWMS shows them."""
    if found is not None:
        return OpenRequestStep.RECORD
    return OpenRequestStep.LOOK_AGAIN if may_take_effect(addition, now=now, unclear_wait=unclear_wait) else OpenRequestStep.DROP


def workflow_ended() -> Rejection:
    """Return the rejection for EWMS's 422, or for what is recorded already."""
    return Rejection(Code.WORKFLOW_HAS_ENDED, "cannot add workers: the scan's EWMS workflow has ended")


def cluster_refused() -> Rejection:
    """Return the rejection for EWMS's 400 to a request for workers."""
    return Rejection(
        Code.CLUSTER_REFUSED,
        "cluster_location: rejected by EWMS; check the cluster name and the number of workers",
        ("cluster_location",),
    )


def ewms_failed() -> Rejection:
    """Return the rejection for EWMS being unavailable or unclear. Never recorded: asking again may help."""
    return Rejection(Code.EWMS_FAILED, "EWMS could not add workers; please contact the admins if this persists")
