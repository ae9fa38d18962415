"""Loop steps, one replica at a time by due rows in Postgres: once a day, forget old replies and blobs that nobody refers to; every
few minutes, replies that nobody can ask for."""

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
_EVERY = timedelta(days=1)
_SHORT_REPLIES_EVERY = timedelta(minutes=5)


class Housekeeping:
    """keep: how long replies and orphans stay; None: for ever."""

    def __init__(self, pool: Pool, schedule: Schedule, *, keep: timedelta | None) -> None:
        self._pool = pool
        self._schedule = schedule
        self._keep = keep
        self._is_noted = False

    async def step(self) -> bool | float:
        """One bounded piece; where it stopped is noted on the due row."""
        if self._keep is None:
            return False
        if not self._is_noted:
            await self._schedule.put(HOUSEKEEPING, SYSTEM, after=_EVERY)
            self._is_noted = True
        work = await self._schedule.claim(HOUSEKEEPING)
        if work is None:
            next_s = await self._schedule.seconds_to_next([HOUSEKEEPING])
            return False if next_s is None else max(next_s, 0.2)
        done = await tidy(self._pool, before=CLOCK.now() - self._keep, after=str(work.note.get("after", "")))
        if done.replies or done.blobs:
            logger.info("housekeeping.done", replies=done.replies, blobs=done.blobs, bytes=done.bytes)
        pause = timedelta(0) if done.has_more else _EVERY
        await self._schedule.postpone(work, pause, note={"after": done.after})
        return True


class ShortReplies:
    """Forgets replies to commands without an Idempotency-Key: each report over REST leaves one, as large as the manifest."""

    def __init__(self, pool: Pool, schedule: Schedule) -> None:
        self._pool = pool
        self._schedule = schedule
        self._is_noted = False

    async def step(self) -> bool | float:
        """One bounded piece."""
        if not self._is_noted:
            await self._schedule.put(SHORT_REPLIES, SYSTEM)
            self._is_noted = True
        work = await self._schedule.claim(SHORT_REPLIES)
        if work is None:
            next_s = await self._schedule.seconds_to_next([SHORT_REPLIES])
            return False if next_s is None else max(next_s, 0.2)
        has_more = await forget_replies_without_key(self._pool)
        await self._schedule.postpone(work, timedelta(0) if has_more else _SHORT_REPLIES_EVERY)
        return True
