"""From a stream of Jobs, Pods and rejected pods to events: only what changed, each exit once, whichever object shows it first."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from skydriver_common.model.ids import ScanId
from skydriver_dispatcher.launcher_events import CapacityFreed, LauncherEvent, ScannerExit
from skydriver_dispatcher.pod_status import (
    TOO_LONG,
    deadline_of,
    event_of_pod,
    exit_of_job,
    has_pod,
    is_ended_by,
    job_end,
    rejected_pod,
    scan_id_of,
)

POD_GRACE_S = 5.0
"""A Job that has failed is judged without its pod only after so long: the pod knows why, but may be observed later."""
_MAX_EARLY_REJECTIONS = 10_000


class _Rejection(NamedTuple):
    """The pod of a Job was rejected. at: as the API writes it, which sorts."""

    at: str
    message: str


@dataclass(slots=True)
class _TrackedJob:
    """What was emitted of one Job, and what is needed for the next event. emitted: stage and code of the last status."""

    scan_id: ScanId
    is_job_known: bool = False
    has_pod: bool = False
    emitted: tuple[str, str] | None = None
    has_ended: bool = False
    overdue_at: float | None = None
    job_exit: ScannerExit | None = None
    deadline: datetime | None = None
    rejected_at: str = ""


@dataclass(slots=True)
class Tracker:
    """Feed it every Job and Pod; ``emit`` gets the events. Its size is bounded by the number of Jobs of the installation."""

    emit: Callable[[LauncherEvent], None]
    clock: Callable[[], float] = time.monotonic
    _jobs: dict[str, _TrackedJob] = field(default_factory=dict)
    _early_rejections: dict[str, _Rejection] = field(default_factory=dict)

    def observe_job(self, job: dict[str, Any], *, is_gone: bool = False) -> None:
        """Take in a Job that was listed, created, changed or (is_gone) deleted."""
        scan_id, uid = scan_id_of(job), str(job["metadata"]["uid"])
        if scan_id is None:
            return
        tracked = self._jobs.setdefault(uid, _TrackedJob(scan_id))
        tracked.is_job_known, tracked.has_pod, tracked.deadline = True, has_pod(job), deadline_of(job)
        end = job_end(job)
        if end is not None and not tracked.has_ended and tracked.overdue_at is None:
            tracked.overdue_at, tracked.job_exit = self.clock() + POD_GRACE_S, exit_of_job(scan_id, end)
            self.emit(CapacityFreed())  # for another pod
            if end.is_success:
                self._end(tracked, tracked.job_exit)
        if uid in self._early_rejections:
            self._emit_rejection(tracked, self._early_rejections.pop(uid))
        if is_gone or "deletionTimestamp" in job["metadata"]:
            self._gone(uid, forget=is_gone)

    def observe_pod(self, pod: dict[str, Any], *, is_gone: bool = False) -> None:
        """Take in a pod that was listed, created, changed or (is_gone) deleted.

        What it means when it has no exit of its own, its Job will show.
        """
        event = event_of_pod(pod)
        owner = next((each["uid"] for each in pod["metadata"].get("ownerReferences") or () if each["kind"] == "Job"), None)
        if event is None or owner is None:
            return
        tracked = self._jobs.setdefault(owner, _TrackedJob(event.scan_id))
        if is_gone and not tracked.is_job_known:
            del self._jobs[owner]  # its Job was deleted before we looked
            return
        if tracked.has_ended:
            return
        if isinstance(event, ScannerExit):
            if event.was_taken and is_ended_by(tracked.deadline, pod):
                event = replace(event, cause=TOO_LONG, was_taken=False)
            self._end(tracked, event)
        elif tracked.emitted != (event.stage, event.code):
            tracked.emitted = (event.stage, event.code)
            self.emit(event)

    def observe_rejection(self, event: dict[str, Any], *, is_gone: bool = False) -> None:
        """Take in an Event that says that a Job's pod cannot be created.

        Kubernetes keeps such Events for an hour (is_gone: deleted), whatever has become of the Job, and sends them in any order: the
        newest counts.
        """
        uid, message = event["involvedObject"].get("uid", ""), event.get("message") or ""
        rejection = _Rejection(event.get("lastTimestamp") or event.get("eventTime") or "", message)
        tracked = self._jobs.get(uid)
        if is_gone:
            self._early_rejections.pop(uid, None)
        elif tracked is not None and tracked.is_job_known:
            self._emit_rejection(tracked, rejection)
        elif len(self._early_rejections) < _MAX_EARLY_REJECTIONS:
            self._early_rejections[uid] = max(rejection, self._early_rejections.get(uid, rejection))

    def _emit_rejection(self, tracked: _TrackedJob, rejection: _Rejection) -> None:
        if not rejection.message or rejection.at < tracked.rejected_at or tracked.has_pod or tracked.has_ended:
            return
        if tracked.emitted is not None and not tracked.rejected_at:
            return  # a pod was observed
        tracked.rejected_at = rejection.at
        event = rejected_pod(tracked.scan_id, rejection.message)
        if tracked.emitted != (event.stage, event.code):
            tracked.emitted = (event.stage, event.code)
            self.emit(event)

    def observe_list(self, kind: str, uids: set[str]) -> None:
        """Take in a complete list of this kind: every other Job is gone."""
        if kind == "jobs":
            # not those of which only a pod was observed: their Job may be younger than the list
            for uid in [uid for uid, tracked in self._jobs.items() if tracked.is_job_known and uid not in uids]:
                self._gone(uid, forget=True)

    def emit_overdue(self) -> None:
        """Emit the exits of failed Jobs whose pods were not observed in time."""
        now = self.clock()
        for tracked in self._jobs.values():
            if (
                tracked.overdue_at is not None
                and not tracked.has_ended
                and now >= tracked.overdue_at
                and tracked.job_exit is not None
            ):
                self._end(tracked, tracked.job_exit)

    def _end(self, tracked: _TrackedJob, ended: ScannerExit) -> None:
        tracked.has_ended = True
        self.emit(ended)

    def _gone(self, uid: str, *, forget: bool) -> None:
        tracked = self._jobs[uid]
        if not tracked.has_ended:
            cause = "its Job was deleted by someone else"
            known = tracked.job_exit
            self._end(
                tracked, known or ScannerExit(scan_id=tracked.scan_id, exit_code=None, log_tail="", cause=cause, was_taken=True)
            )
        if forget:
            del self._jobs[uid]
            self.emit(CapacityFreed())  # for another Job
