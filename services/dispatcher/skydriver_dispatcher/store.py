"""The dispatcher's own questions to the database."""

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
from skydriver_common.model.stages import ScannerStage

_PAGE = 200
_sql = load_statements("skydriver_dispatcher", "dispatcher.sql")

LAUNCH = "launch"
"""Due work: one row per waiting scan. The statements of the throttle know it by this name."""
WAITS_FOR_CAPACITY = {"waits_for": "room"}
"""Note of a launch that is put off until there is room."""


async def digest_of_event(connection: Connection, i3_event_id: str) -> str | None:
    """The blob of a stored i3 event, or None."""
    digest: str | None = await _sql.digest_of_event(connection, i3_event_id=i3_event_id)
    return digest


async def request_holder(pool: Pool, scan_id: ScanId) -> ScanId | None:
    """The scan whose request this scan was made from, or None when the scan is unknown. Raises TryLater."""
    with database_faults():
        holder: ScanId | None = await _sql.request_holder(pool, scan_id=scan_id)
    return holder


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A launched scan that is neither deleted nor complete. code: of what holds its scanner server up, or empty."""

    scan_id: ScanId
    version: int
    stage: ScannerStage
    code: str


async def should_run(pool: Pool) -> dict[ScanId, Running]:
    """What should be running, by scan. Raises TryLater."""
    found: dict[ScanId, Running] = {}
    after = ""
    while True:
        with database_faults():
            rows = [row async for row in _sql.should_run(pool, after=after, most=_PAGE)]
        for row in rows:
            after = row["scan_id"]
            launch = event_codec.decode(row["rest"])["launch"]
            found[after] = Running(
                scan_id=after, version=row["version"], stage=ScannerStage(launch.get("stage", "")),
                code=(launch.get("trouble") or {}).get("code", ""),
            )  # fmt: skip
        if len(rows) < _PAGE:
            return found
        await asyncio.sleep(0)


async def without_queues(pool: Pool) -> list[ScanId]:
    """Scans that have no end though EWMS has refused or stopped their workflow. Raises TryLater."""
    found: list[ScanId] = []
    while True:
        with database_faults():
            after = found[-1] if found else ""
            rows = [row["scan_id"] async for row in _sql.without_queues(pool, after=after, most=_PAGE)]
        found += rows
        if len(rows) < _PAGE:
            return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarts:
    """n_recent: within the time that was asked for. has_reported: a progress report has come since the last one."""

    n_recent: int
    has_reported: bool


async def restarts(connection: Connection, scan_id: ScanId, *, within_s: float) -> Restarts:
    """How often a scan's scanner server was started again. Raises TryLater."""
    with database_faults():
        row = await _sql.restarts(connection, scan_id=scan_id, within_s=within_s)
    return Restarts(n_recent=row["n_recent"], has_reported=row["has_reported"])


async def unknown(pool: Pool, scan_ids: Iterable[ScanId]) -> set[ScanId]:
    """Those of these scans that the database does not know. Raises TryLater."""
    with database_faults():
        return {row["scan_id"] async for row in _sql.unknown(pool, scan_ids=list(scan_ids))}


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
    return LaunchWork(kind=LAUNCH, **{**columns, "note": event_codec.decode(columns["note"])})


async def give_back_interval(pool: Pool, work: DueWork) -> None:
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
        await _sql.release_launches(pool, waiting=jsonb_text(WAITS_FOR_CAPACITY))


async def installation_id(pool: Pool) -> str:
    """The id of the installation that this database belongs to. Raises TryLater."""
    with database_faults():
        found: str = await _sql.installation_id(pool)
    return found


async def lead_from(pool: Pool, place: str, *, for_s: float) -> bool:
    """Note down, for so long, where the installation's scans are watched; False: that is somewhere else just now. Raises TryLater."""
    with database_faults():
        return bool(await _sql.lead_from(pool, place=place, for_s=for_s))
