"""Due work: what can go wrong without an error is checked and reported. Source: REST contract 9.5, EWMS contract 8."""

from datetime import timedelta

import structlog

from skydriver_common.db.schedule import DueWork
from skydriver_ewms_bridge.decide.scan import is_working
from skydriver_ewms_bridge.decide.workflow import startup_object_key
from skydriver_ewms_bridge.ports import ObjectStore
from skydriver_ewms_bridge.retry_policy import STARTUP_FILE_CHECK
from skydriver_ewms_bridge.usecases import UseCases

logger = structlog.get_logger(__name__)


class StartChecks:
    """Handlers of due work `STARTUP` and `TOKENS`."""

    def __init__(self, usecases: UseCases, objects: ObjectStore) -> None:
        self._usecases = usecases
        self._objects = objects

    async def startup(self, work: DueWork) -> timedelta | None:
        """Check whether `startup.json` is uploaded: without it every worker waits, and exits after half an hour."""
        scan = await self._usecases.scan(work.scan_id)
        if scan is None or not is_working(scan):
            return None
        is_there = await self._objects.exists(startup_object_key(scan.scan_id))
        await self._usecases.startup_file_seen(scan.scan_id, is_there=is_there, waited_s=work.age_s)
        if is_there:
            return None
        logger.warning("startup-file.missing", waited_s=round(work.age_s))
        return STARTUP_FILE_CHECK

    async def tokens(self, work: DueWork) -> timedelta | None:
        """Report that the queues' tokens expire soon; EWMS has no call that renews them."""
        if await self._usecases.tokens_ending(work.scan_id):
            logger.warning("queue-tokens.ending")
        return None
