"""Loop step: work that the state of a scan calls for, and that is not noted as due, is noted again.

The delivery of an event or a row of due work may get lost: a message that was discarded, a bug, a restored database. So nothing
depends on a single one of them. Work that is noted twice is done once, because each handler looks at the state first.

Every replica takes this step once a minute: it reads some rows and rarely writes any.
"""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import structlog

from skydriver_common.clock import CLOCK
from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Pool, load_statements
from skydriver_common.db.schedule import NOW, Schedule
from skydriver_common.log.stored_state import scan_of_row
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge import store
from skydriver_ewms_bridge.decide.reconciliation import missing_work
from skydriver_ewms_bridge.decide.scan import is_working
from skydriver_ewms_bridge.due_kinds import DueKind
from skydriver_ewms_bridge.usecases import UseCases

_sql = load_statements("skydriver_ewms_bridge", "reconciliation.sql")
logger = structlog.get_logger(__name__)

RECONCILE = "ewms-reconcile"
"""The name of the loop."""
PAGE = 200
"""Rows of one query. Of all running scans, which nearly always have what they need, each step looks at one page."""

Query = Callable[..., AsyncIterator[Any]]


class Reconciliation:
    """The loop `RECONCILE`. unclear_wait: after it a request without a response does not take effect any more."""

    def __init__(self, pool: Pool, usecases: UseCases, schedule: Schedule, *, unclear_wait: timedelta) -> None:
        self._pool = pool
        self._usecases = usecases
        self._schedule = schedule
        self._unclear_wait = unclear_wait
        self._running_after = ""

    async def step(self) -> bool:
        """Look once: at all scans that lack a workflow, all workflows that lack a scan, and some running scans. Raises TryLater."""
        for query in (_sql.without_workflow, _sql.over_with_workflow):
            after: str | None = ""
            while after is not None:
                after = await self._page(partial(query, after=after))
        self._running_after = await self._page(partial(_sql.running, after=self._running_after)) or ""
        await self._own_records()
        return False

    async def _page(self, query: Query) -> str | None:
        """Note what is missing for the scans of one page. The id of its last scan; None when there are no more."""
        with database_faults():
            rows = [row async for row in query(self._pool, most=PAGE)]
        for row in rows:
            scan = scan_of_row(row)
            for kind in missing_work(scan, frozenset(row["kinds"])):
                logger.info("reconciliation.work-missing", scan_id=scan.scan_id, kind=kind)
                await self._usecases.note_again(scan, kind)
            if is_working(scan) and not row["is_watched"]:
                assert scan.ewms_workflow_id is not None
                logger.info("reconciliation.watch-missing", scan_id=scan.scan_id)
                await store.watch_again(self._pool, scan.scan_id, scan.ewms_workflow_id, now=CLOCK.now())
        last: str | None = rows[-1]["scan_id"] if len(rows) == PAGE else None
        return last

    async def _own_records(self) -> None:
        """Note work for requests of the bridge whose outcome is open, and for stopped workflows that are still watched."""
        with database_faults():
            stopped = [row["scan_id"] async for row in _sql.stopped_and_watched(self._pool, most=PAGE)]
            unclear = [row["scan_id"] async for row in _sql.unclear_additions(self._pool, most=PAGE)]
            attempts = [row async for row in _sql.open_attempts(self._pool, most=PAGE)]
        for scan_id in stopped:
            await self._put(DueKind.STOP_VERIFICATION, scan_id)
        for scan_id in unclear:
            await self._put(DueKind.ADDITIONS, scan_id)
        for row in attempts:
            is_clear_at = row["attempted_at"] + self._unclear_wait
            await self._put(DueKind.DUPLICATES, row["scan_id"], after=is_clear_at - CLOCK.now())

    async def _put(self, kind: str, scan_id: ScanId, *, after: timedelta = NOW) -> None:
        logger.info("reconciliation.work-missing", scan_id=scan_id, kind=kind)
        await self._schedule.put(kind, scan_id, after=after)
