"""The client library and the progress service together, over a broker that is killed: what was confirmed is in the log, once.

Four things may become of a report: it is in the log; it was merged by the library, as a newer one was handed over before it was sent;
it was passed over by the service, as a newer one of its kind had been handled before it; or it is lost. The third happens because a
broker that was killed may deliver what a consumer held at that time after what was published later. The numbers tell them apart: each
report has its own, the library's bus says which ones were confirmed, the service which ones it decided on.
"""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from skydriver_cli.embedded import rabbitmq
from skydriver_cli.embedded.ports import choose
from skydriver_common.bus import topology
from skydriver_common.model.commands import PatchManifest, PutResult
from skydriver_common.model.events import Event
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Rejection
from skydriver_common.model.scan import Scan
from skydriver_ops.eventlog import rebuild
from skydriver_ops.eventlog.verify import verify
from skydriver_progress.decide.reports import decide_report
from skydriver_progress.reports import ScannerReport
from skydriver_scanner import AsyncScannerSession, SessionSettings, protocol
from skydriver_scanner.bus import Bus
from tests.support.histories import a_store
from tests.support.scanner_bus import a_progress, batch_consumers, scanner_bus
from tests.support.waiting import until

SCANS, REPORTS = 6, 12

Place = tuple[str, str, int]
"""Scan, kind and number of a report."""


class _Scanner:
    """Reports, and waits each time until it is confirmed; or does not wait, so that reports of progress may be merged."""

    def __init__(self, settings: SessionSettings, *, waits: bool) -> None:
        self.settings = settings
        self.waits = waits
        self.confirmed = 0

    async def run(self) -> None:
        async with AsyncScannerSession(self.settings) as session:
            for n in range(1, REPORTS + 1):
                await session.report_progress(**a_progress(n))
                await session.put_result({"nside-8": {"data": [[n, 1.5]]}}, is_final=False)
                if self.waits or n == 1:
                    assert await session.flush(60)
                if not self.waits and n == 1:
                    self.confirmed = n
                    await until(lambda: _is_down(session))  # from here on all wait for the broker
                self.confirmed = n
            await session.put_result({"nside-8": {"data": [[0, 1.5]]}}, is_final=True)
            await session.report_progress(**a_progress(REPORTS + 1, finished=True))


async def _is_registered(node: Path) -> bool:
    """Whether the broker has its register of quorum queues on disk, some seconds late: without it a kill loses new queues."""
    tables = [table.read_bytes() for table in node.rglob("names.dets")]
    queues = [topology.scanner_queue(kind).name.encode() for kind in topology.SCANNER_KINDS]
    return any(all(queue in table for queue in queues) for table in tables)


async def _is_down(session: AsyncScannerSession) -> bool:
    bus = session._engine._delivery._bus
    return bus is not None and not bus.is_up


@pytest.fixture
def confirmed(monkeypatch: pytest.MonkeyPatch) -> set[Place]:
    """What brokers have confirmed to scanners of this process."""
    places: set[Place] = set()
    publish = Bus.publish

    async def published(self: Bus, packed: protocol.PackedMessage) -> None:
        await publish(self, packed)
        kind, _, scan_id = packed.routing_key.partition(".")
        places.add((scan_id, kind, packed.headers["sequence"]))

    monkeypatch.setattr(Bus, "publish", published)
    return places


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> set[Place]:
    """What the service has decided on in this process, whatever the decision was."""
    places: set[Place] = set()

    def deciding(scan: Scan, report: ScannerReport, now: float, **more: Any) -> list[Event] | Rejection:
        kind = {PatchManifest: "progress", PutResult: "result"}.get(type(report), "failure")
        places.add((report.scan_id, kind, report.sequence))
        return decide_report(scan, report, now, **more)

    monkeypatch.setattr("skydriver_progress.decide.groups.decide_report", deciding)
    return places


def _handed_over(scan_id: str) -> set[Place]:
    """By one scanner: progress and results in turn, the final one and then the last report of progress."""
    kinds = ["progress", "result"] * REPORTS + ["result", "progress"]
    return {(scan_id, kind, number) for number, kind in enumerate(kinds)}


@pytest.mark.parametrize("waits", [True, False])
async def test_a_killed_broker_costs_no_confirmed_report_and_no_final_result(
    database: str, tmp_path: Path, confirmed: set[Place], decided: set[Place], waits: bool
) -> None:
    where: dict[str, Any] = {"ports": choose(list(rabbitmq.PORTS), {}), "run_dir": tmp_path / "run", "logs": tmp_path / "logs"}
    node = await rabbitmq.start(tmp_path / "node", **where)
    try:
        async with (
            a_store(database) as store,
            scanner_bus(node.url, store, tmp_path) as (bus, dead, jwks),
            batch_consumers(node.url, store, jwks, coalesces=False),
        ):
            await until(lambda: _is_registered(tmp_path / "node"))
            scanners = []
            for _ in range(SCANS):
                scan_id = await store.a_scan()
                nowhere = "http://127.0.0.1:9"  # over the bus, or not at all
                settings = SessionSettings(
                    scan_id, nowhere, bus.token(scan_id), node.url, spool_dir=tmp_path / "spool", bus_patience_s=600
                )
                scanners.append(_Scanner(settings, waits=waits))
            work = asyncio.gather(*(scanner.run() for scanner in scanners))

            async def all_are_at_it() -> bool:
                return work.done() or all(scanner.confirmed > 0 for scanner in scanners)

            async def all_are_decided() -> bool:
                return confirmed <= decided

            await until(all_are_at_it)
            assert not work.done()
            node.child.process.kill()
            await node.stop()
            node = await rabbitmq.start(tmp_path / "node", **where)
            await work
            for scanner in scanners:
                await bus.until(
                    ScanId(scanner.settings.scan_id),
                    lambda scan: scan.has_final_result and scan.progress is not None and scan.progress["end"] is not None,
                )
            with suppress(TimeoutError, AssertionError):
                await until(all_are_decided)  # what a consumer held when the broker died may come last
            rows = await store.pool.fetch(
                "SELECT scan_id, type, command_id FROM event_log"
                " WHERE type IN ('scan.progress-reported', 'scan.result-received')"
            )
            kinds = {"scan.progress-reported": "progress", "scan.result-received": "result"}
            logged = [(row["scan_id"], kinds[row["type"]], int(row["command_id"].partition(":")[2])) for row in rows]
            assert len(logged) == len(set(logged))
            handed_over = set().union(*(_handed_over(scanner.settings.scan_id) for scanner in scanners))
            assert confirmed - decided == set()  # lost
            assert set(logged) <= handed_over
            for scan, kind, number in decided - set(logged):  # passed over
                assert any(one[:2] == (scan, kind) and one[2] > number for one in logged), (kind, number)
            merged = handed_over - confirmed
            # the library merges progress only, never the last report, and nothing that it was waited for
            assert {(kind, number == 2 * REPORTS + 1) for _, kind, number in merged} <= {("progress", False)}
            assert not (waits and merged)
            assert waits or merged
            assert await dead.read(0) == []
            async with store.pool.acquire() as connection:
                assert (await verify(connection)).breaks == []
                assert (await rebuild.check(connection)).differences == []
    finally:
        await node.stop()
