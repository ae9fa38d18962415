"""Manifests in the database without the rest of the system: rows of the view, as its writer would leave them."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import asyncpg
import orjson

from skydriver_api.find.search import FindQuery, Limits, find_query, stream
from skydriver_common.db.pool import Pool, open_pool
from skydriver_common.model.ids import ScanId

_INSERT = """
    INSERT INTO manifests (scan_id, version, head_hash, body, rest, is_deleted, event_digest, priority, state, launch_state,
                           request_scan_id, has_final_result)
    SELECT id, 1, '', body, '{}', deleted, 'digest', 0, 'PENDING__PRESTARTUP', 'queued', id, false
    FROM unnest($1::text[], $2::bytea[], $3::boolean[]) AS t(id, body, deleted)
"""


def scan_id(number: int) -> ScanId:
    """The id of the n-th scan; they sort by number."""
    return ScanId(f"{0x19500000000 + number:011x}x4{number:019x}")


def a_manifest(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A new scan's Manifest with some fields changed. Source: REST contract 5.1."""
    return {
        "scan_id": scan_id(number),
        "timestamp": 1_739_560_000.0 + number,
        "is_deleted": False,
        "scanner_server_args": "python -m skymap_scanner.server --reco-algo millipede_wilks --nsides 8:0 64:12",
        "ewms_workflow_id": "not-yet-requested",
        "ewms_address": None,
        "ewms_task": "use 'ewms_workflow_id'",
        "priority": 0,
        "classifiers": {},
        "i3_event_id": f"event-{number}",
        "event_i3live_json_dict": "use 'i3_event_id'",
        "event_i3live_json_dict__hash": None,
        "event_metadata": None,
        "scan_metadata": None,
        "progress": None,
        "replaced_by_scan_id": None,
        "last_updated": 1_739_560_001.5 + number,
        **changes,
    }


async def store(pool: Pool | asyncpg.Connection, manifests: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to the view."""
    rows = list(manifests)
    await pool.execute(
        _INSERT,
        [row["scan_id"] for row in rows],
        [orjson.dumps(row) for row in rows],
        [row["is_deleted"] for row in rows],
        timeout=120,
    )


@asynccontextmanager
async def pool_with(database: str, manifests: Iterable[Mapping[str, Any]], size: int = 3) -> AsyncIterator[Pool]:
    """A pool on a database that holds the given manifests."""
    pool = await open_pool(database, name="test-find", size=size)
    try:
        await store(pool, manifests)
        yield pool
    finally:
        await pool.close()


async def answers(pool: Pool, query: FindQuery, limits: Limits | None = None) -> list[bytes]:
    """All that a search yields."""
    async with aclosing(stream(pool, query, limits or Limits())) as rows:
        return [row async for row in rows]


async def found(pool: Pool, raw: object, **options: Any) -> list[int]:
    """The numbers of the scans that a filter finds, in the order of the answer."""
    return [int(orjson.loads(row)["scan_id"][-18:], 16) for row in await answers(pool, find_query(raw, **options))]
