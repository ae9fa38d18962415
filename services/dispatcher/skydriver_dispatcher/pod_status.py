"""What a Job's and a Pod's status say about a scanner server. Pure; takes the API's JSON as it comes off the wire.

Sources: REST contract 9.6 (which ends are transient); the Kubernetes API for the fields.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from skydriver_common.kubernetes import names, quota
from skydriver_common.model.ids import ScanId
from skydriver_common.model.problem_codes import ProblemCode
from skydriver_common.model.stages import ScannerStage
from skydriver_dispatcher.launcher_events import ScannerExit, ScannerStatus

TRANSIENT_REASONS = frozenset({"OOMKilled", "Evicted", "DeadlineExceeded", "StartError"})
TRANSIENT_EXIT_CODES = frozenset({137, 143})
"""Ends that a new try can avoid. Source: REST contract 9.6."""
LOST_REASONS = frozenset({"NodeLost", "NodeShutdown", "Terminated", "Shutdown", "Preempting"})
"""More pod reasons of the same kind, told by the kubelet or the node controller about a pod that ran. One that never ran was taken
away whatever the reason: a kubelet that refuses a pod at admission (OutOfcpu, NodeAffinity, TaintToleration, ... a growing list) does not
say anything about the scanner."""

TOO_LONG = "the scan ran longer than allowed (DeadlineExceeded)"
"""A new try would run as long again; the contract's DeadlineExceeded is that of a container."""

_IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError"}
)
_CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError"})
_NOT_JUDGED = re.compile(
    r"failed (?:calling|to call) webhook|internal error|timeout|timed out|deadline exceeded|unable to return a response"
    r"|not yet ready|too many requests|connection refused|service ?unavailable|etcdserver",
    re.IGNORECASE,
)
_JUDGED = re.compile(r"\b(?:denied|forbidden|invalid|violates)\b", re.IGNORECASE)
"""What the API server says of a pod that it has looked at and does not take, and when it could not look at it at all."""
_TAIL_CHARS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnd:
    """How a Job ended. is_success: the API's ``Complete``. reason, message: the API's words."""

    is_success: bool
    reason: str
    message: str


def scan_id_of(item: dict[str, Any]) -> ScanId | None:
    """The scan that an object of ours belongs to."""
    label: ScanId | None = (item["metadata"].get("labels") or {}).get(names.SCAN_ID_LABEL)
    return label


def job_end(job: dict[str, Any]) -> JobEnd | None:
    """How the Job ended, or None while it has not."""
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "True" and condition["type"] in ("Complete", "Failed"):
            return JobEnd(
                is_success=condition["type"] == "Complete",
                reason=condition.get("reason") or "",
                message=condition.get("message") or "",
            )
    return None


def is_finished(job: dict[str, Any]) -> bool:
    """Whether nothing of the Job runs any more."""
    return job_end(job) is not None


def exit_of_job(scan_id: ScanId, end: JobEnd) -> ScannerExit:
    """The end of a scanner server of which only the Job is known: its pod is gone."""
    if end.is_success:
        return ScannerExit(scan_id=scan_id, exit_code=0, log_tail="")
    if end.reason == "DeadlineExceeded":
        return ScannerExit(scan_id=scan_id, exit_code=None, log_tail="", cause=TOO_LONG)
    cause = f"its pod is gone ({end.reason or 'no reason given'})"
    return ScannerExit(scan_id=scan_id, exit_code=None, log_tail="", cause=cause, was_taken=True)


def deadline_of(job: dict[str, Any]) -> datetime | None:
    """When the Job has run for as long as it may, once it has started."""
    started, limit_s = (job.get("status") or {}).get("startTime"), (job.get("spec") or {}).get("activeDeadlineSeconds")
    return datetime.fromisoformat(started) + timedelta(seconds=limit_s) if started and limit_s else None


def is_ended_by(deadline: datetime | None, pod: dict[str, Any]) -> bool:
    """Whether the pod is deleted because its Job's time is up, which the Job may say later than the pod. Both by the cluster's clock."""
    going = pod["metadata"].get("deletionTimestamp")
    if deadline is None or not going:
        return False
    grace = timedelta(seconds=pod["metadata"].get("deletionGracePeriodSeconds") or 0)
    return datetime.fromisoformat(going) - grace >= deadline


def has_pod(job: dict[str, Any]) -> bool:
    """Whether the Job has, or had, a pod."""
    status = job.get("status") or {}
    return any(status.get(count) for count in ("active", "succeeded", "failed"))


def rejected_pod(scan_id: ScanId, message: str) -> ScannerStatus:
    """The cluster can't make the Job's pod; it tries again by itself. message: its words."""
    if quota.is_quota_exceeded(message) or quota.is_quota_unknown(message):
        code, what = ProblemCode.SCANNER_POD_WITHOUT_QUOTA, "Kubernetes rejected the scanner server's pod"
    elif _JUDGED.search(message) and not _NOT_JUDGED.search(message):
        code, what = ProblemCode.SCANNER_POD_REFUSED, "Kubernetes rejected the scanner server's pod"
    else:
        code, what = (
            ProblemCode.SCANNER_POD_DELAYED,
            "Kubernetes cannot create the scanner server's pod at the moment and keeps trying",
        )
    text = _words(what, None, message.removeprefix("Error creating: "))
    return ScannerStatus(scan_id=scan_id, stage=ScannerStage.PENDING, code=code, text=text)


def event_of_pod(pod: dict[str, Any]) -> ScannerExit | ScannerStatus | None:
    """What the pod's status says now, or None when it belongs to no scan."""
    scan_id = scan_id_of(pod)
    if scan_id is None:
        return None
    status = pod.get("status") or {}
    scanner, upload = _containers(status, scan_id)
    end = _end(scan_id, pod, status, scanner)
    return end if end is not None else _stage(scan_id, status, scanner, upload)


def _containers(status: dict[str, Any], scan_id: ScanId) -> tuple[dict[str, Any], dict[str, Any]]:
    """The statuses of scanner and upload, empty when there are none yet."""
    scanner = next(_named(status.get("containerStatuses"), names.scanner_container(scan_id)), {})
    upload = next(_named(status.get("initContainerStatuses"), names.upload_container(scan_id)), {})
    return scanner, upload


def _named(statuses: list[dict[str, Any]] | None, name: str) -> Iterator[dict[str, Any]]:
    return (each for each in statuses or () if each.get("name") == name)


def _end(scan_id: ScanId, pod: dict[str, Any], status: dict[str, Any], scanner: dict[str, Any]) -> ScannerExit | None:
    terminated = (scanner.get("state") or {}).get("terminated")
    disruption = _condition(status, "DisruptionTarget")
    reason, phase = status.get("reason") or "", status.get("phase")
    is_going = disruption is not None and "deletionTimestamp" in pod["metadata"]
    if ((scanner.get("state") or {}).get("waiting") or {}).get("reason") == "CrashLoopBackOff":
        return ScannerExit(
            scan_id=scan_id,
            exit_code=None,
            log_tail="",
            cause="its container keeps crashing (CrashLoopBackOff)",
            was_taken=True,
        )
    if terminated is None and phase not in ("Failed", "Succeeded") and not is_going and reason not in LOST_REASONS:
        return None
    exit_code: int | None = None if terminated is None else terminated.get("exitCode")
    why_container = "" if terminated is None else terminated.get("reason") or ""
    tail = "" if terminated is None else (terminated.get("message") or "")[-_TAIL_CHARS:]
    if exit_code == 0 and phase != "Failed":
        return ScannerExit(scan_id=scan_id, exit_code=0, log_tail="")
    if exit_code is None and phase == "Succeeded":
        return ScannerExit(scan_id=scan_id, exit_code=0, log_tail="")
    if reason in TRANSIENT_REASONS or reason in LOST_REASONS:  # says more than the disruption beside it
        cause, was_taken = _words("Kubernetes terminated its pod", reason, status.get("message")), True
    elif disruption is not None:
        cause = _words("Kubernetes evicted its pod", disruption.get("reason"), disruption.get("message"))
        was_taken = True
    elif why_container in TRANSIENT_REASONS:
        cause, was_taken = _words("it was killed", why_container, None), True
    elif exit_code in TRANSIENT_EXIT_CODES:
        cause, was_taken = f"it was killed (exit code {exit_code})", True
    elif exit_code is None:
        # no container of it ever ran: nothing of this was the scanner's doing, and a new try can meet another node
        cause, was_taken = _words("its pod failed before it ran", reason, status.get("message")), True
    else:
        cause, was_taken = _words(f"it ended with exit code {exit_code}", why_container.replace("Error", ""), None), False
    return ScannerExit(scan_id=scan_id, exit_code=exit_code, log_tail=tail, cause=cause, was_taken=was_taken)


def _stage(scan_id: ScanId, status: dict[str, Any], scanner: dict[str, Any], upload: dict[str, Any]) -> ScannerStatus:
    for container, words in ((scanner, "the scanner image"), (upload, "the uploader image")):
        waiting = (container.get("state") or {}).get("waiting") or {}
        why = waiting.get("reason") or ""
        if why in _IMAGE_REASONS:
            text = _words(f"{words} cannot be pulled", why, waiting.get("message"))
            return ScannerStatus(
                scan_id=scan_id, stage=ScannerStage.SCHEDULED, code=ProblemCode.SCANNER_IMAGE_PULL_FAILED, text=text
            )
        if why in _CONFIG_REASONS:
            text = _words("a container cannot be started", why, waiting.get("message"))
            return ScannerStatus(
                scan_id=scan_id, stage=ScannerStage.SCHEDULED, code=ProblemCode.SCANNER_CONTAINER_REFUSED, text=text
            )
    stage = ScannerStage.SCHEDULED if _is_scheduled(status) else ScannerStage.PENDING
    if "running" in (scanner.get("state") or {}):
        stage = ScannerStage.RUNNING
    unscheduled = _condition(status, "PodScheduled", "False")
    if stage == ScannerStage.PENDING and unscheduled is not None and unscheduled.get("reason") == "Unschedulable":
        text = _words("no node has room for the scanner server", None, unscheduled.get("message"))
        return ScannerStatus(scan_id=scan_id, stage=ScannerStage.PENDING, code=ProblemCode.SCANNER_UNSCHEDULABLE, text=text)
    if ((upload.get("state") or {}).get("waiting") or {}).get("reason") == "CrashLoopBackOff":
        last = (upload.get("lastState") or {}).get("terminated") or {}
        text = _words("the upload of startup.json keeps failing", last.get("reason"), None)
        return ScannerStatus(scan_id=scan_id, stage=stage, code=ProblemCode.STARTUP_UPLOAD_FAILING, text=text)
    return ScannerStatus(scan_id=scan_id, stage=stage)


def _is_scheduled(status: dict[str, Any]) -> bool:
    return _condition(status, "PodScheduled") is not None


def _condition(status: dict[str, Any], kind: str, value: str = "True") -> dict[str, Any] | None:
    for condition in status.get("conditions") or ():
        if condition["type"] == kind and condition.get("status") == value:
            found: dict[str, Any] = condition
            return found
    return None


def _words(what: str, reason: str | None, message: str | None) -> str:
    """What happened, with the API's reason and message, one bounded line."""
    text = f"{what} ({reason})" if reason else what
    return " ".join(f"{text}: {message}".split())[:500] if message else text
