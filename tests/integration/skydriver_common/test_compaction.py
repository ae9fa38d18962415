"""Old progress reports are let go: the chain verifies, the fold gives the same views, and nothing else can be changed so."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from skydriver_common.log import blobs
from skydriver_common.log.compaction import compact_progress, compact_results
from skydriver_common.log.state_at import state_at
from skydriver_common.model import events as ev
from skydriver_common.model.ids import ScanId
from skydriver_ops.eventlog import rebuild
from skydriver_ops.eventlog.blob_verification import verify_blobs
from skydriver_ops.eventlog.verify import verify
from tests.support.histories import Store, a_context, a_report, skydriver

SOON = timedelta(hours=1)


async def _compact(store: Store, scan_id: ScanId, *, most: int = 500, before: datetime | None = None) -> int:
    async with store.uows["progress"].on_scans(a_context(), [scan_id]) as tx:
        return await compact_progress(tx, scan_id, before=before or datetime.now(UTC) + SOON, most=most)


async def _payloads(store: Store, scan_id: ScanId) -> list[int]:
    """Versions of the scan's reports that still have their content."""
    rows = await store.pool.fetch(
        "SELECT version FROM event_log WHERE scan_id = $1 AND type = 'scan.progress-reported' AND get_byte(data, 0) <> 0"
        " ORDER BY version",
        scan_id,
    )
    return [row["version"] for row in rows]


async def _is_sound(store: Store) -> None:
    async with store.pool.acquire() as connection:
        assert (await verify(connection)).breaks == []
        assert (await rebuild.check(connection)).differences == []


async def test_all_but_the_newest_report_go_and_everything_still_proves_itself(store: Store, tmp_path: Path) -> None:
    scan_id, other = await store.a_finished_scan(), await store.a_finished_scan()
    url = ("--database-url", store.url)
    seal = ("--seal", str(tmp_path / "a.seal"), "--key", str(tmp_path / "seal.pub.pem"))
    await skydriver("log", "seal", "-o", str(tmp_path / "a.seal"), "--key", str(tmp_path / "seal.pem"), *url)
    before = await store.pool.fetchrow("SELECT body, state FROM manifests WHERE scan_id = $1", scan_id)
    kept = (await _payloads(store, scan_id))[-1]
    assert await _compact(store, scan_id) == 2
    assert await _payloads(store, scan_id) == [kept]
    assert await _compact(store, scan_id) == 0
    assert len(await _payloads(store, other)) == 3
    assert await store.pool.fetchrow("SELECT body, state FROM manifests WHERE scan_id = $1", scan_id) == before
    await _is_sound(store)
    assert (await skydriver("log", "verify", *seal, *url)).code == 0
    history = (await skydriver("log", "history", scan_id, *url)).out
    assert "2 progress reports before version" in history
    assert history.count("compacted") >= 1
    tail = (await skydriver("log", "tail", "--scan", scan_id, "--json", *url)).lines
    gone = [row for row in tail if row["data"] is None]
    assert len(gone) == 2
    assert all(len(row["data_sha256"]) == 64 for row in gone)
    assert (await skydriver("log", "rebuild", "--swap", *url)).code == 0
    assert await store.pool.fetchrow("SELECT body, state FROM manifests WHERE scan_id = $1", scan_id) == before


async def test_a_scan_that_goes_on_is_compacted_up_to_its_newest_old_report(store: Store) -> None:
    scan_id = await store.a_scan()
    for sequence in range(1, 6):
        await store.append("progress", scan_id, a_report(sequence))
    cut = await store.pool.fetchval("SELECT recorded_at FROM event_log WHERE scan_id = $1 AND version = 5", scan_id)
    assert await _compact(store, scan_id, before=cut, most=1) == 1  # bounded batches
    assert await _payloads(store, scan_id) == [3, 4, 5, 6]
    assert await _compact(store, scan_id, before=cut) == 1
    assert await _payloads(store, scan_id) == [4, 5, 6]
    await store.append("progress", scan_id, a_report(9))
    await _is_sound(store)
    async with store.pool.acquire() as connection:
        then = await state_at(connection, scan_id, version=4)
    assert then is not None
    assert then.sequence == 3


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event_log SET data = '\\x00'::bytea || sha256(data) WHERE scan_id = $1 AND version = 5",
        "UPDATE event_log SET actor = 'somebody' WHERE scan_id = $1 AND version = 5",
        "DELETE FROM event_log WHERE scan_id = $1 AND version = 5",
        "SELECT let_go_of_progress($1, 7, 9)",  # without the event that says so
        "SELECT let_go_of_progress($1, 4, 9)",  # version 4 is no progress report: no later one would be kept
    ],
)
async def test_nothing_else_can_be_changed_so(store: Store, statement: str) -> None:
    scan_id = await store.a_finished_scan()
    rows: list[Any] = await store.pool.fetch("SELECT * FROM event_log ORDER BY position")
    with pytest.raises(asyncpg.PostgresError) as refused:
        await store.pool.execute(statement, scan_id)
    assert refused.value.sqlstate in ("SD001", "SD002")
    assert await store.pool.fetch("SELECT * FROM event_log ORDER BY position") == rows


async def test_a_forged_digest_is_found(store: Store) -> None:
    scan_id = await store.a_finished_scan()
    await _compact(store, scan_id)
    async with store.pool.acquire() as connection:
        async with connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute(
                "UPDATE event_log SET data = '\\x00'::bytea || sha256('other') WHERE scan_id = $1 AND get_byte(data, 0) = 0",
                scan_id,
            )
        assert [found.scan_id for found in (await verify(connection)).breaks] == [scan_id]


async def test_the_state_of_a_time_whose_report_was_let_go_says_so(store: Store) -> None:
    scan_id = await store.a_finished_scan()  # reports in its versions 6 to 8
    await _compact(store, scan_id)
    url = ("--database-url", store.url)
    for version, is_gone in ((5, False), (6, True), (7, True), (8, False), (9, False)):
        ran = await skydriver("log", "state", scan_id, "--at", str(version), "--json", *url)
        assert (ran.json["version"], ran.json["progress_was_let_go"]) == (version, is_gone)
    assert "was compacted" in (await skydriver("log", "state", scan_id, "--at", "7", *url)).err
    assert (await skydriver("log", "state", scan_id, "--at", "8", *url)).err == ""


async def test_more_reports_that_are_gone_than_were_let_go_are_found(store: Store) -> None:
    scan_id = await store.a_scan()
    await store.append("progress", scan_id, *(a_report(n) for n in range(1, 7)))
    assert await _compact(store, scan_id, most=3) == 3
    async with store.pool.acquire() as connection:
        assert (await verify(connection)).breaks == []
        async with connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute(
                "UPDATE event_log SET data = '\\x00'::bytea || sha256(data) WHERE scan_id = $1 AND version = 6", scan_id
            )
        assert [(found.scan_id, found.version) for found in (await verify(connection)).breaks] == [(scan_id, 6)]


async def test_metadata_and_results_are_never_let_go(store: Store) -> None:
    scan_id = await store.a_finished_scan()
    await store.append("progress", scan_id, ev.EventMetadataSet(event_metadata={"run_id": 1}))
    await _compact(store, scan_id)
    types = await store.pool.fetch("SELECT DISTINCT type FROM event_log WHERE get_byte(data, 0) = 0")
    assert [row["type"] for row in types] == ["scan.progress-reported"]


async def _a_scan_with_results(store: Store, *skymaps: bytes) -> ScanId:
    """A scan whose last skymap is the final one; all of them are old."""
    scan_id = await store.a_scan()
    for skymap in skymaps:
        digest = await blobs.put(store.pool, skymap)
        result = ev.ResultReceived(digest=digest, size_bytes=len(skymap), is_final=skymap == skymaps[-1], producer="a\x00b")
        await store.append("progress", scan_id, result)
    await store.pool.execute("UPDATE blobs SET stored_at = stored_at - interval '2 days'")
    return scan_id


async def _skymaps(store: Store) -> set[bytes]:
    return {bytes(row["body"]) for row in await store.pool.fetch("SELECT body FROM blobs WHERE encoding = 'identity'")}


async def _compact_results(store: Store, scan_id: ScanId, *, most: int = 20) -> int:
    async with store.uows["progress"].on_scans(a_context(), [scan_id]) as tx:
        return await compact_results(tx, scan_id, before=datetime.now(UTC) + SOON, most=most)


async def _missing(store: Store) -> list[str]:
    """Scans whose blobs are missing; the events of i3 that the histories name are not stored at all."""
    async with store.pool.acquire() as connection:
        return [flaw.scan_id for flaw in (await verify_blobs(connection)).defects if flaw.digest != "sha256:0"]


async def test_superseded_skymaps_go_but_the_first_and_the_final_one(store: Store) -> None:
    scan_id = await _a_scan_with_results(store, b"first", b"second", b"third", b"final")
    other = await _a_scan_with_results(store, b"third", b"other final")
    assert await _compact_results(store, scan_id, most=1) == 1
    assert await _compact_results(store, scan_id) == 0, "another scan's only partial result has the same content"
    assert await _skymaps(store) == {b"first", b"third", b"final", b"other final"}
    assert await _compact_results(store, other) == 0
    assert await _missing(store) == []
    await _is_sound(store)
    history = (await skydriver("log", "history", scan_id, "--database-url", store.url)).out
    assert "skymaps of 1 superseded partial results before version 5 removed" in history


async def test_a_skymap_that_is_gone_without_a_word_is_missing(store: Store) -> None:
    scan_id = await _a_scan_with_results(store, b"first", b"second", b"third", b"final")
    await _compact_results(store, scan_id)
    assert await _missing(store) == []
    await store.pool.execute("DELETE FROM blobs WHERE body = 'first'")
    assert await _missing(store) == [scan_id]
    await store.pool.execute("DELETE FROM blobs WHERE body = 'final'")
    assert await _missing(store) == [scan_id, scan_id]


async def test_a_skymap_that_was_put_again_lately_stays(store: Store) -> None:
    """A decision that is about to refer to it has looked whether it is there."""
    scan_id = await _a_scan_with_results(store, b"first", b"second", b"final")
    await blobs.put(store.pool, b"second")
    assert await _compact_results(store, scan_id) == 0
    assert await _skymaps(store) == {b"first", b"second", b"final"}


async def test_no_result_is_dropped_unless_a_later_one_is_kept(store: Store) -> None:
    scan_id = await _a_scan_with_results(store, b"first", b"second", b"final")
    with pytest.raises(asyncpg.PostgresError, match="no later result"):
        await store.pool.execute("SELECT drop_superseded_results($1, 9, 20)", scan_id)
