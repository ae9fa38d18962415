"""`skydriver log export | import`: the same past in another database, proved without any."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
import zstandard

from skydriver_common.log import blobs
from skydriver_common.log.compaction import compact_progress
from skydriver_common.model import events as ev
from skydriver_ops.eventlog import rebuild
from skydriver_ops.eventlog.verify import verify
from tests.support.histories import Store, a_context, a_report, a_request, a_store, skydriver
from tests.support.servers import another_database
from tests.support.waiting import until


@pytest.fixture
async def elsewhere(database_url: str, _template: str) -> AsyncIterator[Store]:
    """Another, empty, store."""
    async with another_database(database_url, _template) as url, a_store(url) as store:
        yield store


async def _a_past(store: Store) -> None:
    """Scans of every kind: finished, compacted, with payloads, with numbers that JSON libraries write differently."""
    await store.a_finished_scan()
    scan_id = await store.a_finished_scan()
    await store.a_system_fact()
    content = await blobs.put(store.pool, b"a skymap " * 1000)
    request = a_request(scan_id)
    other = await store.a_scan(big=2**70, small=1e-7, text='","data":{"a":1}', note="München \u2028")
    await store.append("progress", other, ev.ResultReceived(digest=content, size_bytes=9000, is_final=True))
    assert request.event_digest == "sha256:0"
    async with store.uows["progress"].on_scans(a_context(), [scan_id]) as tx:
        assert await compact_progress(tx, scan_id, before=datetime.now(UTC) + timedelta(days=1)) == 2


async def _events(store: Store) -> list[tuple[object, ...]]:
    columns = (
        "position, event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, data, prev_hash, hash"
    )
    return [tuple(row) for row in await store.pool.fetch(f"SELECT {columns} FROM event_log ORDER BY position")]


async def test_an_export_is_the_same_past_in_an_empty_database(store: Store, elsewhere: Store, tmp_path: Path) -> None:
    await _a_past(store)
    file, seal, key = tmp_path / "past.ndjson.zst", tmp_path / "a.seal", tmp_path / "seal.pem"
    await skydriver("log", "seal", "-o", str(seal), "--key", str(key), "--database-url", store.url)
    made = await skydriver("log", "export", "--until", "2999-01-01", "-o", str(file), "--json", "--database-url", store.url)
    assert made.code == 0, made.err
    assert (made.json["events"], made.json["scans"], made.json["blobs"]) == (22, 3, 1)
    assert list(tmp_path.glob("*.partial")) == []

    proved = await skydriver(
        "log", "verify", "--export", str(file), "--seal", str(seal), "--key", str(tmp_path / "seal.pub.pem"), "--json"
    )
    assert (proved.code, proved.json["events"], proved.json["breaks"]) == (0, 22, [])

    done = await skydriver("log", "import", str(file), "--json", "--database-url", elsewhere.url)
    assert (done.code, done.json) == (0, made.json), done.err
    assert await _events(elsewhere) == await _events(store)
    assert await elsewhere.views() == await store.views()
    digest = next(iter(row["digest"] for row in await store.pool.fetch("SELECT digest FROM blobs")))
    assert await blobs.get(elsewhere.pool, digest) == b"a skymap " * 1000
    async with elsewhere.pool.acquire() as connection:
        assert (await verify(connection)).breaks == []
        assert (await rebuild.check(connection)).differences == []
    stats = await skydriver("log", "stats", "--json", "--database-url", elsewhere.url)
    assert [relay["events_behind"] for relay in stats.json["relays"]] == [0], "history is not published again"

    scan_id = await elsewhere.a_scan()
    assert await elsewhere.pool.fetchval("SELECT position FROM event_log WHERE scan_id = $1", scan_id) == 23
    again = await skydriver("log", "import", str(file), "--database-url", elsewhere.url)
    assert (again.code, "already contains events" in again.err) == (1, True)


async def test_an_export_ends_where_it_was_told(store: Store, elsewhere: Store, tmp_path: Path) -> None:
    scan_id = await store.a_finished_scan()
    views = await store.views()
    now = datetime.now(UTC)
    await store.append("dispatcher", scan_id, ev.ScanDeleted())
    await store.a_scan()
    file = tmp_path / "past"
    assert (
        await skydriver("log", "export", "--until", now.isoformat(), "-o", str(file), "--json", "--database-url", store.url)
    ).json["events"] == 9
    assert (await skydriver("log", "import", str(file), "--database-url", elsewhere.url)).code == 0
    assert await elsewhere.views() == views


async def test_a_clock_that_is_ahead_does_not_end_an_export_early(store: Store, tmp_path: Path) -> None:
    scan_id, file = await store.a_scan(), tmp_path / "past"
    async with store.uows["progress"].on_scans(a_context(), [scan_id]) as tx:
        tx.now += timedelta(hours=1)
        tx.append(scan_id, [a_report(1)])
    await store.append("progress", scan_id, a_report(2))
    until = datetime.now(UTC) + timedelta(minutes=1)
    async with store.uows["progress"].on_scans(a_context(), [scan_id]) as tx:
        tx.now += timedelta(hours=2)
        tx.append(scan_id, [a_report(3)])
    export = ("log", "export", "-o", str(file), "--json", "--database-url", store.url, "--until")
    assert (await skydriver(*export, until.isoformat())).json["events"] == 3, "all before that time, and the one between them"
    assert (await skydriver("log", "verify", "--export", str(file))).code == 0
    assert (await skydriver(*export, "2000-01-01")).json["events"] == 0


async def test_two_exports_to_one_file_do_not_mix(store: Store, tmp_path: Path) -> None:
    await _a_past(store)
    file = tmp_path / "past"
    export = ("log", "export", "--until", "2999-01-01", "-o", str(file), "--database-url", store.url)
    assert [ran.code for ran in await asyncio.gather(skydriver(*export), skydriver(*export))] == [0, 0]
    assert (await skydriver("log", "verify", "--export", str(file))).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["past"]


@pytest.mark.parametrize("damage", ["cut", "bit", "line", "other"])
async def test_a_damaged_file_is_refused_and_leaves_nothing(
    store: Store, tmp_path: Path, damage: str, elsewhere: Store
) -> None:
    await _a_past(store)
    file = tmp_path / "past"
    assert (await skydriver("log", "export", "--until", "2999-01-01", "-o", str(file), "--database-url", store.url)).code == 0
    whole = file.read_bytes()
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(whole).splitlines(keepends=True)
    changed = {
        "cut": whole[: len(whole) // 2],
        "bit": whole[:200] + bytes([whole[200] ^ 1]) + whole[201:],
        "line": zstandard.compress(b"".join(lines[:3] + lines[4:])),
        "other": b"no export at all",
    }
    file.write_bytes(changed[damage])
    for command in (("log", "verify", "--export", str(file)), ("log", "import", str(file), "--database-url", elsewhere.url)):
        ran = await skydriver(*command)
        assert ran.code == 1
        assert str(file) in ran.err.replace("\n", "")
        assert "Traceback" not in ran.err
    assert await _events(elsewhere) == []


async def test_what_was_altered_before_the_export_is_found_in_it(store: Store, elsewhere: Store, tmp_path: Path) -> None:
    scan_id = await store.a_finished_scan()
    async with store.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT break_glass('a test')")
        await connection.execute("UPDATE event_log SET actor = 'nobody' WHERE version = 3 AND scan_id = $1", scan_id)
    file = tmp_path / "past"
    await skydriver("log", "export", "--until", "2999-01-01", "-o", str(file), "--database-url", store.url)
    found = await skydriver("log", "verify", "--export", str(file), "--json")
    assert (found.code, [(one["scan_id"], one["version"]) for one in found.json["breaks"]]) == (1, [(scan_id, 3)])
    importing = ("log", "import", str(file), "--database-url", elsewhere.url)
    assert "1 chains are broken" in (await skydriver(*importing)).err
    assert (await skydriver(*importing, "--accept-breaks")).code == 0
    assert await _events(elsewhere) == await _events(store)


async def test_an_import_that_is_killed_leaves_nothing(store: Store, elsewhere: Store, tmp_path: Path) -> None:
    await _a_past(store)
    file = tmp_path / "past"
    await skydriver("log", "export", "--until", "2999-01-01", "-o", str(file), "--database-url", store.url)
    guard = await asyncpg.connect(elsewhere.url)
    try:
        async with guard.transaction():
            await guard.execute("LOCK TABLE relay_cursors IN ACCESS EXCLUSIVE MODE")  # the import gets to its last statement
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "skydriver_cli.app", "log", "import", str(file), "--database-url", elsewhere.url
            )

            async def waits_at_the_lock() -> bool:
                return bool(await guard.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

            await until(waits_at_the_lock)
            process.send_signal(signal.SIGKILL)
            await process.wait()
    finally:
        await guard.close()
    assert (await skydriver("log", "import", str(file), "--database-url", elsewhere.url)).code == 0
    assert await elsewhere.views() == await store.views()
