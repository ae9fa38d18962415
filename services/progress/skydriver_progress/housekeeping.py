"""Loop steps, by due rows in Postgres in one replica at a time: once a day, delete old replies and blobs that no event refers to; every
few minutes, delete replies that cannot be asked for again."""

from datetime import timedelta

import structlog

from skydriver_common.clock import CLOCK
from skydriver_common.db.pool import Pool
from skydriver_common.db.schedule import DueWork, Schedule
from skydriver_common.log.housekeeping import delete_expired, delete_replies_without_key
from skydriver_common.model.events import SYSTEM_CHAIN
from skydriver_common.runtime.due_work import DueAgain, DueWorkConsumer
from skydriver_progress.due_kinds import DueKind

logger = structlog.get_logger(__name__)

_INTERVAL = timedelta(days=1)
_SHORT_REPLIES_INTERVAL = timedelta(minutes=5)


class Housekeeping:
    """Deletes old replies and blobs that no event refers to. keep: how long they stay; None: for ever."""

    def __init__(self, pool: Pool, schedule: Schedule, *, keep: timedelta | None) -> None:
        self._pool = pool
        self._schedule = schedule
        self._keep = keep
        self._is_scheduled = False
        self._due_work = DueWorkConsumer(schedule, DueKind.HOUSEKEEPING, self._clean_up)

    async def step(self) -> bool | float:
        """Delete a bounded number; the due row keeps where it stopped."""
        if self._keep is None:
            return False
        if not self._is_scheduled:
            await self._schedule.put(DueKind.HOUSEKEEPING, SYSTEM_CHAIN, after=_INTERVAL)
            self._is_scheduled = True
        return await self._due_work.step()

    async def _clean_up(self, work: DueWork) -> DueAgain:
        assert self._keep is not None
        deleted = await delete_expired(self._pool, before=CLOCK.now() - self._keep, after=str(work.note.get("after", "")))
        if deleted.replies or deleted.blobs:
            logger.info("housekeeping.done", replies=deleted.replies, blobs=deleted.blobs, bytes=deleted.bytes)
        return DueAgain(timedelta(0) if deleted.has_more else _INTERVAL, note={"after": deleted.after})


class ShortReplies:
    """Deletes replies to commands without an Idempotency-Key: each report over REST leaves one, as large as the manifest."""

    def __init__(self, pool: Pool, schedule: Schedule) -> None:
        self._pool = pool
        self._schedule = schedule
        self._is_scheduled = False
        self._due_work = DueWorkConsumer(schedule, DueKind.SHORT_REPLIES, self._delete)

    async def step(self) -> bool | float:
        """Delete a bounded number."""
        if not self._is_scheduled:
            await self._schedule.put(DueKind.SHORT_REPLIES, SYSTEM_CHAIN)
            self._is_scheduled = True
        return await self._due_work.step()

    async def _delete(self, _: DueWork) -> timedelta:
        has_more = await delete_replies_without_key(self._pool)
        return timedelta(0) if has_more else _SHORT_REPLIES_INTERVAL
