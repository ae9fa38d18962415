"""Due work: workers that have ended are replaced, if the installation wants that. Off unless it says so."""

from dataclasses import dataclass
from datetime import timedelta

import structlog

from skydriver_common.clock import CLOCK
from skydriver_common.db.schedule import DueWork, Schedule
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_ewms_bridge.decide import Workforce, WorkforceFold, may_replace_workers, missing_workers
from skydriver_ewms_bridge.due_kinds import DueKind
from skydriver_ewms_bridge.ports import Ewms, EwmsNotFound, OutcomeUnknown
from skydriver_ewms_bridge.usecases import UseCases
from skydriver_ewms_bridge.worker_requests import WorkerRequests

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacementPolicy:
    """is_wanted: else nothing happens. most_times: batches per scan. pause_s: after one batch before the next."""

    is_wanted: bool = False
    most_times: int = 3
    pause_s: float = 600.0


class WorkerReplacement:
    """Handler of due work `TOP_UP`, and whoever sees a workforce says so here."""

    def __init__(
        self, usecases: UseCases, schedule: Schedule, ewms: Ewms, additions: WorkerRequests, policy: ReplacementPolicy
    ) -> None:
        self._usecases = usecases
        self._schedule = schedule
        self._ewms = ewms
        self._additions = additions
        self._policy = policy

    async def seen(self, scan_id: ScanId, workforce: Workforce) -> None:
        """A live workflow's workers were counted: see to it, if some of them have ended."""
        if self._policy.is_wanted and workforce.n_over:
            await self._schedule.put(DueKind.TOP_UP, scan_id)

    async def top_up(self, work: DueWork) -> timedelta | None:
        """Count anew, and ask for what is missing."""
        scan = await self._usecases.scan(work.scan_id)
        if scan is None or scan.ewms_workflow_id is None:
            return None
        workforce = await self._count(scan.ewms_workflow_id)
        if not self._may(scan, workforce):
            return None
        directives = await self._ewms.task_directives(scan.ewms_workflow_id)
        left = self._policy.most_times - scan.ewms.n_top_ups
        for cluster, n_workers in missing_workers(scan, workforce, directives, most_batches=left):
            try:
                is_added = await self._additions.top_up(scan.scan_id, scan.ewms_workflow_id, cluster, n_workers)
            except (EwmsNotFound, OutcomeUnknown) as fault:
                logger.warning("top-up.unclear", fault=str(fault), cluster=cluster, n_workers=n_workers)
                return None
            logger.info("top-up.done" if is_added else "top-up.not-possible", cluster=cluster, n_workers=n_workers)
        return None

    async def _count(self, workflow_id: str) -> Workforce:
        fold = WorkforceFold()
        pages = self._ewms.find_taskforces([workflow_id], on_unreadable=lambda _: fold.add_unreadable())
        async for page in pages:
            for taskforce in page:
                fold.add(taskforce)
        return fold.result()

    def _may(self, scan: Scan, workforce: Workforce) -> bool:
        policy = self._policy
        now = CLOCK.now().timestamp()
        return policy.is_wanted and may_replace_workers(
            scan, workforce, most_times=policy.most_times, pause_s=policy.pause_s, now=now
        )  # fmt: skip
