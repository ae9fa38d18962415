"""What happens by the clock: a scanner that says nothing is told of, old reports are let go. Due rows in Postgres, no timers."""

from datetime import UTC, datetime, timedelta
from typing import Any

from skydriver_common.db.schedule import Schedule
from skydriver_common.log.compaction import MAX_REPORTS
from skydriver_common.model import events as ev
from skydriver_common.model.commands import PatchManifest
from skydriver_common.model.ids import ScanId
from skydriver_common.model.problems import problems_of
from skydriver_common.payloads.reports import ParsedPatch, PatchBody
from skydriver_ops.eventlog import rebuild
from skydriver_ops.eventlog.verify import verify
from skydriver_progress import usecases
from skydriver_progress.backlog_gate import BacklogGate
from skydriver_progress.due_kinds import DueKind
from skydriver_progress.retention import Retention
from skydriver_progress.silence import SilenceWatch
from skydriver_progress.silence_reconciler import SilenceReconciler
from tests.support.histories import Store, a_context, a_report
from tests.support.scanner_bus import a_progress


def _schedule(store: Store) -> Schedule:
    return Schedule(store.pool, store.notifier, holder="test", lease=timedelta(seconds=1))


def _gate(*, is_clear: bool = True) -> BacklogGate:
    async def answer() -> bool:
        return is_clear

    return BacklogGate(answer, settle_time_s=0)


async def _launched(store: Store) -> ScanId:
    scan_id = await store.a_scan()
    await store.append("dispatcher", scan_id, ev.LaunchAttempted(attempt=1), ev.ScanLaunched(launcher="local", job="j"))
    return scan_id


async def _report(store: Store, scan_id: ScanId, n: int, retention: Retention, **changes: Any) -> None:
    parsed = ParsedPatch(PatchBody.model_validate(a_progress(n)))
    command = PatchManifest(scan_id=scan_id, progress=parsed.progress, **changes)
    assert (await usecases.patch_manifest(command, a_context(), store.uows["progress"], retention)).is_done


async def _due_now(store: Store, kind: str) -> None:
    await store.pool.execute("UPDATE due_work SET due_at = now() - interval '1 s', leased_until = NULL WHERE kind = $1", kind)


async def _problems(store: Store, scan_id: ScanId) -> set[str]:
    async with store.uows["progress"].on_scans(a_context(), [scan_id]) as tx:
        scan = tx.scan(scan_id)
    assert scan is not None
    return {problem["code"] for problem in problems_of(scan)}


async def _silences(store: Store) -> int:
    return int(await store.pool.fetchval("SELECT count(*) FROM event_log WHERE type = 'scan.scanner-silent'"))


async def test_a_scan_whose_launch_was_not_delivered_is_watched_nevertheless(store: Store) -> None:
    watched, unwatched, ended = await _launched(store), await _launched(store), await _launched(store)
    await store.append("dispatcher", ended, ev.ScanDeleted())
    watch = SilenceWatch(store.uows["progress"], _schedule(store), _gate(), limit=timedelta(hours=1))
    await watch.schedule_silence_check(watched)
    before = await store.pool.fetch("SELECT due_at FROM due_work WHERE scan_id = $1", watched)

    assert await SilenceReconciler(store.pool, watch).step() is False
    due = {row["scan_id"] for row in await store.pool.fetch("SELECT scan_id FROM due_work WHERE kind = $1", DueKind.SILENCE)}
    assert due == {watched, unwatched}
    assert await store.pool.fetch("SELECT due_at FROM due_work WHERE scan_id = $1", watched) == before


async def test_a_silent_scanner_is_told_of_once_until_it_speaks_again(store: Store) -> None:
    scan_id, ended = await _launched(store), await _launched(store)
    schedule = _schedule(store)
    retention = Retention(store.uows["progress"], schedule, keep=None)
    patient = SilenceWatch(store.uows["progress"], schedule, _gate(), limit=timedelta(hours=1))
    for each in (scan_id, scan_id, ended):  # an event may come twice
        await patient.schedule_silence_check(each)
    assert await patient.step() > 60  # nothing is due yet
    await store.append("dispatcher", ended, ev.ScanDeleted())
    await _due_now(store, DueKind.SILENCE)
    assert await patient.step() is True
    assert await patient.step() is True
    assert await _silences(store) == 0  # it was launched a moment ago
    assert (
        await store.pool.fetchval("SELECT count(*) FROM due_work WHERE kind = $1", DueKind.SILENCE) == 1
    )  # the deleted one is let be

    watch = SilenceWatch(store.uows["progress"], schedule, _gate(), limit=timedelta(microseconds=1))
    for _ in range(2):
        await _due_now(store, DueKind.SILENCE)
        assert await watch.step() is True
    assert await _silences(store) == 1
    assert "scanner-silent" in await _problems(store, scan_id)
    await _report(store, scan_id, 1, retention)
    assert "scanner-silent" not in await _problems(store, scan_id)
    await _due_now(store, DueKind.SILENCE)
    await watch.step()
    assert await _silences(store) == 2


async def test_waiting_for_the_first_worker_is_no_silence(store: Store) -> None:
    scan_id = await _launched(store)
    schedule = _schedule(store)
    watch = SilenceWatch(store.uows["progress"], schedule, _gate(), limit=timedelta(microseconds=1))
    await watch.schedule_silence_check(scan_id)
    progress = a_progress(1)["progress"]
    progress["processing_stats"] = progress["processing_stats"] | {"rate": {}, "end": "", "predictions": {}}
    command = PatchManifest(scan_id=scan_id, progress=progress)
    await usecases.patch_manifest(
        command, a_context(), store.uows["progress"], Retention(store.uows["progress"], schedule, keep=None)
    )
    await _due_now(store, DueKind.SILENCE)
    await watch.step()
    assert await _silences(store) == 0
    running = ev.WorkforceChanged(statuses={"RUNNING": {"osg": 1}}, n_running=1)
    await store.append("ewms_bridge", scan_id, running)
    await _due_now(store, DueKind.SILENCE)
    await watch.step()
    assert await _silences(store) == 0  # the worker may have begun just now
    await _due_now(store, DueKind.SILENCE)
    await watch.step()
    assert await _silences(store) == 1


async def test_without_any_worker_a_scan_that_had_some_is_not_silent_either(store: Store) -> None:
    scan_id = await _launched(store)
    schedule = _schedule(store)
    watch = SilenceWatch(store.uows["progress"], schedule, _gate(), limit=timedelta(microseconds=1))
    await watch.schedule_silence_check(scan_id)
    await _report(store, scan_id, 1, Retention(store.uows["progress"], schedule, keep=None))
    await store.append("ewms_bridge", scan_id, ev.WorkforceChanged(statuses={"RUNNING": {"osg": 1}}, n_running=1))
    await store.append("ewms_bridge", scan_id, ev.WorkforceChanged(statuses={"PENDING": {"osg": 1}}, n_running=0))
    for _ in range(2):
        await _due_now(store, DueKind.SILENCE)
        await watch.step()
    assert await _silences(store) == 0


async def test_nobody_is_silent_while_what_scanners_say_waits_for_us(store: Store) -> None:
    scan_id = await _launched(store)
    schedule = _schedule(store)
    behind_closed_gate = SilenceWatch(store.uows["progress"], schedule, _gate(is_clear=False), limit=timedelta(microseconds=1))
    await behind_closed_gate.schedule_silence_check(scan_id)
    for _ in range(2):
        await _due_now(store, DueKind.SILENCE)
        assert await behind_closed_gate.step() is True
    assert await _silences(store) == 0
    watching = SilenceWatch(store.uows["progress"], schedule, _gate(), limit=timedelta(microseconds=1))
    await _due_now(store, DueKind.SILENCE)
    await watching.step()
    assert await _silences(store) == 1  # the look was only put off


async def test_old_reports_are_let_go_when_their_time_has_come(store: Store) -> None:
    schedule = _schedule(store)
    keep = timedelta(days=30)
    retention = Retention(store.uows["progress"], schedule, keep=keep)
    scan_id = await store.a_scan()
    for n in range(1, 6):
        await _report(store, scan_id, n, retention)
    due_at = await store.pool.fetchval("SELECT due_at FROM due_work WHERE kind = $1 AND scan_id = $2", DueKind.COMPACT, scan_id)
    assert timedelta(days=29) < due_at - datetime.now(UTC) < timedelta(days=31)
    assert await retention.step() > 60
    await _due_now(store, DueKind.COMPACT)
    assert await retention.step() is True  # due, but the reports are young
    assert await _whole(store) == 5
    at_once = Retention(store.uows["progress"], schedule, keep=timedelta(microseconds=1))
    await store.append("dispatcher", scan_id, ev.ScanDeleted())
    await _due_now(store, DueKind.COMPACT)
    assert await at_once.step() is True
    assert await _whole(store) == 1
    assert await store.pool.fetchval("SELECT count(*) FROM event_log WHERE type = 'scan.progress-compacted'") == 1
    assert await at_once.step() is False  # the scan has ended: it is not looked at again
    async with store.pool.acquire() as connection:
        assert (await verify(connection)).breaks == []
        assert (await rebuild.check(connection)).differences == []


async def test_a_long_history_is_let_go_piece_by_piece(store: Store) -> None:
    schedule = _schedule(store)
    retention = Retention(store.uows["progress"], schedule, keep=timedelta(microseconds=1))
    scan_id = await store.a_scan()
    await _report(store, scan_id, 1, retention)
    for start in range(0, 2 * MAX_REPORTS, 100):
        await store.append("progress", scan_id, *(a_report(start + n) for n in range(100)))
    await store.append("dispatcher", scan_id, ev.ScanDeleted())
    left = []
    while await store.pool.fetchval("SELECT count(*) FROM due_work WHERE kind = $1", DueKind.COMPACT):
        await _due_now(store, DueKind.COMPACT)
        assert await retention.step() is True
        left.append(await _whole(store))
    assert left == [MAX_REPORTS + 1, 1, 1]
    assert await store.pool.fetchval("SELECT count(*) FROM event_log WHERE type = 'scan.progress-compacted'") == 2
    async with store.pool.acquire() as connection:
        assert (await verify(connection)).breaks == []
        assert (await rebuild.check(connection)).differences == []


async def _whole(store: Store) -> int:
    return int(
        await store.pool.fetchval(
            "SELECT count(*) FROM event_log WHERE type = 'scan.progress-reported' AND get_byte(data, 0) <> 0"
        )
    )
