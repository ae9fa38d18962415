"""The circuit breaker before EWMS, one for all replicas: after some failures in a row it opens for a while, then one replica probes.

Every call goes through `call`. While the circuit is open, a call fails at once and due work is not even claimed (`open_for_s`), so
that nothing piles up in front of EWMS and nothing uses up its tries. One replica at a time probes (`probe`); when EWMS responds, all
replicas are woken, and a limiter lets the most urgent calls through first. Every method may raise TryLater (the database).
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime

import structlog

from skydriver_common.db.errors import database_faults
from skydriver_common.db.notifier import DUE_CHANNEL, Notifier
from skydriver_common.db.pool import Pool, load_statements
from skydriver_common.faults import Fault, TryLater
from skydriver_ewms_bridge.ports import OutcomeUnknown
from skydriver_ewms_bridge.priority_limiter import PriorityLimiter
from skydriver_ewms_bridge.retry_policy import CIRCUIT_FIRST_PAUSE_S, CIRCUIT_MIN_PAUSE_S, PROBE_LEASE, RECOVERY

_sql = load_statements("skydriver_ewms_bridge", "breaker.sql")
logger = structlog.get_logger(__name__)

THRESHOLD = 3
"""So many calls without a response in a row, of all replicas together, mean that EWMS is unavailable."""
MAX_CONCURRENT_CALLS = 8
"""Calls to EWMS at a time per replica."""
PROBE = "ewms-probe"
"""No due row: the name under which the loop that probes is woken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """How EWMS was found last. open_until: the circuit is open until then; None: it is closed. failures, openings: in a row.

    remaining_open_s: until open_until; recovered_ago_s: since a probe succeeded, both by the database's clock.
    """

    failures: int
    openings: int
    since: datetime
    open_until: datetime | None
    remaining_open_s: float | None
    recovered_ago_s: float | None


@contextmanager
def _suppress_bookkeeping_faults() -> Iterator[None]:
    """An unavailable database must not look like "EWMS has done nothing": that would let a workflow be made twice."""
    try:
        yield
    except TryLater as fault:
        logger.warning("ewms.outcome-not-recorded", what=fault.what)


class Breaker:
    """The port `Guard`. longest_pause_s: between two probes (a longer Retry-After of EWMS is honoured)."""

    def __init__(self, pool: Pool, notifier: Notifier, *, longest_pause_s: float = 60.0) -> None:
        self._pool = pool
        self._notifier = notifier
        self._longest_pause_s = longest_pause_s
        self._limiter = PriorityLimiter(MAX_CONCURRENT_CALLS)

    async def outage(self) -> Outage | None:
        """Return what is known of EWMS; None: it has never failed."""
        with database_faults():
            row = await _sql.outage(self._pool)
        return None if row is None else Outage(**dict(row))

    async def beat(self) -> None:
        """Record that the bridge works, for those who wait for what it does."""
        with database_faults():
            await _sql.beat(self._pool)

    async def open_for_s(self) -> float:
        """Return for how many seconds the circuit is still open, 0.0: it is closed."""
        outage = await self.outage()
        if outage is None or outage.remaining_open_s is None:
            return 0.0
        return max(CIRCUIT_MIN_PAUSE_S, outage.remaining_open_s)

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Around one call to EWMS. Raises TryLater without the call while the circuit is open."""
        await self._check_closed()
        async with self._limiter.passing() as has_waited:
            if has_waited:
                await self._check_closed()  # much may have happened meanwhile
            try:
                yield
            except (TryLater, OutcomeUnknown) as fault:
                with _suppress_bookkeeping_faults():
                    await self._failed(fault)
                raise
            except Fault:
                with _suppress_bookkeeping_faults():
                    await self._answered()  # a rejection: EWMS is available
                raise
            with _suppress_bookkeeping_faults():
                await self._answered()

    async def probe(self, ping: Callable[[], Awaitable[None]]) -> bool | float:
        """Loop step: when the pause is over, probe whether EWMS is available. ping: one call past this breaker."""
        remaining_open_s = await self.open_for_s()
        if not remaining_open_s:
            return False
        if remaining_open_s > CIRCUIT_MIN_PAUSE_S:
            return remaining_open_s
        with database_faults():
            is_mine = await _sql.claim_probe(self._pool, hold_s=PROBE_LEASE.total_seconds())
        if not is_mine:
            return CIRCUIT_MIN_PAUSE_S  # another replica's turn, or not quite time yet
        try:
            await ping()
        except TryLater as fault:
            with database_faults():
                until = await _sql.probe_failed(self._pool, **self._pause(fault))
            logger.warning("ewms.probe-failed", what=fault.what, probed_again_at=until.isoformat())
            return True
        with database_faults():
            await _sql.probe_answered(self._pool, failures=THRESHOLD - 1)
        logger.info("ewms.breaker-closed")
        self._notifier.notify(DUE_CHANNEL, "")  # all kinds of work, all replicas
        return False

    async def _check_closed(self) -> None:
        outage = await self.outage()
        if outage is None:
            return
        if outage.remaining_open_s is not None:
            raise TryLater("EWMS is unavailable (circuit breaker open)", max(CIRCUIT_MIN_PAUSE_S, outage.remaining_open_s))
        ago_s = outage.recovered_ago_s
        self._limiter.narrow(None if ago_s is None or ago_s > RECOVERY.total_seconds() else ago_s)

    async def _failed(self, fault: TryLater | OutcomeUnknown) -> None:
        with database_faults():
            until = await _sql.failed(self._pool, threshold=THRESHOLD, **self._pause(fault))
        if until is not None:
            logger.warning("ewms.breaker-opened", what=str(fault), probed_again_at=until.isoformat())
            self._notifier.notify(DUE_CHANNEL, PROBE)

    async def _answered(self) -> None:
        # always: what was known before the call does not tell whether calls beside it have failed meanwhile
        with database_faults():
            await _sql.answered(self._pool)

    def _pause(self, fault: Fault) -> dict[str, object]:
        return {
            "first_s": CIRCUIT_FIRST_PAUSE_S, "cap_s": self._longest_pause_s,
            "jitter": random.uniform(0.5, 1.0),  # noqa: S311  (no secret)
            "at_least_s": fault.after_s if isinstance(fault, TryLater) else 0.0,
        }  # fmt: skip
