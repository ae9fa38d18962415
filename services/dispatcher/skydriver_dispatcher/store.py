"""The dispatcher's own questions to the database."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from skydriver_common.db.jsonb import jsonb_text
from skydriver_common.db.pool import Connection, Pool, load_statements
from skydriver_common.db.schedule import Work
from skydriver_common.db.translate import database_faults
from skydriver_common.model import wire

_sql = load_statements("skydriver_dispatcher", "dispatcher.sql")

LAUNCH = "launch"
"""Due work: one row per waiting scan. The statements of the throttle know it by this name."""
FOR_ROOM = {"waits_for": "room"}
"""Note of a launch that is put off until there is room."""


async def digest_of_event(connection: Connection, i3_event_id: str) -> str | None:
    """The blob of a stored i3 event, or None."""
    digest: str | None = await _sql.digest_of_event(connection, i3_event_id=i3_event_id)
    return digest


async def request_holder(pool: Pool, scan_id: str) -> str | None:
    """The scan whose request this scan was made from, or None when the scan is unknown. Raises TryLater."""
    with database_faults():
        holder: str | None = await _sql.request_holder(pool, scan_id=scan_id)
    return holder


async def should_run(pool: Pool) -> set[str]:
    """Ids of launched scans that are neither deleted nor complete. Raises TryLater."""
    with database_faults():
        return {row["scan_id"] async for row in _sql.should_run(pool)}


async def starting(pool: Pool) -> list[str]:
    """Scans whose scanner server has its place and has not started, the oldest 500. Raises TryLater."""
    with database_faults():
        return [row["scan_id"] async for row in _sql.starting(pool)]


async def unknown(pool: Pool, scan_ids: Iterable[str]) -> set[str]:
    """Those of these scans that the database does not know. Raises TryLater."""
    with database_faults():
        return {row["scan_id"] async for row in _sql.unknown(pool, scan_ids=list(scan_ids))}


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchWork(Work):
    """A claimed launch. interval_place: the place in the throttle's interval that it has taken, None: it needed none."""

    interval_place: datetime | None = None


async def claim_launch(pool: Pool, *, holder: str, lease: timedelta) -> LaunchWork | float | None:
    """Lease the scan that may start now; else the seconds after which to ask again, None: when something changes.

    Urgent scans (REST contract 8.5) come first and at once, the others by priority and waiting time, as the throttle allows.
    Raises TryLater.
    """
    with database_faults():
        row = await _sql.claim_launch(pool, holder=holder, lease_s=lease.total_seconds())
    columns = dict(row)
    wait_s: float | None = columns.pop("wait_s")
    if columns["scan_id"] is None:
        return wait_s
    return LaunchWork(kind=LAUNCH, **{**columns, "note": wire.decode(columns["note"])})


async def give_back_interval(pool: Pool, work: Work) -> None:
    """No launch came of this claim: the place in the interval that it has taken, if any, is free at once. Raises TryLater."""
    if isinstance(work, LaunchWork) and work.interval_place is not None:
        with database_faults():
            await _sql.give_back_interval(pool, place=work.interval_place)


async def set_throttle_defaults(pool: Pool, *, interval_s: float, max_running: int | None) -> None:
    """Note what the settings say of the throttle. Raises TryLater."""
    with database_faults():
        await _sql.set_throttle_defaults(pool, interval_s=interval_s, max_running=max_running)


async def hold_launches(pool: Pool, *, for_s: float, because: str, for_room: bool = False) -> None:
    """Let nothing below priority 100 start for so long, with for_room: or until there is room. Raises TryLater."""
    statement = _sql.hold_for_room if for_room else _sql.hold_launches
    with database_faults():
        await statement(pool, for_s=for_s, because=because)


async def release_launches(pool: Pool) -> None:
    """There may be room again: what waits for it, and for nothing else, may start. Raises TryLater."""
    with database_faults():
        await _sql.release_launches(pool, waiting=jsonb_text(FOR_ROOM))
