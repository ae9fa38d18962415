"""How fast scans below priority 100 are launched: read and changed while the system runs; dispatchers look at each launch."""

from dataclasses import dataclass
from datetime import UTC, datetime

from skydriver_common.db.pool import Connection, load_statements

_sql = load_statements("skydriver_ops.db", "throttle.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """What holds now. max_running None: no limit. is_…_set: at run time, else it is the dispatchers' settings' value.

    waiting, waiting_urgent: scans below priority 100, and from it on. held_until: nothing below starts before, for this reason.
    """

    interval_s: float
    max_running: int | None
    is_interval_set: bool
    is_max_running_set: bool
    default_interval_s: float
    default_max_running: int | None
    next_at: datetime | None
    held_until: datetime | None
    held_because: str
    changed_at: datetime | None
    changed_by: str
    running: int
    waiting: int
    waiting_urgent: int

    @property
    def is_held(self) -> bool:
        """Whether the cluster had no room, or did not answer, a moment ago."""
        return self.held_until is not None and self.held_until > datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What to set; None with is_…_given: back to the settings' value."""

    interval_s: float | None = None
    max_running: int | None = None
    is_interval_given: bool = False
    is_max_running_given: bool = False


async def read_throttle(connection: Connection) -> Throttle:
    """The throttle as it is. Raises what the driver raises."""
    row = await _sql.read_throttle(connection)
    return Throttle(**dict(row))


async def set_throttle(connection: Connection, change: Change, *, by: str) -> None:
    """Change it for all dispatchers at once. Raises what the driver raises."""
    await _sql.set_throttle(
        connection, interval_s=change.interval_s, max_running=change.max_running, is_interval_given=change.is_interval_given,
        is_max_running_given=change.is_max_running_given, changed_by=by,
    )  # fmt: skip
