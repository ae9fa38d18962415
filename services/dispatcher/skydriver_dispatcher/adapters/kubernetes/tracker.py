"""From a stream of Jobs, Pods and refusals of pods to news: only what changed, each end once, whoever tells it first."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from skydriver_common.model.ids import ScanId
from skydriver_dispatcher.pod_status import (
    TOO_LONG,
    deadline_of,
    event_of_pod,
    exit_of_job,
    has_pod,
    is_ended_by,
    job_end,
    refused_pod,
    scan_id_of,
)
from skydriver_dispatcher.ports import CapacityFreed, LauncherEvent, ScannerExit

POD_GRACE_S = 5.0
"""A Job that has failed is judged without its pod only after so long: the pod knows why, but may be told later."""
_MOST_EARLY = 10_000


class _Refusal(NamedTuple):
    """at: as the API writes it, which sorts."""

    at: str
    message: str


@dataclass(slots=True)
class _Seen:
    """One Job as far as it was told."""

    scan_id: ScanId
    is_job_known: bool = False
    has_pod: bool = False
    told: tuple[str, str] | None = None
    has_ended: bool = False
    overdue_at: float | None = None
    job_exit: ScannerExit | None = None
    deadline: datetime | None = None
    refused_at: str = ""


@dataclass(slots=True)
class Tracker:
    """Feed it every Job and Pod; ``tell`` gets the news. Bounded by the Jobs in the cluster."""

    tell: Callable[[LauncherEvent], None]
    clock: Callable[[], float] = time.monotonic
    _jobs: dict[str, _Seen] = field(default_factory=dict)
    _refused_early: dict[str, _Refusal] = field(default_factory=dict)

    def saw_job(self, job: dict[str, Any], *, is_gone: bool = False) -> None:
        """A Job was listed, made, changed or (is_gone) deleted."""
        scan_id, uid = scan_id_of(job), str(job["metadata"]["uid"])
        if scan_id is None:
            return
        seen = self._jobs.setdefault(uid, _Seen(scan_id))
        seen.is_job_known, seen.has_pod, seen.deadline = True, has_pod(job), deadline_of(job)
        end = job_end(job)
        if end is not None and not seen.has_ended and seen.overdue_at is None:
            seen.overdue_at, seen.job_exit = self.clock() + POD_GRACE_S, exit_of_job(scan_id, end)
            self.tell(CapacityFreed())  # for another pod
            if end.is_success:
                self._end(seen, seen.job_exit)
        if uid in self._refused_early:
            self._tell_refused(seen, self._refused_early.pop(uid))
        if is_gone or "deletionTimestamp" in job["metadata"]:
            self._gone(uid, forget=is_gone)

    def saw_pod(self, pod: dict[str, Any], *, is_gone: bool = False) -> None:
        """A pod was listed, made, changed or (is_gone) deleted. Without an end of its own, its Job will tell what that means."""
        news = event_of_pod(pod)
        owner = next((each["uid"] for each in pod["metadata"].get("ownerReferences") or () if each["kind"] == "Job"), None)
        if news is None or owner is None:
            return
        seen = self._jobs.setdefault(owner, _Seen(news.scan_id))
        if is_gone and not seen.is_job_known:
            del self._jobs[owner]  # its Job was gone before we looked
            return
        if seen.has_ended:
            return
        if isinstance(news, ScannerExit):
            if news.was_taken and is_ended_by(seen.deadline, pod):
                news = replace(news, cause=TOO_LONG, was_taken=False)
            self._end(seen, news)
        elif seen.told != (news.stage, news.code):
            seen.told = (news.stage, news.code)
            self.tell(news)

    def saw_refusal(self, event: dict[str, Any], *, is_gone: bool = False) -> None:
        """The cluster said that it can't make a Job's pod. Such words stay for an hour (is_gone: are forgotten), whatever has become
        of the Job, and come in any order: the newest counts."""
        uid, message = event["involvedObject"].get("uid", ""), event.get("message") or ""
        refusal = _Refusal(event.get("lastTimestamp") or event.get("eventTime") or "", message)
        seen = self._jobs.get(uid)
        if is_gone:
            self._refused_early.pop(uid, None)
        elif seen is not None and seen.is_job_known:
            self._tell_refused(seen, refusal)
        elif len(self._refused_early) < _MOST_EARLY:
            self._refused_early[uid] = max(refusal, self._refused_early.get(uid, refusal))

    def _tell_refused(self, seen: _Seen, refusal: _Refusal) -> None:
        if not refusal.message or refusal.at < seen.refused_at or seen.has_pod or seen.has_ended:
            return
        if seen.told is not None and not seen.refused_at:
            return  # a pod was seen
        seen.refused_at = refusal.at
        news = refused_pod(seen.scan_id, refusal.message)
        if seen.told != (news.stage, news.code):
            seen.told = (news.stage, news.code)
            self.tell(news)

    def listed(self, kind: str, uids: set[str]) -> None:
        """All of this kind was listed, and these are all there are: every other Job is gone."""
        if kind == "jobs":
            # not those of which only a pod was seen: their Job may be younger than the list
            for uid in [uid for uid, seen in self._jobs.items() if seen.is_job_known and uid not in uids]:
                self._gone(uid, forget=True)

    def tell_overdue(self) -> None:
        """Judge the failed Jobs whose pods were not heard of in time."""
        now = self.clock()
        for seen in self._jobs.values():
            if seen.overdue_at is not None and not seen.has_ended and now >= seen.overdue_at and seen.job_exit is not None:
                self._end(seen, seen.job_exit)

    def _end(self, seen: _Seen, ended: ScannerExit) -> None:
        seen.has_ended = True
        self.tell(ended)

    def _gone(self, uid: str, *, forget: bool) -> None:
        seen = self._jobs[uid]
        if not seen.has_ended:
            cause = "its Job was deleted by somebody else"
            known = seen.job_exit
            self._end(
                seen, known or ScannerExit(scan_id=seen.scan_id, exit_code=None, log_tail="", cause=cause, was_taken=True)
            )
        if forget:
            del self._jobs[uid]
            self.tell(CapacityFreed())  # for another Job
