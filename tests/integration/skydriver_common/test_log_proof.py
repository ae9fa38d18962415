"""`skydriver log verify | seal | rebuild`: damage done past every guard is found, and views come back from the log alone."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from skydriver_common.log import blobs
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.model import events as ev
from skydriver_common.model.ids import ScanId
from skydriver_ops.eventlog import rebuild, rebuild_schema
from skydriver_ops.eventlog.verify import verify
from tests.support.histories import Store, a_context, a_report, skydriver
from tests.support.waiting import until


async def _past_the_guards(store: Store, statement: str, *values: Any) -> None:
    """What a database superuser can do."""
    async with store.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(statement, *values)


async def _breaks(store: Store) -> list[tuple[str, int]]:
    async with store.pool.acquire() as connection:
        report = await verify(connection)
    return [(found.scan_id, found.version) for found in report.breaks]


async def _differences(store: Store) -> list[tuple[str, str, str]]:
    async with store.pool.acquire() as connection:
        found = await rebuild.check(connection)
    return [(one.view, one.key, one.what) for one in found.differences]


@pytest.mark.parametrize(
    ("damage", "version"),
    [
        ("UPDATE event_log SET data = '{}' WHERE scan_id = $1 AND version = 6", 6),
        ("UPDATE event_log SET actor = 'somebody' WHERE scan_id = $1 AND version = 2", 2),
        ("UPDATE event_log SET recorded_at = recorded_at + interval '1 us' WHERE scan_id = $1 AND version = 4", 4),
        ("UPDATE event_log SET prev_hash = hash WHERE scan_id = $1 AND version = 3", 3),
        ("DELETE FROM event_log WHERE scan_id = $1 AND version = 5", 5),
        ("DELETE FROM event_log WHERE scan_id = $1 AND version = 1", 1),
        ("DELETE FROM event_log WHERE scan_id = $1 AND version > 7", 8),
        ("DELETE FROM event_log WHERE scan_id = $1", 1),
    ],
    ids=["content", "actor", "time", "link", "middle", "first", "tail", "all"],
)
async def test_the_first_broken_link_of_each_scan_is_named(store: Store, damage: str, version: int) -> None:
    victim, other = await store.a_finished_scan(), await store.a_finished_scan()
    assert await _breaks(store) == []
    await _past_the_guards(store, damage, victim)
    assert await _breaks(store) == [(victim, version)]
    assert other not in (await skydriver("log", "verify", "--database-url", store.url)).out


@pytest.mark.parametrize("version", [1, 4, 7], ids=["request", "workflow", "report"])
async def test_content_that_was_taken_away_is_found_and_told_in_one_line(store: Store, tmp_path: Path, version: int) -> None:
    """Its digest stays in its place, so that all hashes hold: as a report's does that was let go, which these were not."""
    victim, _ = await store.a_finished_scan(), await store.a_finished_scan()
    seal, key, file = tmp_path / "a.seal", tmp_path / "seal.pem", tmp_path / "past"
    url = ("--database-url", store.url)
    await skydriver("log", "seal", "-o", str(seal), "--key", str(key), *url)
    erased = "UPDATE event_log SET data = '\\x00'::bytea || sha256(data) WHERE scan_id = $1 AND version = $2"
    await _past_the_guards(store, erased, victim, version)
    assert await _breaks(store) == [(victim, version)]
    against = await skydriver("log", "verify", "--seal", str(seal), "--key", str(tmp_path / "seal.pub.pem"), *url)
    assert (against.code, against.err) == (1, "")
    is_report = version == 7  # one that was let go is read as that
    for words in (("rebuild", "--check"), ("state", victim, "--at", "9"), ("history", victim)):
        ran = await skydriver("log", *words, *url)
        assert "Traceback" not in ran.err
        assert ran.code == (0 if is_report or words[0] == "history" else 1)
        assert is_report or "payload is missing" in (ran.err + ran.out).replace("\n", " ")
    assert (await skydriver("log", "export", "--until", "2999-01-01", "-o", str(file), *url)).code == 0
    found = await skydriver("log", "verify", "--export", str(file), "--json")
    assert [one["version"] for one in found.json["breaks"]] == ([] if is_report else [version])


async def test_blobs_that_were_altered_or_are_missing_are_found(store: Store) -> None:
    digests = [await blobs.put(store.pool, content) for content in (b"good " * 100, b"bent " * 100, b"x", b"gone")]
    scan_id = await store.a_scan()
    for sequence, digest in enumerate(digests):
        result = ev.ResultReceived(digest=digest, size_bytes=1, is_final=False, producer="p", sequence=sequence)
        await store.append("progress", scan_id, result)
    whole = ("log", "verify", "--blobs", "--json", "--database-url", store.url)
    # of a scan of these tests' own making, the event is not stored
    assert [(flaw["digest"], flaw["scan_id"]) for flaw in (await skydriver(*whole)).json["broken_blobs"]] == [
        ("sha256:0", scan_id)
    ]
    await store.pool.execute("UPDATE blobs SET body = 'no zstd' WHERE digest = $1", digests[1])
    await store.pool.execute("UPDATE blobs SET body = 'y' WHERE digest = $1", digests[2])
    await store.pool.execute("DELETE FROM blobs WHERE digest = $1", digests[3])
    assert (await skydriver("log", "verify", "--database-url", store.url)).code == 0
    ran = await skydriver(*whole)
    assert (ran.code, ran.json["blobs"], ran.json["breaks"]) == (1, 3, [])
    assert {flaw["digest"]: flaw["what"] for flaw in ran.json["broken_blobs"]} == {
        digests[1]: "content cannot be decompressed", digests[2]: "content does not match the digest",
        digests[3]: "it is missing", "sha256:0": "it is missing",
    }  # fmt: skip


async def test_an_event_that_was_moved_before_the_one_it_follows_is_found(store: Store) -> None:
    """As one does who wants the relay to pass over it: no hash covers an event's place in the log."""
    victim, _ = await store.a_finished_scan(), await store.a_finished_scan()
    await _past_the_guards(store, "UPDATE event_log SET xid = '1' WHERE scan_id = $1 AND version = 8", victim)
    assert await _breaks(store) == [(victim, 8)]


async def test_verifying_from_a_position_on_checks_only_what_came_since(store: Store) -> None:
    scan_id = await store.a_finished_scan()
    await _past_the_guards(store, "UPDATE event_log SET data = '{}' WHERE scan_id = $1 AND version = 2", scan_id)
    ran = await skydriver("log", "verify", "--since", "4", "--json", "--database-url", store.url)
    assert (ran.code, ran.json["events"], ran.json["breaks"]) == (0, 6, [])
    assert (await skydriver("log", "verify", "--database-url", store.url)).code == 1


async def test_a_seal_betrays_a_tail_that_was_removed_with_its_traces(store: Store, tmp_path: Path) -> None:
    scan_id, gone = await store.a_finished_scan(), await store.a_finished_scan()
    seal, key = tmp_path / "a.seal", tmp_path / "seal.pem"
    url = ("--database-url", store.url, "--json")
    made = (await skydriver("log", "seal", "-o", str(seal), "--key", str(key), *url)).json
    assert (made["events"], made["scans"]) == (18, 2)
    assert key.stat().st_mode & 0o77 == 0
    against = ("log", "verify", "--seal", str(seal), "--key", str(tmp_path / "seal.pub.pem"), *url)
    await store.append("dispatcher", scan_id, ev.ScanDeleted())
    assert (await skydriver(*against)).json["breaks"] == []

    # a superuser shortens one history, removes another, and makes the views fit
    await _past_the_guards(store, "DELETE FROM event_log WHERE scan_id = $1 AND version > 8 OR scan_id = $2", scan_id, gone)
    head = await store.pool.fetchval("SELECT hash FROM event_log WHERE scan_id = $1 AND version = 8", scan_id)
    await _past_the_guards(store, "UPDATE manifests SET version = 8, head_hash = $2 WHERE scan_id = $1", scan_id, head)
    await _past_the_guards(store, "DELETE FROM manifests WHERE scan_id = $1", gone)
    assert (await skydriver("log", "verify", *url)).json["breaks"] == []
    ran = await skydriver(*against)
    assert ran.code == 1
    assert {found["scan_id"] for found in ran.json["breaks"]} == {scan_id, gone}


async def test_a_seal_that_was_changed_or_signed_by_another_is_refused(store: Store, tmp_path: Path) -> None:
    await store.a_finished_scan()
    seal = tmp_path / "a.seal"
    url = ("--database-url", store.url)
    await skydriver("log", "seal", "-o", str(seal), "--key", str(tmp_path / "one.pem"), *url)
    await skydriver("log", "seal", "-o", str(tmp_path / "b.seal"), "--key", str(tmp_path / "two.pem"), *url)
    kept = seal.read_bytes()
    twice = await skydriver("log", "seal", "-o", str(seal), "--key", str(tmp_path / "one.pem"), *url)
    assert (twice.code, "never overwritten" in twice.err, seal.read_bytes()) == (2, True, kept)
    other = await skydriver("log", "verify", "--seal", str(seal), "--key", str(tmp_path / "two.pub.pem"), *url)
    assert "the signature does not match" in other.err
    seal.write_text(seal.read_text().replace(', 9, "', ', 8, "').replace("9,\n", "8,\n"))
    changed = await skydriver("log", "verify", "--seal", str(seal), "--key", str(tmp_path / "one.pub.pem"), *url)
    assert changed.code == 1
    assert "seal" in changed.err


async def test_every_row_that_differs_from_the_log_is_reported(store: Store) -> None:
    scans = sorted([await store.a_finished_scan(), await store.a_finished_scan(), await store.a_scan()])
    assert await _differences(store) == []
    await store.pool.execute("UPDATE manifests SET body = '{}', priority = 7 WHERE scan_id = $1", scans[0])
    await store.pool.execute("DELETE FROM results WHERE scan_id = $1", scans[1])
    await store.pool.execute("INSERT INTO workforces VALUES ('zzz', '{}')")
    await store.pool.execute("INSERT INTO i3_events VALUES ('none', 'sha256:9')")
    found = await _differences(store)
    assert ("manifests", scans[0], "differs in body, priority") in found
    assert ("results", scans[1], "missing") in found
    assert ("workforces", "zzz", "surplus") in found
    assert ("i3_events", "none", "surplus") in found
    ran = await skydriver("log", "rebuild", "--check", "--json", "--database-url", store.url)
    assert ran.code == 1
    assert len(ran.json["differences"]) == len(found)


async def test_a_workforce_that_ends_is_forgotten_by_the_view_as_by_the_fold(store: Store) -> None:
    scan_id = await store.a_finished_scan()
    await store.append("ewms_bridge", scan_id, ev.WorkforceChanged(statuses={}, n_running=0))
    assert await _differences(store) == []


async def test_views_in_a_schema_of_their_own_equal_the_live_ones(store: Store) -> None:
    for _ in range(3):
        await store.a_finished_scan()
    live = await store.views()
    ran = await skydriver("log", "rebuild", "--into", "fresh", "--json", "--database-url", store.url)
    assert ran.json["events"] == 27
    for name, rows in live.items():
        assert [tuple(row) for row in await store.pool.fetch(f"SELECT * FROM fresh.{name} ORDER BY 1")] == rows
    assert (await skydriver("log", "rebuild", "--into", "fresh", "--database-url", store.url)).code == 2
    assert (await skydriver("log", "rebuild", "--into", "public", "--database-url", store.url)).code == 2
    taken = await skydriver("log", "rebuild", "--into", "rebuild_20261124", "--database-url", store.url)
    assert (taken.code, "reserved for running rebuilds" in taken.err) == (2, True)


async def test_a_swap_beside_writers_loses_nothing_and_repairs_the_views(store: Store) -> None:
    scans = [await store.a_finished_scan() for _ in range(5)]
    before = await _indexes(store)
    await store.pool.execute("UPDATE manifests SET state = 'nonsense' WHERE scan_id = $1", scans[0])
    async with _writers(store, scans[:3]) as commits:
        done = await _swap(store)
    assert done.locked_s > 0
    assert await store.pool.fetchval("SELECT count(*) FROM event_log") == 45 + len(commits)
    assert await _differences(store) == []
    assert await _indexes(store) == before
    assert await store.pool.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'fresh%'") == 0


async def test_writers_go_on_while_a_swap_waits_for_a_long_transaction(store: Store) -> None:
    scans = [await store.a_finished_scan() for _ in range(4)]
    async with _writers(store, scans[:3]) as commits:
        async with store.pool.acquire() as long, long.transaction():
            await long.execute("SELECT FROM manifests WHERE scan_id = $1 FOR UPDATE", scans[3])
            swapping = asyncio.create_task(_swap(store))
            for _ in range(3):  # tries
                await until(lambda: _wants_the_views(store))
                seen = len(commits)
                await until(lambda seen=seen: _is_true(len(commits) > seen + 6))  # type: ignore[misc]
        done = await swapping
    assert done.locked_s > 0
    assert await _differences(store) == []


async def test_a_swap_that_is_killed_in_the_middle_of_the_exchange_changes_nothing(store: Store) -> None:
    scan_id = await store.a_finished_scan()
    before, indexes = await store.views(), await _indexes(store)
    command = ("-m", "skydriver_cli.app", "log", "rebuild", "--swap", "--database-url", store.url)
    async with store.pool.acquire() as writer, store.pool.acquire() as reader, reader.transaction():
        async with writer.transaction():  # until the fresh tables are there and somebody reads them
            await writer.execute("SELECT FROM manifests FOR UPDATE")
            process = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.DEVNULL)
            await until(lambda: _wants_the_views(store))
            fresh = await store.pool.fetchval("SELECT nspname FROM pg_namespace WHERE nspname ~ '^rebuild_'")
            await reader.execute(f"LOCK TABLE {fresh}.i3_events IN ACCESS SHARE MODE")
        # that holds the exchange up when all other tables have changed places
        held_up = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::regclass"
        await until(lambda: store.pool.fetchval(held_up, f"{fresh}.i3_events"))
        process.kill()
        assert await process.wait() == -signal.SIGKILL
    await until(lambda: _nobody_swaps(store))
    assert (await store.views(), await _indexes(store)) == (before, indexes)
    await store.append("dispatcher", scan_id, ev.ScanDeleted())
    ran = await skydriver("log", "rebuild", "--swap", "--json", "--database-url", store.url)
    assert (ran.code, ran.json["events"]) == (0, 10)
    assert await _differences(store) == []
    assert await store.pool.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname ~ '^rebuild_'") == 0


@asynccontextmanager
async def _writers(store: Store, scans: list[ScanId]) -> AsyncIterator[list[str]]:
    """Processes that append one event after the other; the scan of each commit."""
    stop, commits = asyncio.Event(), list[str]()

    async def write(scan_id: ScanId) -> None:
        replica = UnitOfWork(store.pool, store.notifier, writer="progress")
        while not stop.is_set():
            async with replica.on_scans(a_context(), [scan_id]) as tx:
                tx.append(scan_id, [a_report(100 + len(commits))])
            commits.append(scan_id)

    writers = [asyncio.create_task(write(ScanId(scan_id))) for scan_id in scans]
    try:
        yield commits
    finally:
        stop.set()
        await asyncio.gather(*writers)


async def _swap(store: Store) -> rebuild.Rebuilt:
    reading, writing = [await asyncpg.connect(store.url) for _ in range(2)]
    try:
        return await rebuild.rebuild_and_swap(reading, writing, "fresh")
    finally:
        await reading.close()
        await writing.close()


async def _wants_the_views(store: Store) -> bool:
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock')"
    return bool(await store.pool.fetchval(waits))


async def _nobody_swaps(store: Store) -> bool:
    clients = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'skydriver-cli' AND datname = current_database()"
    return not await store.pool.fetchval(clients)


async def _is_true(value: bool) -> bool:
    return value


async def _indexes(store: Store) -> list[Any]:
    return [tuple(row) for row in await store.pool.fetch(
        """SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2""")]  # fmt: skip


async def test_what_a_killed_rebuild_has_left_is_dropped_by_the_next(store: Store) -> None:
    await store.a_finished_scan()
    async with store.pool.acquire() as reading, store.pool.acquire() as alive, store.pool.acquire() as writing:
        for name in ("rebuild_0123", "rebuild_4567", "mine"):
            await rebuild_schema.create(writing, name)
        await rebuild_schema.lock_schema(alive, "rebuild_4567")
        await rebuild.rebuild_into(reading, writing, "rebuild_89ab")
        left = await reading.fetch("SELECT nspname FROM pg_namespace WHERE nspname ~ '^(rebuild|mine)' ORDER BY 1")
        assert [row["nspname"] for row in left] == ["mine", "rebuild_4567", "rebuild_89ab"]


@pytest.mark.parametrize("walk", [verify, rebuild.check])
async def test_a_walk_through_the_log_holds_no_snapshot(store: Store, walk: Any) -> None:
    """An old snapshot keeps the whole server from cleaning up; and what is written meanwhile is no difference."""
    scans = [await store.a_finished_scan() for _ in range(3)]
    held: list[Any] = []

    async def report(scan_id: ScanId) -> None:
        for sequence in range(10, 40):
            await store.append("progress", scan_id, a_report(sequence))

    async with store.pool.acquire() as connection:
        pid = connection.get_server_pid()
        with psycopg.connect(store.url, autocommit=True) as looking:

            def look(_: int) -> None:
                asked = "SELECT coalesce(backend_xmin::text, xact_start::text) FROM pg_stat_activity WHERE pid = %s"
                held.append(looking.execute(asked, (pid,)).fetchone())

            writing = asyncio.gather(*(report(scan_id) for scan_id in scans))
            while not writing.done():
                found = await walk(connection, on_progress=look)
                assert (found.breaks if walk is verify else found.differences) == []
            await writing
    assert set(held) == {(None,)}
