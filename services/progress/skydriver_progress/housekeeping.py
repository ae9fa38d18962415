"""Loop steps, by due rows in Postgres in one replica at a time: once a day, delete old replies and blobs that no event refers to; every
few minutes, delete replies that cannot be asked for again."""

from datetime import timedelta

import structlog

from skydriver_common.clock import CLOCK
from skydriver_common.db.pool import Pool
from skydriver_common.db.schedule import Schedule
from skydriver_common.log.housekeeping import forget_replies_without_key, tidy
from skydriver_common.model.events import SYSTEM

logger = structlog.get_logger(__name__)

HOUSEKEEPING = "progress.housekeeping"
SHORT_REPLIES = "progress.short-replies"
_INTERVAL = timedelta(days=1)
_SHORT_REPLIES_INTERVAL = timedelta(minutes=5)


class Housekeeping:
    """Deletes old replies and blobs that no event refers to. keep: how long they stay; None: for ever."""

    def __init__(self, pool: Pool, schedule: Schedule, *, keep: timedelta | None) -> None:
        self._pool = pool
        self._schedule = schedule
        self._keep = keep
        self._is_scheduled = False

    async def step(self) -> bool | float:
        """Delete a bounded number; the due row keeps where it stopped."""
        if self._keep is None:
            return False
        if not self._is_scheduled:
            await self._schedule.put(HOUSEKEEPING, SYSTEM, after=_INTERVAL)
            self._is_scheduled = True
        work = await self._schedule.claim(HOUSEKEEPING)
        if work is None:
            next_s = await self._schedule.seconds_to_next([HOUSEKEEPING])
            return False if next_s is None else max(next_s, 0.2)
        deleted = await tidy(self._pool, before=CLOCK.now() - self._keep, after=str(work.note.get("after", "")))
        if deleted.replies or deleted.blobs:
            logger.info("housekeeping.done", replies=deleted.replies, blobs=deleted.blobs, bytes=deleted.bytes)
        pause = timedelta(0) if deleted.has_more else _INTERVAL
        await self._schedule.postpone(work, pause, note={"after": deleted.after})
        return True


class ShortReplies:
    """Deletes replies to commands without an Idempotency-Key: each report over REST leaves one, as large as the manifest."""

    def __init__(self, pool: Pool, schedule: Schedule) -> None:
        self._pool = pool
        self._schedule = schedule
        self._is_scheduled = False

    async def step(self) -> bool | float:
        """Delete a bounded number."""
        if not self._is_scheduled:
            await self._schedule.put(SHORT_REPLIES, SYSTEM)
            self._is_scheduled = True
        work = await self._schedule.claim(SHORT_REPLIES)
        if work is None:
            next_s = await self._schedule.seconds_to_next([SHORT_REPLIES])
            return False if next_s is None else max(next_s, 0.2)
        has_more = await forget_replies_without_key(self._pool)
        await self._schedule.postpone(work, timedelta(0) if has_more else _SHORT_REPLIES_INTERVAL)
        return True
