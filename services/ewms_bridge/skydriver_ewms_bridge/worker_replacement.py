"""Due work: workers that have ended are replaced, if the installation wants that. Off unless it says so."""

from datetime import timedelta

import structlog

from skydriver_common.clock import CLOCK
from skydriver_common.db.schedule import DueWork, Schedule
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.decide.worker_replacement import (
    ReplacementPolicy,
    may_need_replacement,
    may_replace_workers,
    missing_workers,
)
from skydriver_ewms_bridge.decide.workforce import Workforce, WorkforceFold
from skydriver_ewms_bridge.due_kinds import DueKind
from skydriver_ewms_bridge.ports import Ewms, EwmsNotFound, OutcomeUnknown
from skydriver_ewms_bridge.usecases import UseCases
from skydriver_ewms_bridge.worker_requests import WorkerRequests

logger = structlog.get_logger(__name__)


class WorkerReplacement:
    """Handler of due work `REPLACEMENT`; the loop that counts workers notes here what it has seen."""

    def __init__(
        self, usecases: UseCases, schedule: Schedule, ewms: Ewms, additions: WorkerRequests, policy: ReplacementPolicy
    ) -> None:
        self._usecases = usecases
        self._schedule = schedule
        self._ewms = ewms
        self._additions = additions
        self._policy = policy

    async def seen(self, scan_id: ScanId, workforce: Workforce) -> None:
        """Note that a live workflow's workers were counted: some may have to be replaced."""
        if may_need_replacement(workforce, self._policy):
            await self._schedule.put(DueKind.REPLACEMENT, scan_id)

    async def replace(self, work: DueWork) -> timedelta | None:
        """Count again, and ask for what is missing."""
        scan = await self._usecases.scan(work.scan_id)
        if scan is None or scan.ewms_workflow_id is None:
            return None
        workforce = await self._count(scan.ewms_workflow_id)
        if not may_replace_workers(scan, workforce, self._policy, now=CLOCK.now().timestamp()):
            return None
        directives = await self._ewms.task_directives(scan.ewms_workflow_id)
        for cluster, n_workers in missing_workers(scan, workforce, directives, self._policy):
            try:
                is_added = await self._additions.replace_workers(scan.scan_id, scan.ewms_workflow_id, cluster, n_workers)
            except (EwmsNotFound, OutcomeUnknown) as fault:
                logger.warning("top-up.outcome-unknown", fault=str(fault), cluster=cluster, n_workers=n_workers)
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
