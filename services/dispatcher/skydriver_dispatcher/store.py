"""The dispatcher's own statements: typed results of ``sql/dispatcher.sql``."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from skydriver_common.db.errors import database_faults
from skydriver_common.db.jsonb import jsonb_text
from skydriver_common.db.pool import Connection, Pool, load_statements
from skydriver_common.db.schedule import DueWork
from skydriver_common.model import event_codec
from skydriver_common.model.ids import ScanId
from skydriver_dispatcher.decide.reconciliation import ExpectedScan
from skydriver_dispatcher.due_kinds import DueKind

_PAGE = 200
_sql = load_statements("skydriver_dispatcher", "dispatcher.sql")

WAITS_FOR_CAPACITY = {"waits_for": "room"}
"""Note of a launch that is put off until there is capacity."""


async def digest_of_event(connection: Connection, i3_event_id: str) -> str | None:
    """The blob of a stored i3 event, or None."""
    digest: str | None = await _sql.digest_of_event(connection, i3_event_id=i3_event_id)
    return digest


async def request_holder(pool: Pool, scan_id: ScanId) -> ScanId | None:
    """The scan whose request this scan was made from, or None when the scan is unknown. Raises TryLater."""
    with database_faults():
        holder: ScanId | None = await _sql.request_holder(pool, scan_id=scan_id)
    return holder


async def load_expected(pool: Pool) -> dict[ScanId, ExpectedScan]:
    """Return the scans whose scanner server should be running, by id. Raises TryLater."""
    found: dict[ScanId, ExpectedScan] = {}
    after = ""
    while True:
        with database_faults():
            rows = [row async for row in _sql.load_expected(pool, after=after, most=_PAGE)]
        for row in rows:
            after = row["scan_id"]
            launch = event_codec.decode(row["rest"])["launch"]
            found[after] = ExpectedScan(
                scan_id=after, version=row["version"], stage=launch.get("stage", ""),
                code=(launch.get("trouble") or {}).get("code", ""),
            )  # fmt: skip
        if len(rows) < _PAGE:
            return found
        await asyncio.sleep(0)


async def find_without_queues(pool: Pool) -> list[ScanId]:
    """Return the scans that have no end although EWMS has refused or stopped their workflow. Raises TryLater."""
    found: list[ScanId] = []
    while True:
        with database_faults():
            after = found[-1] if found else ""
            rows = [row["scan_id"] async for row in _sql.find_without_queues(pool, after=after, most=_PAGE)]
        found += rows
        if len(rows) < _PAGE:
            return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarts:
    """Restarts of one scanner server. n_recent: within the given time. has_reported: it has sent progress since the last one."""

    n_recent: int
    has_reported: bool


async def count_restarts(connection: Connection, scan_id: ScanId, *, within_s: float) -> Restarts:
    """Count how often a scan's scanner server was restarted. Raises TryLater."""
    with database_faults():
        row = await _sql.count_restarts(connection, scan_id=scan_id, within_s=within_s)
    return Restarts(n_recent=row["n_recent"], has_reported=row["has_reported"])


async def find_unknown(pool: Pool, scan_ids: Iterable[ScanId]) -> set[ScanId]:
    """Return those of these scans that the database does not know. Raises TryLater."""
    with database_faults():
        return {row["scan_id"] async for row in _sql.find_unknown(pool, scan_ids=list(scan_ids))}


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchWork(DueWork):
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
    return LaunchWork(kind=DueKind.LAUNCH, **{**columns, "note": event_codec.decode(columns["note"])})


async def release_interval(pool: Pool, work: DueWork) -> None:
    """Free the place in the interval that this claim has taken, if any: no launch came of it. Raises TryLater."""
    if isinstance(work, LaunchWork) and work.interval_place is not None:
        with database_faults():
            await _sql.release_interval(pool, place=work.interval_place)


async def set_throttle_defaults(pool: Pool, *, interval_s: float, max_running: int | None) -> None:
    """Store the throttle's defaults from the settings. Raises TryLater."""
    with database_faults():
        await _sql.set_throttle_defaults(pool, interval_s=interval_s, max_running=max_running)


async def pause_launches(pool: Pool, *, for_s: float, because: str, until_capacity: bool = False) -> None:
    """Let nothing below priority 100 start for so long, with until_capacity: or until there is capacity. Raises TryLater."""
    statement = _sql.pause_until_capacity if until_capacity else _sql.pause_launches
    with database_faults():
        await statement(pool, for_s=for_s, because=because)


async def launch_holds(pool: Pool) -> dict[str, bool]:
    """Return what holds back scans that are not urgent, and whether it does now: closed, cap, pause, no-room. Raises TryLater."""
    with database_faults():
        row = await _sql.launch_holds(pool)
    return {"closed": row["closed"], "cap": row["cap"], "pause": row["pause"], "no-room": row["no_room"]}


async def release_launches(pool: Pool) -> None:
    """Let start what waits for capacity, and for nothing else: there may be some again. Raises TryLater."""
    with database_faults():
        await _sql.release_launches(pool, waiting=jsonb_text(WAITS_FOR_CAPACITY))


async def installation_id(pool: Pool) -> str:
    """Return the id of the installation that this database belongs to. Raises TryLater."""
    with database_faults():
        found: str = await _sql.installation_id(pool)
    return found


async def lead_from(pool: Pool, place: str, *, for_s: float) -> bool:
    """Record, for so long, where the installation's scans are watched; return False while that is somewhere else. Raises TryLater.

    place: namespace and instance name.
    """
    with database_faults():
        return bool(await _sql.lead_from(pool, place=place, for_s=for_s))
