"""Rows of manifests that another release wrote last: decided on as if this one had, held against the log with both in mind."""

import asyncio

import orjson
import pytest

from skydriver_common.bus.envelope import reply_of
from skydriver_common.faults import TryLater
from skydriver_common.log import group_commit as together
from skydriver_common.log.scan_state_cache import ScanStateCache
from skydriver_common.model import events as ev
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import STATE_VERSION
from skydriver_ops.eventlog import rebuild
from skydriver_ops.eventlog.rebuild import Comparison
from tests.support.histories import Store, a_context, a_report, a_store


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every store of these tests reads rows as a process does that has just started."""
    monkeypatch.setattr(together, "PROCESS_STATES", ScanStateCache(max_state_bytes=0))


async def _alter(store: Store, scan_id: ScanId, **changes: object) -> None:
    """Write the row's ``rest`` anew, as another release would."""
    rest = orjson.loads(await store.pool.fetchval("SELECT rest FROM manifests WHERE scan_id = $1", scan_id))
    await store.pool.execute("UPDATE manifests SET rest = $2 WHERE scan_id = $1", scan_id, orjson.dumps(rest | changes))


async def _an_older_release_wrote(store: Store, scan_id: ScanId) -> None:
    """That one drops keys that it does not know."""
    rest = orjson.loads(await store.pool.fetchval("SELECT rest FROM manifests WHERE scan_id = $1", scan_id))
    kept = {name: value for name, value in rest.items() if name not in ("added", "written")}
    await store.pool.execute("UPDATE manifests SET rest = $2 WHERE scan_id = $1", scan_id, orjson.dumps(kept))


async def _compared(store: Store) -> Comparison:
    async with store.pool.acquire() as connection:
        return await rebuild.check(connection)


async def test_a_scan_goes_on_from_its_log_when_an_older_release_wrote_its_row(store: Store, database: str) -> None:
    scan_id = await store.a_scan()
    await store.append("dispatcher", scan_id, ev.LaunchAttempted(attempt=1), ev.ScanLaunched(launcher="local", job="j"))
    expected = await store.views()
    await _an_older_release_wrote(store, scan_id)
    # what this release folds beside is not in the row: here, a field that stands for it, with another value
    await _alter(store, scan_id, producer="as the older one folds it")
    async with a_store(database) as other, other.uows["progress"].on_scans(a_context(), [scan_id]) as tx:
        scan = tx.scan(scan_id)
        assert scan is not None
        assert scan.producer == ""
        tx.append(scan_id, [a_report(1)])
    found = await _compared(store)
    assert (found.differences, found.of_other_releases) == ([], 0)
    assert expected["backlog"] == (await store.views())["backlog"]


async def test_the_check_knows_rows_of_other_releases_and_still_sees_what_is_wrong_in_them(store: Store) -> None:
    older, newer, wrong = [await store.a_finished_scan() for _ in range(3)]
    await _an_older_release_wrote(store, older)
    await _alter(store, newer, written={"by": STATE_VERSION + 1, "for": 1}, more=1)
    found = await _compared(store)
    assert (found.differences, found.of_other_releases) == ([], 2)
    await _an_older_release_wrote(store, wrong)
    await _alter(store, wrong, sequence=99)
    found = await _compared(store)
    assert [(one.view, one.key) for one in found.differences] == [("manifests", wrong)]


async def test_a_row_that_only_a_newer_release_reads_holds_up_no_other_scan(store: Store, database: str) -> None:
    newer, plain = await store.a_scan(), await store.a_scan()
    await _alter(store, newer, written={"by": STATE_VERSION + 1, "for": STATE_VERSION + 1})
    async with a_store(database) as other:
        uow = other.uows["progress"]

        async def report(scan_id: ScanId) -> None:
            async with uow.on_scans(a_context(), [scan_id]) as tx:
                tx.append(scan_id, [a_report(1)])

        results = await asyncio.gather(*(report(scan_id) for scan_id in (newer, plain, newer, plain)), return_exceptions=True)
        assert [isinstance(each, TryLater) for each in results] == [True, False, True, False]
        with pytest.raises(TryLater, match="newer release"):
            await report(newer)


async def test_a_reply_with_a_code_of_a_newer_release_waits_and_holds_up_no_other(store: Store) -> None:
    scan_id = await store.a_scan()
    await store.pool.execute(
        "INSERT INTO command_replies (command_id, fingerprint, code, reason, body) VALUES ('k', '', 'of-a-newer-release', '', '')"
    )

    async def report(command_id: str) -> None:
        async with store.uows["progress"].on_scans(a_context(command_id), [scan_id]) as tx:
            assert tx.recorded_reply is None
            tx.append(scan_id, [a_report(1)])

    results = await asyncio.gather(*(report(command_id) for command_id in ("k", "other")), return_exceptions=True)
    assert [isinstance(each, TryLater) for each in results] == [True, False]
    with pytest.raises(TryLater, match="newer release"):
        reply_of({"code": "of-a-newer-release"}, b"")
