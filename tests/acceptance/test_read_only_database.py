"""While the database takes no writes, people are told to come again, and everything that waits is done afterwards.

So it is in a failover: the old primary turns into a stand-by, or the address leads to one.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import asyncpg
import requests

from skydriver_common.bus import topology
from skydriver_common.model.ids import ScanId
from skydriver_scanner import protocol
from tests.acceptance.conftest import Running, sample_event, scan_request
from tests.acceptance.rest import REAL_PATCH, SYSTEM_ROLE, ok, request_scan, token
from tests.support.waiting import until, wait_until

_BIG: dict[str, Any] = {"nsides": {"32": 0}, "max_pixel_reco_time": 30}
"""A scan that does not end by itself here."""
_RESULT = {"skyscan_result": {"nside-8": {"columns": ["index"], "data": [[0]], "metadata": {"nside": 8}}}, "is_final": False}

Call = tuple[str, str, Any, str]
"""Method, path, body, role."""


@asynccontextmanager
async def _read_only(database: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[None]:
    """Every session of the server, those that are open as well, can only read."""
    try:
        await database.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await database.execute("SELECT pg_reload_conf()")

        async def is_on() -> bool:
            return str(await database.fetchval("SHOW default_transaction_read_only")) == "on"

        await until(is_on)
        yield
    finally:
        await database.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await database.execute("SELECT pg_reload_conf()")


async def _waiting(system: Running, queue_name: str) -> int:
    """Messages in a queue that nobody has in hand."""
    async with await aio_pika.connect(system.connection["amqp_url"]) as connection:
        queue = await (await connection.channel()).get_queue(queue_name)
        return queue.declaration_result.message_count or 0


def _all_at_once(system: Running, calls: list[Call]) -> list[requests.Response]:
    def answer(call: Call) -> requests.Response:
        method, path, body, role = call
        return system.call(method, path, body=body, role=role)

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(answer, calls))


def _submit(system: Running, **changes: Any) -> str:
    return str(request_scan(system, **changes)["scan_id"])


async def test_a_database_that_turns_read_only_loses_nothing_and_makes_no_dead_letter(own_system: Running) -> None:
    system = own_system
    small, big, other = await asyncio.to_thread(lambda: (_submit(system), _submit(system, **_BIG), _submit(system, **_BIG)))
    await asyncio.to_thread(
        wait_until, lambda: system.get(f"/scan/{big}/ewms/workflow-id")["requested_ewms_workflow"], 60, "a workflow"
    )
    calls: list[Call] = [
        ("POST", "/scan", scan_request(sample_event()), "user"),
        ("PUT", f"/scan/{big}/result", _RESULT, "system"),
        ("PATCH", f"/scan/{big}/manifest", {"progress": REAL_PATCH["progress"]}, "system"),
        ("POST", f"/scan/{other}/actions/rescan", {}, "user"),
        ("DELETE", f"/scan/{other}", {}, "user"),
    ]
    bearer = token(system, scan_id=other, sub="scan", resource_access=SYSTEM_ROLE)

    async def report(exchange: aio_pika.abc.AbstractExchange, number: int) -> None:
        content = {"progress": REAL_PATCH["progress"] | {"summary": f"report {number}"}}
        packed = protocol.pack("progress", other, content, token=bearer, producer="p", sequence=number)
        await exchange.publish(aio_pika.Message(packed.body, headers=dict(packed.headers)), packed.routing_key)

    async def is_heard() -> bool:
        """Ours, unless the scan's own scanner has reported since: then that one shows."""
        manifest = await asyncio.to_thread(system.get, f"/scan/{other}/manifest")
        return manifest["progress"] is not None and not await _waiting(system, topology.scanner_queue("progress").name)

    database = await asyncpg.connect(system.connection["database_url"])
    try:
        async with await aio_pika.connect(system.connection["amqp_url"]) as connection:
            exchange = await (await connection.channel()).get_exchange(protocol.EXCHANGE, ensure=False)
            # what has just been decided, and still waits to be published, launched and ended
            late_deleted, late_launched = await asyncio.to_thread(lambda: (_submit(system, **_BIG), _submit(system)))
            ok(await asyncio.to_thread(system.call, "DELETE", f"/scan/{late_deleted}", body={}))
            async with _read_only(database):
                for _ in range(2):
                    await report(exchange, 10**9)
                    answers = await asyncio.to_thread(_all_at_once, system, calls)
                    assert [answer.status_code for answer in answers] == [503] * len(calls), [a.text for a in answers]
                    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
                    assert (await asyncio.to_thread(system.call, "GET", f"/scan/{big}/status")).status_code == 200
            await until(is_heard)
    finally:
        await database.close()

    answers = await asyncio.to_thread(_all_at_once, system, calls[:-1])
    assert [answer.status_code for answer in answers] == [200] * (len(calls) - 1), [answer.text for answer in answers]
    for scan_id in (big, other, answers[3].json()["scan_id"]):  # their workers are needed
        ok(await asyncio.to_thread(system.call, "DELETE", f"/scan/{scan_id}", body={"delete_completed_scan": True}))
    for scan_id in (small, late_launched):
        await asyncio.to_thread(
            wait_until, lambda s=scan_id: system.get(f"/scan/{s}/status")["scan_complete"], 120, f"{scan_id} is complete"
        )
    for scan_id in (big, other, late_deleted):

        def has_ended(scan_id: ScanId = ScanId(scan_id)) -> bool:
            is_gone = not (system.data_dir / "work" / scan_id / "scanner.pid.json").exists()
            has_workflow = system.get(f"/scan/{scan_id}/ewms/workflow-id")["requested_ewms_workflow"]
            return is_gone and bool(not has_workflow or system.get(f"/scan/{scan_id}/status")["ewms_deactivated"])

        await asyncio.to_thread(wait_until, has_ended, 60, f"{scan_id} has ended")
    assert await _waiting(system, topology.DEAD_LETTER_QUEUE) == 0
