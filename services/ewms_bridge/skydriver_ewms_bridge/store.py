"""The bridge's memory of what it has asked EWMS, on disk before it is asked. Every method may raise TryLater."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Connection, Pool, load_statements
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.records import Addition, Attempt, Watched

_sql = load_statements("skydriver_ewms_bridge", "store.sql")


async def begin_attempt(pool: Pool, scan_id: ScanId, *, unclear_wait: timedelta) -> datetime | None:
    """Note that a workflow is asked for now, and when. None while an earlier request, of any replica, may still come true."""
    with database_faults():
        attempted_at: datetime | None = await _sql.begin_attempt(
            pool, scan_id=scan_id, unclear_wait_s=unclear_wait.total_seconds()
        )
    return attempted_at


async def attempt(pool: Pool, scan_id: ScanId, *, unclear_wait: timedelta) -> Attempt | None:
    """The open request for a workflow, if any."""
    with database_faults():
        row = await _sql.attempt(pool, scan_id=scan_id, unclear_wait_s=unclear_wait.total_seconds())
    return None if row is None else Attempt(**dict(row))


async def lengthen_attempt(pool: Pool, scan_id: ScanId, attempted_at: datetime, *, longer_s: float) -> None:
    """This request may come true so much later than others."""
    with database_faults():
        await _sql.lengthen_attempt(pool, scan_id=scan_id, attempted_at=attempted_at, longer_s=longer_s)


async def withdraw_attempt(pool: Pool, scan_id: ScanId, attempted_at: datetime, earlier: Attempt | None) -> None:
    """This request has surely made nothing. earlier: the last one before it, which may have."""
    with database_faults():
        if earlier is None:
            await _sql.forget_attempt(pool, scan_id=scan_id, attempted_at=attempted_at)
        else:
            await _sql.withdraw_attempt(
                pool, scan_id=scan_id, attempted_at=attempted_at, earlier_at=earlier.attempted_at, longer_s=earlier.longer_s
            )  # fmt: skip


async def forget_attempt(pool: Pool | Connection, scan_id: ScanId, attempted_at: datetime) -> None:
    """The outcome of this request is known; one made since is kept."""
    with database_faults():
        await _sql.forget_attempt(pool, scan_id=scan_id, attempted_at=attempted_at)


async def watch(connection: Connection, scan_id: ScanId, workflow_id: str, *, now: datetime) -> None:
    """Ask for this workflow's workers from now on; part of the caller's transaction."""
    await _sql.watch(connection, scan_id=scan_id, workflow_id=workflow_id, now=now)


async def watch_again(pool: Pool, scan_id: ScanId, workflow_id: str, *, now: datetime) -> None:
    """The same for a live workflow that nobody watches."""
    with database_faults():
        await _sql.watch(pool, scan_id=scan_id, workflow_id=workflow_id, now=now)


async def unwatch(connection: Connection, scan_id: ScanId, workflow_id: str, *, now: datetime) -> None:
    """Ask no more; part of the caller's transaction."""
    await _sql.unwatch(connection, scan_id=scan_id, workflow_id=workflow_id, now=now)


async def oldest_knowledge_s(pool: Pool) -> float:
    """Return how old the oldest worker count is of those that are refreshed, 0.0: there is none. Raises TryLater."""
    with database_faults():
        return float(await _sql.oldest_knowledge_s(pool))


async def claim_watched(pool: Pool, *, ahead: timedelta, hold: timedelta, most: int) -> list[Watched]:
    """Take the workflows that are due, and with them those due within `ahead`; for `hold` no other replica takes them."""
    with database_faults():
        rows = _sql.claim_watched(pool, ahead_s=ahead.total_seconds(), hold_s=hold.total_seconds(), most=most)
        return [Watched(**dict(row)) async for row in rows]


async def note_viewers(pool: Pool, scan_ids: Collection[ScanId], *, until: datetime, soon: datetime) -> bool:
    """Note that somebody views these scans: ask for their workers by `soon`. False when that was known, or their workers are over."""
    with database_faults():
        return bool(await _sql.note_viewers(pool, scan_ids=list(scan_ids), until=until, soon=soon))


async def refreshed(pool: Pool, refreshes: Sequence[tuple[ScanId, str, datetime]], *, now: datetime) -> None:
    """Note (scan id, digest, when to ask again) of workflows that were asked for."""
    ids, digests, ats = ([t[i] for t in refreshes] for i in range(3))
    with database_faults():
        await _sql.refreshed(pool, scan_ids=ids, digests=digests, refresh_ats=ats, now=now)


async def release_watched(pool: Pool, scan_ids: Sequence[ScanId], *, refresh_at: datetime) -> None:
    """Give back workflows that could not be asked for."""
    with database_faults():
        await _sql.release_watched(pool, scan_ids=list(scan_ids), refresh_at=refresh_at)


async def hasten_watched(pool: Pool, scan_id: ScanId, *, now: datetime) -> None:
    """Ask for this workflow's workers at once."""
    with database_faults():
        await _sql.hasten_watched(pool, scan_id=scan_id, now=now)


async def next_refresh(pool: Pool) -> datetime | None:
    """When the next workflow is due."""
    with database_faults():
        at: datetime | None = await _sql.next_refresh(pool)
    return at


async def unclaimed_addition(connection: Connection, scan_id: ScanId, cluster_location: str, n_workers: int) -> Addition | None:
    """Return the request of this shape whose response nobody has got, locked for the caller's transaction."""
    row = await _sql.unclaimed_addition(
        connection, scan_id=scan_id, cluster_location=cluster_location, n_workers=n_workers
    )  # fmt: skip
    return _addition(row)


async def unclear_addition(connection: Connection, scan_id: ScanId) -> Addition | None:
    """Return a request of this scan whose outcome is open and that no replica processes, locked for the caller's transaction."""
    return _addition(await _sql.unclear_addition(connection, scan_id=scan_id))


async def seconds_held(connection: Connection, scan_id: ScanId) -> float | None:
    """Return for how many seconds replicas may still process open requests of this scan; None: there is none."""
    with database_faults():
        seconds: float | None = await _sql.seconds_held(connection, scan_id=scan_id)
    return seconds


async def new_addition(
    connection: Connection,
    scan_id: ScanId,
    workflow_id: str,
    cluster_location: str,
    n_workers: int,
    *,
    now: datetime,
    hold: timedelta,
    is_automatic: bool = False,
) -> Addition:
    """Note a request and lease it; part of the caller's transaction."""
    addition_id = await _sql.new_addition(
        connection, scan_id=scan_id, workflow_id=workflow_id, cluster_location=cluster_location, n_workers=n_workers,
        now=now, held_until=now + hold, is_automatic=is_automatic,
    )  # fmt: skip
    return Addition(
        addition_id=addition_id, scan_id=scan_id, workflow_id=workflow_id, cluster_location=cluster_location,
        n_workers=n_workers, asked_at=now, held_until=now + hold, is_automatic=is_automatic,
    )  # fmt: skip


async def has_open_replacement(connection: Connection, scan_id: ScanId) -> bool:
    """Whether workers that the bridge asked for by itself may still come."""
    return bool(await _sql.has_open_replacement(connection, scan_id=scan_id))


async def hold_addition(connection: Connection, addition: Addition, *, until: datetime) -> Addition:
    """Lease a request; part of the caller's transaction."""
    await _sql.hold_addition(connection, addition_id=addition.addition_id, held_until=until)
    return replace(addition, held_until=until)


async def release_addition(pool: Pool, addition: Addition, *, now: datetime) -> None:
    """End the lease of a request, unless another replica has leased it meanwhile."""
    with database_faults():
        await _sql.release_addition(pool, addition_id=addition.addition_id, held_until=addition.held_until, now=now)


async def attempt_addition(pool: Pool, addition: Addition, task_id: str, before: Sequence[str], *, now: datetime) -> bool:
    """Note that EWMS is asked now, and which taskforces existed before. False: the caller's lease has ended."""
    with database_faults():
        is_held = await _sql.attempt_addition(
            pool, addition_id=addition.addition_id, held_until=addition.held_until, task_id=task_id, before=list(before), now=now
        )  # fmt: skip
    return bool(is_held)


async def unattempt_addition(pool: Pool, addition: Addition) -> None:
    """EWMS has surely done nothing; it can be asked again."""
    with database_faults():
        await _sql.unattempt_addition(pool, addition_id=addition.addition_id, held_until=addition.held_until)


async def resolve_addition(
    connection: Connection, addition: Addition, taskforce_uuid: str, n_workers: int, *, is_replied: bool
) -> None:
    """Note the workers that EWMS has given; part of the caller's transaction. is_replied: a caller gets the response now."""
    await _sql.resolve_addition(
        connection, addition_id=addition.addition_id, taskforce_uuid=taskforce_uuid, got_n_workers=n_workers, is_told=is_replied
    )


async def drop_addition(connection: Pool | Connection, addition: Addition) -> None:
    """EWMS has surely done nothing and will not."""
    with database_faults():
        await _sql.drop_addition(connection, addition_id=addition.addition_id)


async def taken_taskforces(pool: Pool, scan_id: ScanId) -> set[str]:
    """Return the taskforces that were the response to some request already."""
    with database_faults():
        return {row["taskforce_uuid"] async for row in _sql.taken_taskforces(pool, scan_id=scan_id)}


async def users_additions(connection: Connection, scan_id: ScanId) -> list[tuple[str, int]]:
    """Cluster and number of the workers that users have asked for beyond the scan's request, also without a response yet."""
    with database_faults():
        return [(row["cluster_location"], row["n_workers"]) async for row in _sql.users_additions(connection, scan_id=scan_id)]


async def kept_taskforces(pool: Pool, scan_id: ScanId) -> tuple[datetime, bytes] | None:
    """When the taskforces were fetched last, and their packed document."""
    with database_faults():
        row = await _sql.kept_taskforces(pool, scan_id=scan_id)
    return None if row is None else (row["fetched_at"], bytes(row["body"]))


async def keep_taskforces(pool: Pool, scan_id: ScanId, body: bytes, *, now: datetime) -> None:
    """Keep the packed document of a scan's taskforces."""
    with database_faults():
        await _sql.keep_taskforces(pool, scan_id=scan_id, now=now, body=body)


def _addition(row: Any) -> Addition | None:
    return None if row is None else Addition(**{**dict(row), "before": tuple(row["before"])})
