"""Searching the view: deleted scans, projection, order, paging, limits, and what the planner makes of it."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import orjson
import pytest

from skydriver_api.find.errors import BadFilter, TooSlow
from skydriver_api.find.search import EXCLUDED, Limits, find_query, statement_for, stream
from skydriver_common.db.pool import Pool
from tests.support.find_manifests import a_manifest, answers, found, pool_with, scan_id


async def test_deleted_scans_are_left_out_unless_the_filter_speaks_of_them_at_the_top(database: str) -> None:
    async with pool_with(database, [a_manifest(1), a_manifest(2, is_deleted=True), a_manifest(3)]) as pool:
        assert await found(pool, {}) == [1, 3]
        assert await found(pool, {"is_deleted": True}) == [2]
        assert await found(pool, {"is_deleted": {"$in": [True, False]}}) == [1, 2, 3]
        assert await found(pool, {"$or": [{"is_deleted": True}, {"is_deleted": False}]}) == [1, 3]
        assert await found(pool, {}, include_deleted=True) == [1, 2, 3]
        assert await found(pool, {"is_deleted": False}, include_deleted=True) == [1, 3]


async def test_the_filters_that_users_send_find_their_scans(database: str) -> None:
    event = {"run_id": 123456, "event_id": 987, "event_type": None, "mjd": 60000.5, "is_real_event": True}
    running: dict[str, Any] = {"processing_stats": {"finished": False, "rate": {}}}
    done: dict[str, Any] = {"processing_stats": {"finished": True, "rate": {}}}
    manifests = [
        a_manifest(1, event_metadata=event, progress=done),
        a_manifest(2, event_metadata={**event, "is_real_event": False}, ewms_workflow_id="WF-1", progress=running),
        a_manifest(3, classifiers={"_TEST": True, "origin_scan_id": scan_id(1)}, progress=done),
        a_manifest(4, classifiers={"_TEST": [False, True]}, replaced_by_scan_id=scan_id(3)),
        a_manifest(5, scanner_server_args="--reco-algo Dummy", progress=done),
    ]
    async with pool_with(database, manifests) as pool:
        key = {"event_metadata.run_id": 123456, "event_metadata.event_id": 987}
        assert await found(pool, {**key, "event_metadata.is_real_event": True}) == [1]
        assert await found(pool, key) == [1, 2]
        assert await found(pool, {"event_metadata.run_id": 123456.0}) == [1, 2]
        assert await found(pool, {"scan_id": {"$in": [scan_id(4), scan_id(2), "unknown"]}}) == [2, 4]
        assert await found(pool, {"ewms_workflow_id": "WF-1"}) == [2]
        assert await found(pool, {"i3_event_id": "event-5"}) == [5]
        assert await found(pool, {"classifiers._TEST": True}) == [3, 4]
        assert await found(pool, {"classifiers._TEST": True, "timestamp": {"$gte": 1_739_560_004}}) == [4]
        assert await found(pool, {"timestamp": {"$gt": 1_739_560_004}}) == [5]
        assert await found(pool, {"$or": [{"progress": None}, {"progress.processing_stats.finished": False}]}) == [2, 4]
        assert await found(pool, {"classifiers.origin_scan_id": scan_id(1)}) == [3]
        assert await found(pool, {"scanner_server_args": {"$regex": "DUMMY", "$options": "i"}}) == [5]
        assert await found(pool, {"no_such_field": 1}) == []


async def test_answers_keep_numbers_and_the_order_of_fields_and_never_hold_the_excluded_ones(database: str) -> None:
    manifest = a_manifest(1, scan_metadata={"z": 1.0, "a": [10, 1e-7, 12345678901234567890123], "y": "é\n"}, timestamp=5.0)
    async with pool_with(database, []) as pool:
        body = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode()
        await pool.execute(
            "INSERT INTO manifests (scan_id, version, head_hash, body, rest, is_deleted, event_digest, priority, state, launch_state,"
            " request_scan_id, has_final_result) VALUES ($1, 1, '', $2, '{}', false, '', 0, '', '', '', false)",
            manifest["scan_id"],
            body,
        )
        [answer] = await answers(pool, find_query({}))
        expected = {name: value for name, value in manifest.items() if name not in EXCLUDED}
        # the space before it is the sign of integers beyond 64 bits (wire.encode)
        assert answer == b" " + json.dumps(expected, separators=(",", ":"), ensure_ascii=False).encode()
        assert b"1.0," in answer
        assert b"12345678901234567890123" in answer
        [answer] = await answers(pool, find_query({}, projection=["timestamp", "scan_id", "nothing"]))
        assert answer == f'{{"scan_id":"{scan_id(1)}","timestamp":5.0}}'.encode()
        assert await answers(pool, find_query({}, projection=["scan_id"])) == [f'{{"scan_id":"{scan_id(1)}"}}'.encode()]
        assert await answers(pool, find_query({}, projection=["nothing"])) == [b"{}"]


async def test_limit_and_after_page_through_everything_in_order(database: str) -> None:
    async with pool_with(database, [a_manifest(n) for n in (5, 3, 1, 4, 2)]) as pool:
        pages = [await found(pool, {}, limit=2)]
        while len(pages[-1]) == 2:
            pages.append(await found(pool, {}, limit=2, after=scan_id(pages[-1][-1])))
        assert pages == [[1, 2], [3, 4], [5]]


async def test_thousands_of_answers_come_complete_and_in_order(database: str) -> None:
    async with pool_with(database, [a_manifest(n) for n in range(3_000)]) as pool:
        assert await found(pool, {"priority": 0}) == list(range(3_000))


async def test_leaving_a_stream_early_gives_its_connection_back(database: str) -> None:
    async with pool_with(database, [a_manifest(n) for n in range(200)], size=1) as pool:
        for _ in range(3):
            async with aclosing(stream(pool, find_query({}))) as rows:
                assert orjson.loads(await anext(rows))["scan_id"] == scan_id(0)
        assert await found(pool, {"priority": 1}) == []


NESTED = "a"
for _ in range(30):
    NESTED = f"({NESTED}*)*"


@pytest.mark.parametrize(
    "expression", ["((((a{255}){255}){255}){255}){255}", "(((a*)*)*)*", NESTED, "(" * 90 + "a" + "{0,9})" * 90]
)
async def test_an_expression_the_engine_refuses_is_the_clients_fault_even_over_no_rows(database: str, expression: str) -> None:
    async with pool_with(database, []) as pool:
        with pytest.raises(BadFilter, match="regular expression") as refused:
            await found(pool, {"classifiers.x": {"$regex": expression}})
        assert refused.value.path == "filter.classifiers.x.$regex"


async def test_a_search_beyond_its_time_is_stopped_with_advice(database: str) -> None:
    text = "ab" * 20_000
    manifests = [a_manifest(n, scanner_server_args=text) for n in range(300)]
    async with pool_with(database, manifests, size=1) as pool:
        slow = find_query(
            {"$nor": [{"scanner_server_args": {"$regex": f"(a|b)*(?=.{{{n}}})[ab]+{n}c"}} for n in range(3, 103)]}
        )
        with pytest.raises(TooSlow, match="index"):
            await asyncio.wait_for(answers(pool, slow, Limits(statement_s=0.2)), 120)
        assert await found(pool, {"scan_id": scan_id(1)}) == [1]


async def test_ten_thousand_branches_are_answered_or_refused_in_time(database: str) -> None:
    async with pool_with(database, [a_manifest(n) for n in range(20)]) as pool:
        assert await found(pool, {"$or": [{"i3_event_id": f"event-{n}"} for n in range(15, 10_015)]}) == [15, 16, 17, 18, 19]
        assert await found(pool, {"scan_id": {"$in": [scan_id(n) for n in range(18, 10_018)]}}) == [18, 19]
        assert await found(pool, {"priority": {"$nin": list(range(10_000))}}) == []


async def plan(pool: Pool, raw: object, **options: Any) -> str:
    """What the planner chooses, as text."""
    statement = statement_for(find_query(raw, **options))
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN (COSTS OFF) {statement.sql}", *statement.args))


async def test_common_look_ups_are_answered_by_an_index(database: str) -> None:
    def one(n: int) -> dict[str, Any]:
        return a_manifest(
            n,
            event_metadata={"run_id": n // 10, "event_id": n, "event_type": "x", "mjd": 1.5, "is_real_event": True},
            classifiers={"origin_scan_id": scan_id(n - 1), "_TEST": n == 77},
            ewms_workflow_id=f"WF-{n}",
            is_deleted=n % 500 == 0,
            progress=None if n % 400 == 0 else {"processing_stats": {"finished": n % 300 != 0}},
        )

    async with pool_with(database, map(one, range(1, 6_001))) as pool:
        await pool.execute("VACUUM ANALYZE manifests")
        by_keys: list[dict[str, Any]] = [
            {"event_metadata.run_id": 55, "event_metadata.event_id": 551, "event_metadata.is_real_event": True},
            {"i3_event_id": "event-7"},
            {"ewms_workflow_id": "WF-9"},
            {"classifiers.origin_scan_id": scan_id(5)},
            {"classifiers._TEST": True, "timestamp": {"$gte": 1_739_560_009}},
            {"$or": [{"progress": None}, {"progress.processing_stats.finished": False}]},
            {"$and": [{"i3_event_id": {"$in": ["event-1", "event-2"]}}, {"priority": {"$ne": 3}}]},
        ]
        for query in by_keys:
            text = await plan(pool, query)
            assert "Index Scan on manifests_find_keys" in text, (query, text)
        assert "manifests_pkey" in await plan(pool, {"scan_id": {"$in": [scan_id(1), scan_id(2)]}}, include_deleted=True)
        assert "manifests_find_timestamp" in await plan(pool, {"timestamp": {"$gte": 1_739_565_990}})
        assert "manifests_find_deleted" in await plan(pool, {"is_deleted": True})
        assert "manifests_find_live" in await plan(pool, {}, limit=10, after=scan_id(9))


async def test_a_progress_report_writes_to_no_index(database: str) -> None:
    def report(done: int) -> dict[str, Any]:
        stats = {"finished": False, "rate": {"nside-8": done}}
        return a_manifest(
            1, progress={"processing_stats": stats, "tallies": {"done": done}}, last_updated=1_739_570_000.0 + done
        )

    async with pool_with(database, [report(0)], size=1) as pool:
        before = await _entries(pool)
        for done in range(1, 6):
            await pool.execute("UPDATE manifests SET body = $2 WHERE scan_id = $1", scan_id(1), orjson.dumps(report(done)))
            await pool.execute("VACUUM manifests")  # room on the page, as fresh pages and pruning give it on a busy server
        assert await _entries(pool) == before
        assert await found(pool, {"progress.tallies.done": 5}) == [1]
        assert await found(pool, {"progress.processing_stats.finished": True}) == []
        await pool.execute("UPDATE manifests SET body = $2 WHERE scan_id = $1", scan_id(1), orjson.dumps(a_manifest(1)))
        assert await _entries(pool) != before


async def _entries(pool: Pool) -> int:
    """Row versions that indexes know of: those that are not heap-only."""
    async with pool.acquire() as connection:
        await connection.execute("SELECT pg_stat_force_next_flush()")
        updated, heap_only = await connection.fetchrow(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'manifests'"
        ) or (0, 0)
    return int(updated) - int(heap_only)


async def test_of_many_expressions_the_one_that_the_database_refuses_is_named(database: str) -> None:
    async with pool_with(database, [a_manifest(1)]) as pool:
        many = [{f"classifiers.a{n}": {"$regex": f"x{n}|((y{{1,255}}){{1,255}}){{1,255}}"}} for n in range(3)]
        with pytest.raises(BadFilter, match="invalid regular expression") as refused:
            await found(pool, {"$or": [{"classifiers.a": {"$regex": "fine"}}, *many]})
        assert refused.value.path == "filter.$or[1].classifiers.a0.$regex"
        assert await found(pool, {"$or": [{"classifiers.a": {"$regex": "fine"}}, {"scan_id": scan_id(1)}]}) == [1]
