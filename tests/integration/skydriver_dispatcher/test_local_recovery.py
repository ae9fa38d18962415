"""Scanner servers that are processes of this machine: what is counted against them, and what is found again without news."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from skydriver_common.db.schedule import Schedule
from skydriver_common.log import blobs
from skydriver_common.log.read import history
from skydriver_common.model import events as ev
from skydriver_common.model.commands import RequestScan
from skydriver_common.model.ids import ScanId, new_scan_id
from skydriver_common.model.problems import problems_of
from skydriver_common.model.scan import Scan
from skydriver_dispatcher.adapters.local import LocalLauncher
from skydriver_dispatcher.launch_steps import LaunchSteps
from skydriver_dispatcher.usecases import UseCases
from skydriver_dispatcher.watchdog import Watchdog
from tests.support.histories import Store, a_context, a_report, a_request
from tests.support.launchers import NEEDED
from tests.support.waiting import until

PROGRAM = """
import pathlib, sys, time
end = pathlib.Path("end")
while not end.exists() or not end.read_text():
    time.sleep(0.01)
code = int(end.read_text())
end.unlink()
sys.exit(code)
"""


@dataclass
class Life:
    """One life of the dispatcher."""

    store: Store
    work_dir: Path
    launcher: LocalLauncher
    launch_steps: LaunchSteps
    watchdog: Watchdog

    async def settle_down(self) -> None:
        step = self.launch_steps.new_worker()
        while any(
            [
                await each() is True
                for each in (step, self.watchdog.handle_event, self.watchdog.judge_exit, self.watchdog.relaunch)
            ]
        ):
            pass

    async def hasten(self) -> None:
        await self.settle_down()
        await self.store.pool.execute("UPDATE due_work SET due_at = now() - interval '1 s'")
        await self.settle_down()

    async def end(self, scan_id: ScanId, code: int) -> None:
        """Let the scanner server end by itself, and wait until its end is known."""
        known = asyncio.Event()
        self.launcher.events.on_event(known.set)
        (self.work_dir / scan_id / "end").write_text(str(code))
        async with asyncio.timeout(120):
            await known.wait()


class Machine:
    """Where dispatchers come and go."""

    def __init__(self, store: Store, work_dir: Path) -> None:
        self.store, self.work_dir = store, work_dir
        self.now: Life | None = None

    async def start(self) -> Life:
        """Start the dispatcher anew; its scanner servers run on."""
        await self.stop()
        launcher = LocalLauncher(self.work_dir, lambda _scan, _folder: {}, command=(sys.executable, "-S", "-c", PROGRAM))
        pool, uow = self.store.pool, self.store.uows["dispatcher"]
        schedule, usecases = Schedule(pool, self.store.notifier, holder="x"), UseCases(pool, uow)
        watchdog = Watchdog(pool, uow, schedule, launcher, usecases, result_grace=timedelta(0))
        self.now = Life(
            self.store, self.work_dir, launcher, LaunchSteps(pool, uow, schedule, launcher, max_attempts=3), watchdog
        )
        await watchdog.reconcile()
        await self.now.settle_down()
        return self.now

    async def stop(self) -> None:
        if self.now is not None:
            await self.now.launcher.close()

    async def request(self) -> ScanId:
        scan_id = new_scan_id()
        request = a_request(scan_id, **NEEDED | {"priority": 100}).request
        digest = await blobs.put(self.store.pool, b"an event")
        usecases = UseCases(self.store.pool, self.store.uows["dispatcher"])
        await usecases.request_scan(RequestScan(scan_id=scan_id, request=request, event_digest=digest), a_context())
        return scan_id

    async def scan(self, scan_id: ScanId) -> Scan:
        async with self.store.uows["dispatcher"].on_scans(a_context(), [scan_id]) as tx:
            scan = tx.scan(scan_id)
        assert scan is not None
        return scan

    async def restarts(self, scan_id: ScanId) -> list[ev.ScannerRestarted]:
        events = [logged.event async for logged in history(self.store.pool, scan_id)]
        return [event for event in events if isinstance(event, ev.ScannerRestarted)]

    async def kill_all(self) -> None:
        """As `up` does when it stops, or a machine that goes down: nobody is there to see how they end."""
        assert self.now is not None
        await self.now.launcher.close()
        for path in self.work_dir.glob("*/scanner.pid.json"):
            pid = int(path.read_text().partition('"pid": ')[2].partition(",")[0])
            os.kill(pid, signal.SIGKILL)
            await until(partial(_has_ended, pid), f"process {pid} has ended")


def _has_ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}/exe").exists()


@pytest.fixture
async def machine(store: Store, tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(store, tmp_path / "work")
    yield machine
    life = await machine.start()
    for scan_id in await life.launcher.running_scans():
        await life.launcher.stop(scan_id)
    await machine.stop()


async def test_ordinary_stops_of_the_system_are_no_failure_of_a_scan_however_many(machine: Machine) -> None:
    await machine.start()
    scan_id = await machine.request()
    life = await machine.start()
    for n in range(6):
        await machine.kill_all()
        life = await machine.start()
        assert await life.launcher.running_scans() == {scan_id: True}
        scan = await machine.scan(ScanId(scan_id))
        assert (scan.launch.state, scan.launch.restarts) == ("launched", 0)
        assert len(await machine.restarts(ScanId(scan_id))) == n + 1
    assert "scanner-restarted" not in [problem["code"] for problem in problems_of(scan)]
    assert "disappeared" not in scan.launch.reason


async def test_a_scanner_server_that_fails_without_progress_is_started_again_three_times(machine: Machine) -> None:
    life = await machine.start()
    scan_id = await machine.request()
    await life.settle_down()
    for restarts in (1, 2, 3):
        await life.end(ScanId(scan_id), 3)
        await life.hasten()
        assert (await machine.scan(ScanId(scan_id))).launch.restarts == restarts
    await machine.kill_all()
    life = await machine.start()  # a stop in between changes nothing
    assert (await machine.scan(ScanId(scan_id))).launch.restarts == 3
    await life.end(ScanId(scan_id), 3)
    await life.hasten()
    scan = await machine.scan(ScanId(scan_id))
    assert scan.launch.state == "failed"
    assert (
        scan.launch.reason == "the scanner server ended with exit code 3 after 3 restarts without progress, which is the limit"
    )


async def test_a_restart_after_progress_starts_the_count_again(machine: Machine) -> None:
    life = await machine.start()
    scan_id = await machine.request()
    await life.settle_down()
    for n in range(6):
        await life.end(ScanId(scan_id), 3)
        await life.hasten()
        assert (await machine.scan(ScanId(scan_id))).launch.restarts == 1
        report = a_report(n + 1)
        stats = {**report.progress["processing_stats"], "rate": {"average": "0:00:01"}}
        await machine.store.append(
            "progress", ScanId(scan_id), replace(report, progress={**report.progress, "processing_stats": stats})
        )
    empty = a_report(7)
    for restarts in (1, 2, 3):  # reports without a single pixel are no progress
        await life.end(ScanId(scan_id), 3)
        await life.hasten()
        assert (await machine.scan(ScanId(scan_id))).launch.restarts == restarts
        stats = {**empty.progress["processing_stats"], "rate": {}}
        await machine.store.append(
            "progress", ScanId(scan_id), replace(empty, progress={**empty.progress, "processing_stats": stats})
        )


async def test_a_process_that_is_gone_without_news_is_found_by_the_next_look(machine: Machine) -> None:
    life = await machine.start()
    scan_id = await machine.request()
    await life.settle_down()
    await life.end(scan_id, 3)
    life.launcher.events.clear()
    await life.watchdog.reconcile()
    await life.settle_down()
    assert await life.launcher.running_scans() == {scan_id: True}
    assert [event.restarts for event in await machine.restarts(ScanId(scan_id))] == [1]


async def test_what_was_started_again_during_the_look_is_not_missing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    life = await machine.start()
    scan_id = await machine.request()
    await life.settle_down()
    running_scans = life.launcher.running_scans

    async def and_it_ends_and_is_started_again() -> dict[str, bool]:
        found = await running_scans()
        await life.end(ScanId(scan_id), 3)
        await life.settle_down()
        return {each: runs for each, runs in found.items() if each != scan_id}

    with monkeypatch.context() as patched:
        patched.setattr(life.launcher, "running_scans", and_it_ends_and_is_started_again)
        assert await life.watchdog.reconcile() == 5.0, "it looks again soon"
    await life.settle_down()
    assert [event.restarts for event in await machine.restarts(ScanId(scan_id))] == [1]
