"""Stores a scan's taskforces, all fields untouched, for the gateway. Source: REST contract 4.17."""

import asyncio

import structlog
import zstandard

from skydriver_common.clock import CLOCK
from skydriver_common.db.pool import Pool
from skydriver_common.faults import TryLater
from skydriver_common.model import event_codec
from skydriver_common.model.commands import RefreshTaskforces
from skydriver_common.model.rejections import Reply, scan_not_found
from skydriver_ewms_bridge import store
from skydriver_ewms_bridge.ports import Ewms, EwmsFault
from skydriver_ewms_bridge.retry_policy import TASKFORCES_FRESH, TASKFORCES_TIMEOUT_S
from skydriver_ewms_bridge.usecases import UseCases

logger = structlog.get_logger(__name__)


class Taskforces:
    """Handler of the command."""

    def __init__(self, pool: Pool, usecases: UseCases, ewms: Ewms) -> None:
        self._pool = pool
        self._usecases = usecases
        self._ewms = ewms

    async def refresh(self, command: RefreshTaskforces) -> Reply:
        """Fetch them unless they are fresh. When EWMS does not respond, those fetched before stay. Replies ``{}``."""
        scan = await self._usecases.scan(command.scan_id)
        if scan is None:
            return Reply.refused(scan_not_found(command.scan_id))
        kept = await store.kept_taskforces(self._pool, command.scan_id)
        if not scan.has_workflow or (kept is not None and CLOCK.now() - kept[0] < TASKFORCES_FRESH):
            return Reply()
        assert scan.ewms_workflow_id is not None
        try:
            async with asyncio.timeout(TASKFORCES_TIMEOUT_S):
                pages = [page async for page in self._ewms.raw_taskforces(scan.ewms_workflow_id)]
        except (TryLater, EwmsFault, TimeoutError) as fault:
            logger.warning("taskforces.not-fetched", scan_id=command.scan_id, fault=str(fault))
            return Reply()
        body = event_codec.encode({"taskforces": [taskforce for page in pages for taskforce in page]})
        packed = await asyncio.to_thread(zstandard.ZstdCompressor(level=3).compress, body)
        await store.keep_taskforces(self._pool, command.scan_id, packed, now=CLOCK.now())
        return Reply()
