"""Whole scans: stand-in EWMS, scanner server and workers as processes, over a real RabbitMQ."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from skydriver_sandbox.processes import start_ticks
from skydriver_sandbox.sample_event import sample_event
from tests.support.sandbox_parts import Bridge, Ewms, FakeSkyDriver, Scanner, running_ewms, serving
from tests.support.waiting import until

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
SMALL = ["1:0", "4:3", "16:4"]


@dataclass
class Stage:
    """Everything a scan needs, started."""

    ewms: Ewms
    bridge: Bridge
    skydriver: FakeSkyDriver
    scanner: Scanner

    async def prepare(self, **workflow: Any) -> None:
        await self.bridge.request(**workflow)
        await self.bridge.hand_over()

    async def run(self, *, limit_s: float = 60.0) -> int:
        process = await self.scanner.start()
        try:
            async with asyncio.timeout(limit_s):
                return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def worker_pids(self) -> list[int]:
        found = []
        for path in (self.ewms.data_dir / "workers").glob("*.pid.json"):
            with contextlib.suppress(OSError, ValueError):
                identity = json.loads(path.read_text())
                if start_ticks(identity["pid"]) == identity["start_ticks"]:
                    found.append(identity["pid"])
        return found

    def check_final(self, nsides: list[str]) -> dict[str, Any]:
        """The last result is final and complete, each pixel in it once; the last progress agrees."""
        assert self.skydriver.calls[-2:] == ["PUT result", "PATCH manifest"], self.scanner.log()
        assert [sent["is_final"] for sent in self.skydriver.results].count(True) >= 1
        final = self.skydriver.results[-1]
        assert final["is_final"] is True
        for nside in nsides:
            entry = final["skyscan_result"][f"nside-{nside.partition(':')[0]}"]
            indices = [row[0] for row in entry["data"]]
            assert indices == sorted(set(indices))
            assert entry["metadata"]["complete"] is True
        progress = self.skydriver.progress[-1]["progress"]
        done = progress["tallies"]["overall"]["recos"]
        assert done["done"] == done["generated"]
        assert progress["processing_stats"]["finished"] is True
        assert isinstance(progress["end"], int)
        return dict(final["skyscan_result"])


@contextlib.asynccontextmanager
async def staged(
    folder: Path, amqp_url: str, *, event: Any = None, nsides: list[str] | None = None, workers: int = 2, **environment: str
) -> AsyncIterator[Stage]:
    async with running_ewms(folder / "ewms", amqp_url, workers=workers, environment=environment) as ewms:
        bridge = Bridge(ewms, folder / "scan")
        skydriver = FakeSkyDriver(event or sample_event(), bridge.n_running)
        async with serving(skydriver):
            scanner = Scanner(folder / "scan", skydriver.url, nsides=nsides or SMALL)
            yield Stage(ewms, bridge, skydriver, scanner)


@pytest.mark.parametrize("name", ["event_hese_2017", "event_neutrino_2023a"])
async def test_real_events_of_both_formats_scan_to_the_end(tmp_path: Path, amqp_url: str, name: str) -> None:
    path = DATA / f"{name}.json"
    if not path.exists():
        pytest.skip("the shared data folder is not on this machine")
    async with staged(tmp_path, amqp_url, event=json.loads(path.read_text()), nsides=["8:0", "64:12"]) as stage:
        await stage.prepare()
        assert await stage.run() == 0, stage.scanner.log()
        result = stage.check_final(stage.scanner.nsides)
        assert len(result["nside-8"]["data"]) == 768


async def test_the_calls_come_in_the_order_of_the_contract(tmp_path: Path, amqp_url: str) -> None:
    async with staged(tmp_path, amqp_url) as stage:
        await stage.prepare()
        assert await stage.run() == 0, stage.scanner.log()
        stage.check_final(SMALL)
        calls = [call for call in stage.skydriver.calls if call != "GET workforce"]
        assert calls[:4] == ["GET manifest", "PATCH manifest", "PATCH manifest", "PUT result"]
        first = stage.skydriver.progress[0]["progress"]
        assert "rate" not in first["processing_stats"]
        assert first["tallies"]["overall"]["recos"]["done"] == 0
        assert stage.skydriver.results[0] == {"skyscan_result": {}, "is_final": False}
        done = [report["progress"]["tallies"]["overall"]["recos"]["done"] for report in stage.skydriver.progress]
        assert done == sorted(done)
        for part in ("event_metadata", "scan_metadata"):
            assert len({json.dumps(report[part]) for report in stage.skydriver.progress}) == 1


async def test_seven_variations_leave_one_row_per_pixel(tmp_path: Path, amqp_url: str) -> None:
    async with staged(tmp_path, amqp_url, nsides=["1:0", "2:4"]) as stage:
        stage.scanner.words[1] = "splinempe"
        await stage.prepare()
        assert await stage.run() == 0, stage.scanner.log()
        result = stage.check_final(["1:0", "2:4"])
        assert len(result["nside-1"]["data"]) == 12
        assert result["nside-1"]["data"][0][2:4] == ["<skyreader.nan>", "<skyreader.nan>"]
        assert stage.skydriver.progress[-1]["progress"]["tallies"]["nsides"]["1"]["recos"]["done"] == 84


async def test_the_same_event_gives_the_same_map_twice(tmp_path: Path, amqp_url: str) -> None:
    maps = []
    for life in ("one", "two"):
        async with staged(tmp_path / life, amqp_url, nsides=["1:0", "4:3"]) as stage:
            await stage.prepare()
            assert await stage.run() == 0, stage.scanner.log()
            maps.append(stage.check_final(["1:0", "4:3"])["nside-1"]["data"])
    assert maps[0] == maps[1]


async def test_workers_killed_in_mid_scan_are_run_again_and_no_pixel_is_lost(tmp_path: Path, amqp_url: str) -> None:
    async with staged(tmp_path, amqp_url, SANDBOX_RECO_MEAN_S="0.02") as stage:
        await stage.prepare()
        scan = asyncio.create_task(stage.run())
        for _ in range(3):
            pids = await until(lambda: _list_of(stage.worker_pids()))
            seen = len(stage.skydriver.calls)
            os.kill(pids[0], signal.SIGKILL)
            await until(partial(_longer_than, stage.skydriver.calls, seen))
        assert await scan == 0, stage.scanner.log()
        stage.check_final(SMALL)


async def test_a_scanner_killed_in_mid_scan_goes_on_without_sending_a_pixel_twice(tmp_path: Path, amqp_url: str) -> None:
    async with staged(tmp_path, amqp_url, SANDBOX_RECO_MEAN_S="0.02") as stage:
        await stage.prepare()
        stage.scanner.environment["SKYSCAN_PROGRESS_INTERVAL_SEC"] = "0.1"
        process = await stage.scanner.start()

        async def some_are_back() -> bool:
            reports = stage.skydriver.progress
            return bool(reports) and reports[-1]["progress"]["tallies"]["overall"]["recos"]["done"] > 30

        await until(some_are_back)
        process.kill()
        await process.wait()
        known = len(stage.skydriver.progress)
        before = stage.skydriver.progress[-1]["progress"]
        assert await stage.run() == 0, stage.scanner.log()
        stage.check_final(SMALL)
        after = stage.skydriver.progress[known]["progress"]
        assert after["tallies"]["overall"]["recos"]["done"] >= before["tallies"]["overall"]["recos"]["done"]
        assert after["start"] == before["start"]
        assert "duplicate answer" not in stage.scanner.log()
        assert "sending again" not in stage.scanner.log()


@pytest.mark.parametrize("where", ["before-final-result", "before-last-progress"])
async def test_a_scanner_killed_at_its_very_end_repeats_the_final_calls(tmp_path: Path, amqp_url: str, where: str) -> None:
    async with staged(tmp_path, amqp_url, nsides=["1:0"]) as stage:
        stage.scanner.environment["SANDBOX_SCANNER_DIE"] = where
        await stage.prepare()
        assert await stage.run() == -signal.SIGKILL
        assert await stage.run() == 0, stage.scanner.log()
        stage.check_final(["1:0"])


async def test_a_stand_in_killed_in_mid_scan_goes_on_and_its_workers_die_with_it(tmp_path: Path, amqp_url: str) -> None:
    async with staged(tmp_path, amqp_url, SANDBOX_RECO_MEAN_S="0.02") as stage:
        await stage.prepare()
        scan = asyncio.create_task(stage.run(limit_s=90))
        await until(lambda: _list_of([call for call in stage.skydriver.calls if call == "PUT result"][1:]))
        pids = stage.worker_pids()
        port = int(stage.ewms.url.rpartition(":")[2])
        stage.ewms.process.kill()
        await stage.ewms.process.wait()
        await until(lambda: _true(all(not _is_running(pid) for pid in pids)))
        async with running_ewms(tmp_path / "ewms", amqp_url, port=port) as again:
            assert await scan == 0, stage.scanner.log()
            stage.check_final(SMALL)
            assert (await again.taskforces(stage.bridge.workflow_id))[0]["phase"] == "condor-submit"


async def test_pixels_that_workers_swallow_are_sent_again(tmp_path: Path, amqp_url: str) -> None:
    async with staged(tmp_path, amqp_url, nsides=["1:0", "2:4"]) as stage:
        stage.scanner.environment["SANDBOX_SCANNER_RESEND_AFTER_S"] = "0.5"
        await stage.ewms.faults(worker={"no_output": 0.3})
        await stage.prepare()
        assert await stage.run() == 0, stage.scanner.log()
        stage.check_final(["1:0", "2:4"])
        assert "pixels again" in stage.scanner.log()


async def test_double_nan_and_unknown_answers_do_not_break_the_books(tmp_path: Path, amqp_url: str) -> None:
    async with staged(tmp_path, amqp_url) as stage:
        stage.scanner.environment["SANDBOX_SCANNER_RESEND_AFTER_S"] = "0.5"
        await stage.ewms.faults(worker={"double": 0.2, "nan": 0.1, "unknown_pixel": 0.1})
        await stage.prepare()
        assert await stage.run() == 0, stage.scanner.log()
        result = stage.check_final(SMALL)
        assert any(row[1] == "<skyreader.nan>" for entry in result.values() for row in entry["data"])


async def test_a_deleted_scan_is_stopped_by_its_kill_switch(tmp_path: Path, amqp_url: str) -> None:
    async with staged(tmp_path, amqp_url, workers=0) as stage:
        stage.scanner.environment["SKYSCAN_KILL_SWITCH_CHECK_INTERVAL"] = "0.2"
        await stage.prepare()
        stage.skydriver.refuse["GET status"] = [500, 500, 404]
        scan = asyncio.create_task(stage.run())
        await until(lambda: _list_of(stage.skydriver.progress))
        # The refused looks before this one must not have ended the watch.
        await until(lambda: _true(stage.skydriver.calls.count("GET status") > 3))
        stage.skydriver.is_deleted = True
        assert await scan == 128 + signal.SIGINT, stage.scanner.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
async def test_a_signal_stops_the_scanner_at_once(tmp_path: Path, amqp_url: str, number: signal.Signals) -> None:
    async with staged(tmp_path, amqp_url, workers=0) as stage:
        process = await stage.scanner.start()
        await until(lambda: _list_of(stage.skydriver.calls))
        process.send_signal(number)
        async with asyncio.timeout(120):
            assert await process.wait() == 128 + number


async def test_a_refused_last_report_ends_the_scan_with_an_error(tmp_path: Path, amqp_url: str) -> None:
    async with staged(tmp_path, amqp_url, nsides=["1:0"]) as stage:
        # Sent, first one back, nothing to refine: three refusals in mid-scan are forgotten. The fourth PUT is the final one.
        stage.skydriver.refuse["PUT result"] = [400] * 4
        await stage.prepare()
        assert await stage.run() == 1
        assert "scan failed: PUT result: HTTP 400" in stage.scanner.log()
        assert stage.skydriver.results == []


async def test_workers_come_back_after_their_idle_time_only_when_added(tmp_path: Path, amqp_url: str) -> None:
    async with staged(tmp_path, amqp_url, nsides=["1:0"]) as stage:
        idle = {"EWMS_PILOT_TIMEOUT_QUEUE_INCOMING": "0.3", "EWMS_PILOT_TIMEOUT_QUEUE_WAIT_FOR_FIRST_MESSAGE": "30"}
        await stage.prepare(n_workers=1, **idle)
        assert await stage.run() == 0, stage.scanner.log()
        workflow_id = stage.bridge.workflow_id

        async def all_done() -> bool:
            found = await stage.ewms.taskforces(workflow_id)
            return all(taskforce["phase"] == "condor-complete" for taskforce in found)

        await until(all_done)
        taskforce = (await stage.ewms.taskforces(workflow_id))[0]
        assert taskforce["compound_statuses"] == {"COMPLETED": {"Done": 1}}
        status, _ = await stage.ewms.call(
            "POST",
            f"/v1/task-directives/{taskforce['task_id']}/actions/add-workers",
            {"cluster_location": "osg", "n_workers": 1},
        )
        assert status == 200
        await until(lambda: stage.ewms.n_running(workflow_id))


async def test_a_workflow_without_workers_gets_one_from_a_workflow_that_has_several(tmp_path: Path, amqp_url: str) -> None:
    async with staged(tmp_path, amqp_url, SANDBOX_RECO_MEAN_S="0.05", SANDBOX_EVICTION_S="0.5") as stage:
        await stage.prepare()
        scan = asyncio.create_task(stage.run(limit_s=90))
        await until(lambda: _true(len(stage.worker_pids()) == 2))
        other = Bridge(stage.ewms, tmp_path / "other")
        await other.request()
        await until(other.n_running)
        assert await stage.bridge.n_running() == 1
        await stage.ewms.call("POST", f"/v1/workflows/{other.workflow_id}/actions/abort")
        assert await scan == 0, stage.scanner.log()
        stage.check_final(SMALL)


async def test_workers_without_work_make_place_for_a_workflow_that_waits_and_do_not_take_it_back(
    tmp_path: Path, amqp_url: str
) -> None:
    async with staged(tmp_path, amqp_url, nsides=["1:0"], SANDBOX_EVICTION_S="0.5") as stage:
        await stage.prepare()
        assert await stage.run() == 0, stage.scanner.log()
        others = [Bridge(stage.ewms, tmp_path / name) for name in ("second", "third")]
        for other in others:
            await other.request()
        # their start-up files are not there: nobody has work, and the first one's jobs are the oldest
        await until(others[0].n_running)
        await until(others[1].n_running)


def _is_running(pid: int) -> bool:
    return start_ticks(pid) is not None


async def _true(value: bool) -> bool:
    return value


async def _longer_than(values: list[Any], length: int) -> bool:
    return len(values) > length


async def _list_of(values: list[Any]) -> list[Any]:
    return values
