"""The client library and the progress service together, over a broker that is killed: what was confirmed is in the log, once."""

import asyncio
from pathlib import Path
from typing import Any

from skydriver_cli.embedded import rabbitmq
from skydriver_cli.embedded.ports import choose
from skydriver_common.bus import topology
from skydriver_common.log import rebuild
from skydriver_common.log.verify import verify
from skydriver_scanner import AsyncScannerSession, SessionSettings
from tests.support.histories import a_store
from tests.support.sandbox_parts import until
from tests.support.scanner_bus import a_progress, lanes, scanner_bus

SCANS, REPORTS = 6, 12


class _Scanner:
    """Reports, and waits each time until it is confirmed."""

    def __init__(self, settings: SessionSettings) -> None:
        self.settings = settings
        self.confirmed = 0

    async def run(self) -> None:
        async with AsyncScannerSession(self.settings) as session:
            for n in range(1, REPORTS + 1):
                await session.report_progress(**a_progress(n))
                await session.put_result({"nside-8": {"data": [[n, 1.5]]}}, is_final=False)
                assert await session.flush(60)
                self.confirmed = n
            await session.put_result({"nside-8": {"data": [[0, 1.5]]}}, is_final=True)
            await session.report_progress(**a_progress(REPORTS + 1, finished=True))


async def _is_registered(node: Path) -> bool:
    """Whether the broker has its register of quorum queues on disk, some seconds late: without it a kill loses new queues."""
    tables = [table.read_bytes() for table in node.rglob("names.dets")]
    queues = [topology.scanner_queue(kind).name.encode() for kind in topology.SCANNER_KINDS]
    return any(all(queue in table for queue in queues) for table in tables)


async def test_a_killed_broker_costs_no_confirmed_report_and_no_final_result(database: str, tmp_path: Path) -> None:
    where: dict[str, Any] = {"ports": choose(list(rabbitmq.PORTS), {}), "run_dir": tmp_path / "run", "logs": tmp_path / "logs"}
    node = await rabbitmq.start(tmp_path / "node", **where)
    try:
        async with (
            a_store(database) as store,
            scanner_bus(node.url, store, tmp_path) as (bus, dead, jwks),
            lanes(node.url, store, jwks, coalesces=False),
        ):
            await until(lambda: _is_registered(tmp_path / "node"))
            scanners = []
            for _ in range(SCANS):
                scan_id = await store.a_scan()
                nowhere = "http://127.0.0.1:9"  # over the bus, or not at all
                settings = SessionSettings(
                    scan_id, nowhere, bus.token(scan_id), node.url, spool_dir=tmp_path / "spool", bus_patience_s=600
                )
                scanners.append(_Scanner(settings))
            work = asyncio.gather(*(scanner.run() for scanner in scanners))

            async def all_are_at_it() -> bool:
                return work.done() or all(scanner.confirmed > 0 for scanner in scanners)

            await until(all_are_at_it)
            assert not all(scanner.confirmed == REPORTS for scanner in scanners)
            node.child.process.kill()
            await node.stop()
            node = await rabbitmq.start(tmp_path / "node", **where)
            await work
            for scanner in scanners:
                await bus.until(
                    scanner.settings.scan_id,
                    lambda scan: scan.has_final_result and scan.progress is not None and scan.progress["end"] is not None,
                )
            rows = await store.pool.fetch(
                "SELECT scan_id, type, count(*) AS logged, count(DISTINCT command_id) AS different FROM event_log"
                " WHERE type IN ('scan.progress-reported', 'scan.result-received') GROUP BY scan_id, type"
            )
            assert len(rows) == 2 * SCANS
            assert {(row["logged"], row["different"]) for row in rows} == {(REPORTS + 1, REPORTS + 1)}
            assert await dead.read(0) == []
            async with store.pool.acquire() as connection:
                assert (await verify(connection)).breaks == []
                assert (await rebuild.check(connection)).differences == []
    finally:
        await node.stop()
