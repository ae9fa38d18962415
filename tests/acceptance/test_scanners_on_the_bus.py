"""A scanner with the client library and nothing but its scan's token, against the whole system."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import pytest
import requests

from skydriver_common.auth import TokenSigner
from skydriver_common.model.ids import ScanId
from skydriver_scanner import AsyncScannerSession, ScannerSession, SessionSettings, StopSignal, protocol
from tests.acceptance.conftest import Running, sample_event, scan_request
from tests.acceptance.rest import REAL_PATCH, SYSTEM_ROLE, request_scan, token
from tests.support.waiting import wait_until

SKYMAP_TEXT = b'{"nside-8":{"columns":["index","llh"],"data":[[0,1.5],[1,NaN],[2,-Infinity]]}}'
SKYMAP = {"nside-8": {"columns": ["index", "llh"], "data": [[0, 1.5], [1, float("nan")], [2, float("-inf")]]}}


def settings(system: Running, scan_id: ScanId, folder: Path) -> SessionSettings:
    """As the launcher would tell it."""
    signer = TokenSigner.from_file(system.data_dir / "keys" / "key.pem", issuer="skydriver-local", audience="skydriver")
    token = signer.scan_token(ScanId(scan_id), datetime.now(UTC) + timedelta(hours=1))
    bus_url = f"amqp://127.0.0.1:{urlsplit(system.connection['amqp_url']).port}/"
    # the status is asked for when it connects and never again: what it hears later has come over the bus
    return SessionSettings(
        scan_id, system.connection["url"], token, bus_url, spool_dir=folder, bus_patience_s=60, status_interval_s=10_000
    )


@contextmanager
def session(system: Running, scan_id: ScanId, folder: Path) -> Iterator[ScannerSession]:
    with ScannerSession(settings(system, scan_id, folder)) as opened:
        yield opened


def reported(system: Running, scan_id: ScanId, type_: str) -> list[dict[str, Any]]:
    """The data of this scan's events of a type."""
    events = system.get(f"/scan/{scan_id}/events?limit=1000")["events"]
    return [event["data"] for event in events if event["type"] == type_]


def test_what_a_scanner_reports_on_the_bus_is_seen_over_rest(quiet_system: Running, tmp_path: Path) -> None:
    scan_id = request_scan(quiet_system)["scan_id"]
    with session(quiet_system, scan_id, tmp_path) as scanner:
        assert scanner.event() == sample_event()
        scanner.report_progress(**REAL_PATCH)
        scanner.put_result(SKYMAP, is_final=True)
        scanner.report_failure("it broke", log_tail="the last line")
    wait_until(lambda: b"NaN" in quiet_system.call("GET", f"/scan/{scan_id}/result").content, 60, "the result is there")
    assert SKYMAP_TEXT in quiet_system.call("GET", f"/scan/{scan_id}/result").content
    progress = quiet_system.get(f"/scan/{scan_id}/manifest")["progress"]
    assert progress["summary"] == REAL_PATCH["progress"]["summary"]
    wait_until(lambda: len(reported(quiet_system, scan_id, "scan.failure-reported")) == 1, 60, "the failure is told")
    (told,) = reported(quiet_system, scan_id, "scan.progress-reported")
    assert told["producer"]


def test_a_report_over_the_bus_that_comes_after_a_newer_one_over_rest_is_passed_over(quiet_system: Running) -> None:
    scan_id = request_scan(quiet_system)["scan_id"]
    bearer = token(quiet_system, scan_id=scan_id, sub="scan", resource_access=SYSTEM_ROLE)

    def report(number: int) -> dict[str, Any]:
        return {"progress": REAL_PATCH["progress"] | {"summary": f"report {number}"}}

    def over_rest(method: str, what: str, body: dict[str, Any], number: str) -> int:
        headers = {protocol.PRODUCER_HEADER: "p", protocol.SEQUENCE_HEADER: number, "Authorization": f"Bearer {bearer}"}
        url = f"{quiet_system.connection['url']}/scan/{scan_id}/{what}"
        return requests.request(method, url, json=body, headers=headers, timeout=120).status_code

    async def over_the_bus() -> None:
        async with await aio_pika.connect(quiet_system.connection["amqp_url"]) as connection:
            exchange = await (await connection.channel()).get_exchange(protocol.EXCHANGE, ensure=False)
            for kind, number, content in (
                ("progress", 3, report(3)), ("result", 4, {"skyscan_result": {"nside-8": {"data": [4]}}, "is_final": False}),
                ("failure", 8, {"reason": "so all before it was handled"}), ("progress", 9, {"scan_metadata": {"a": 1}}),
                ("result", 10, {"skyscan_result": {"nside-8": {"data": [10]}}, "is_final": True}),
            ):  # fmt: skip
                packed = protocol.pack(kind, scan_id, content, token=bearer, producer="p", sequence=number)
                await exchange.publish(aio_pika.Message(packed.body, headers=dict(packed.headers)), packed.routing_key)

    assert over_rest("PATCH", "manifest", report(5), "5") == 200
    skymap = {"skyscan_result": {"nside-8": {"data": [6]}}, "is_final": False}
    assert over_rest("PUT", "result", skymap, "6") == 200
    assert over_rest("PATCH", "manifest", report(5), "x") == 400
    asyncio.run(over_the_bus())
    wait_until(lambda: quiet_system.get(f"/scan/{scan_id}/manifest")["scan_metadata"] == {"a": 1}, 60, "all are handled")
    assert quiet_system.get(f"/scan/{scan_id}/manifest")["progress"]["summary"] == "report 5"
    wait_until(lambda: len(reported(quiet_system, scan_id, "scan.result-received")) == 2, 60, "the final result is there")
    assert [told["sequence"] for told in reported(quiet_system, scan_id, "scan.result-received")] == [6, 10]


def test_a_deletion_reaches_the_scanner_over_the_bus(quiet_system: Running, tmp_path: Path) -> None:
    async def delete(scan_id: ScanId) -> None:
        heard: asyncio.Queue[StopSignal] = asyncio.Queue()
        async with AsyncScannerSession(settings(quiet_system, scan_id, tmp_path)) as scanner:
            scanner.on_stop(heard.put)
            await scanner.report_progress(**REAL_PATCH)
            assert await scanner.flush(20)  # so it is connected
            answer = await asyncio.to_thread(quiet_system.call, "DELETE", f"/scan/{scan_id}", body={})
            assert answer.status_code == 200
            async with asyncio.timeout(60):
                assert await heard.get() == StopSignal("deleted")

    asyncio.run(delete(request_scan(quiet_system)["scan_id"]))


def test_the_end_of_its_workflow_reaches_the_scanner_over_the_bus(system: Running, tmp_path: Path) -> None:
    async def listen(scan_id: ScanId) -> None:
        heard: asyncio.Queue[StopSignal] = asyncio.Queue()
        async with AsyncScannerSession(settings(system, scan_id, tmp_path)) as scanner:
            scanner.on_stop(heard.put_nowait)
            await scanner.report_progress(**REAL_PATCH)
            assert await scanner.flush(20)  # so it is connected
            final = {"skyscan_result": {"nside-1": {"columns": [], "metadata": {}, "data": []}}, "is_final": True}
            answer = await asyncio.to_thread(
                system.call, "PUT", f"/scan/{scan_id}/result", body=final, role="system"
            )  # of another process: this one goes on
            assert answer.status_code == 200
            async with asyncio.timeout(60):
                assert await heard.get() == StopSignal("deactivated")

    body = scan_request(sample_event(), nsides={"64": 0})
    scan_id = system.call("POST", "/scan", body=body).json()["scan_id"]
    wait_until(lambda: system.get(f"/scan/{scan_id}/ewms/workflow-id")["requested_ewms_workflow"], 60, "a workflow")
    asyncio.run(listen(scan_id))
    assert reported(system, scan_id, "scan.workflow-deactivated"), "the log knows it when the scanner hears it"
    system.call("DELETE", f"/scan/{scan_id}", body={"delete_completed_scan": True})


def test_a_scanner_can_not_report_for_another_scan(quiet_system: Running, tmp_path: Path) -> None:
    mine, other = (request_scan(quiet_system)["scan_id"] for _ in range(2))
    own = settings(quiet_system, mine, tmp_path)
    foreign = SessionSettings(other, own.address, own.token, own.bus_url, spool_dir=tmp_path, bus_patience_s=0.1)
    with ScannerSession(foreign) as scanner:
        scanner.report_progress(**REAL_PATCH)
        assert scanner.flush(20)  # refused for good, over REST too
    assert quiet_system.get(f"/scan/{other}/manifest")["progress"] is None


@pytest.mark.parametrize("nsides", [{"1": 0, "2": 4}])
def test_the_sandbox_scanner_reports_over_the_bus(system: Running, nsides: dict[str, int]) -> None:
    scan_id = system.call("POST", "/scan", body=scan_request(sample_event(), nsides=nsides)).json()["scan_id"]
    wait_until(lambda: system.get(f"/scan/{scan_id}/status")["scan_complete"], 120, "the scan is complete")

    def has_ended() -> bool:
        told = reported(system, scan_id, "scan.progress-reported")
        return bool(told) and told[-1]["progress"]["processing_stats"]["finished"]

    wait_until(has_ended, 60, "the last progress")
    assert all(told["producer"] for told in reported(system, scan_id, "scan.progress-reported"))
    assert reported(system, scan_id, "scan.report-refused") == []
    assert list((system.data_dir / "work" / scan_id / "spool").rglob("*.message")) == []
