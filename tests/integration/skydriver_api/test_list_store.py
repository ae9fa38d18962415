"""``GET /scans``: what each word finds, order, pages, and that a page is read from an index."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from skydriver_api.find import listing
from skydriver_api.find.errors import BadFilter
from skydriver_api.find.listing import ListQuery, Order, list_page, statement_of
from skydriver_common.db.pool import Pool
from tests.support.find_manifests import a_manifest, pool_with, scan_id

RUNNING = "IN_PROGRESS__PARTIAL_RESULT_GENERATED"
DONE = "SCAN_HAS_FINAL_RESULT"
EVENT = {"run_id": 123456, "event_id": 987, "event_type": None, "mjd": 60000.5, "is_real_event": True}


async def listed(pool: Pool, **words: Any) -> list[int]:
    """The numbers of the scans of one page."""
    page = await list_page(pool, ListQuery(**words))
    return [int(orjson.loads(row)["scan_id"][-18:], 16) for row in page.scans]


async def in_state(pool: Pool, state: str, *numbers: int, priority: int = 0) -> None:
    await pool.execute(
        "UPDATE manifests SET state = $1, priority = $2 WHERE scan_id = ANY($3::text[])",
        state, priority, [scan_id(number) for number in numbers],
    )  # fmt: skip


@asynccontextmanager
async def six_scans(database: str) -> AsyncIterator[Pool]:
    manifests = [
        a_manifest(1, event_metadata=EVENT, classifiers={"level": "gold", "shift": 3}),
        a_manifest(2, event_metadata={**EVENT, "event_id": 5}, classifiers={"level": "bronze"}),
        a_manifest(3, classifiers={"level": "gold", "shift": True}),
        a_manifest(4, is_deleted=True, classifiers={"level": "gold"}),
        a_manifest(5, replaced_by_scan_id=scan_id(6), ewms_workflow_id="WF-5"),
        a_manifest(6, progress={"summary": "s" * 1000}),
    ]
    async with pool_with(database, manifests) as pool:
        await in_state(pool, DONE, 1, 2, 4)
        await in_state(pool, RUNNING, 3, priority=100)
        await in_state(pool, RUNNING, 5, priority=7)
        yield pool


async def test_every_word_finds_its_scans(database: str) -> None:
    async with six_scans(database) as pool:
        assert await listed(pool) == [6, 5, 3, 2, 1]
        assert await listed(pool, include_deleted=True) == [6, 5, 4, 3, 2, 1]
        assert await listed(pool, states=(RUNNING,)) == [5, 3]
        assert await listed(pool, states=(DONE, RUNNING)) == [5, 3, 2, 1]
        assert await listed(pool, states=(DONE,), include_deleted=True) == [4, 2, 1]
        assert await listed(pool, run_id=123456) == [2, 1]
        assert await listed(pool, run_id=123456, event_id=5) == [2]
        assert await listed(pool, i3_event_id="event-3") == [3]
        assert await listed(pool, ewms_workflow_id="WF-5") == [5]
        assert await listed(pool, classifiers=(("level", ("gold",)),)) == [3, 1]
        assert await listed(pool, classifiers=(("level", ("gold",)), ("shift", ("3", 3)))) == [1]
        assert await listed(pool, classifiers=(("level", ("gold",)),), states=(DONE,)) == [1]
        assert await listed(pool, min_priority=7) == [5, 3]
        assert await listed(pool, min_priority=7, max_priority=99) == [5]
        assert await listed(pool, states=("STOPPED__PRESTARTUP",)) == []
        with pytest.raises(BadFilter, match="dot"):
            await listed(pool, classifiers=(("a.b", (1,)),))


async def test_order_and_pages(database: str) -> None:
    async with six_scans(database) as pool:
        assert await listed(pool, order=Order.OLDEST) == [1, 2, 3, 5, 6]
        assert await listed(pool, order=Order.OLDEST, states=(DONE, RUNNING)) == [1, 2, 3, 5]
        assert await listed(pool, order=Order.PRIORITY) == [3, 5, 6, 2, 1]
        assert await listed(pool, order=Order.PRIORITY, states=(DONE, RUNNING)) == [3, 5, 2, 1]
        words: dict[str, Any]
        for words, whole in (
            ({}, [6, 5, 3, 2, 1]),
            ({"order": Order.OLDEST}, [1, 2, 3, 5, 6]),
            ({"order": Order.PRIORITY}, [3, 5, 6, 2, 1]),
            ({"states": (DONE, RUNNING)}, [5, 3, 2, 1]),
            ({"classifiers": (("level", ("gold", "bronze")),)}, [3, 2, 1]),
        ):
            seen: list[int] = []
            after: str | None = None
            while True:
                page = await list_page(pool, ListQuery(**words, limit=2, after=after))
                seen += [int(orjson.loads(row)["scan_id"][-18:], 16) for row in page.scans]
                if (after := page.next) is None:
                    break
            assert seen == whole


async def test_times_are_those_of_the_request(database: str) -> None:
    first = 0x19500000000 / 1000
    manifests = [a_manifest(n) for n in range(5)] + [a_manifest(9, scan_id="f" * 32)]
    async with pool_with(database, manifests) as pool:
        assert await listed(pool, since=first + 0.001, until=first + 0.003) == [2, 1]
        assert await listed(pool, since=first + 0.003) == [4, 3]
        assert await listed(pool, until=-5.0) == []
        assert await listed(pool, since=1e300) == []


async def test_a_summary_is_short_and_has_what_is_known(database: str) -> None:
    async with six_scans(database) as pool:
        page = await list_page(pool, ListQuery(order=Order.OLDEST))
        rows = [orjson.loads(row) for row in page.scans]
        assert rows[0]["run_id"] == 123456
        assert rows[0]["classifiers"] == {"level": "gold", "shift": 3}
        assert rows[0]["scan_state"] == DONE
        assert rows[2]["run_id"] is None
        assert rows[3]["replaced_by_scan_id"] == scan_id(6)
        assert len(rows[4]["progress_summary"]) == 300


async def test_a_common_classifier_fills_its_page_from_the_newest_scans(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_LOOKED_THROUGH", 20)
    manifests = [a_manifest(n, classifiers={"kind": "rare" if n == 3 else "common"}) for n in range(100)]
    async with pool_with(database, manifests) as pool:
        assert await listed(pool, classifiers=(("kind", ("common",)),), limit=3) == [99, 98, 97]
        assert await listed(pool, classifiers=(("kind", ("rare",)),), limit=3) == [3]


@pytest.mark.parametrize(
    ("words", "index"),
    [
        ({}, "manifests_find_live"),
        ({"states": (RUNNING, DONE)}, "manifests_list_state"),
        ({"order": Order.PRIORITY}, "manifests_list_priority"),
        ({"run_id": 5}, "manifests_find_keys"),
    ],
)
async def test_a_page_is_read_from_an_index(database: str, words: dict[str, Any], index: str) -> None:
    """Without a sort of everything: its cost does not grow with the number of scans."""
    async with pool_with(database, [a_manifest(n) for n in range(3_000)]) as pool:
        await pool.execute("UPDATE manifests SET state = CASE WHEN version % 2 = 0 THEN $1 ELSE $2 END", RUNNING, DONE)
        await pool.execute("ANALYZE manifests")
        plan = await _plan(pool, ListQuery(**words))
        assert index in plan
        assert "Seq Scan" not in plan


async def _plan(pool: Pool, query: ListQuery) -> str:
    sql, args = statement_of(query)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN (COSTS OFF) {sql}", *args))
