"""While nothing can be written, scanners report on and people are answered; what was reported shows when writing works again."""

import asyncio

import aio_pika
import asyncpg
import requests

from skydriver_scanner import protocol
from tests.acceptance.conftest import Running
from tests.acceptance.rest import REAL_PATCH, SYSTEM_ROLE, request_scan, token
from tests.support.waiting import until

REPORTS, LOOKS = 3000, 40
PATHS = ("/scan/{}/status", "/scan/{}/manifest", "/scans/backlog", "/scan/{}/events?limit=10")


async def test_the_gateway_answers_while_writing_is_held_up_and_reports_pile_up(quiet_system: Running) -> None:
    scan_id, other = [(await asyncio.to_thread(request_scan, quiet_system))["scan_id"] for _ in range(2)]
    bearers = {one: token(quiet_system, scan_id=one, sub="scan", resource_access=SYSTEM_ROLE) for one in (scan_id, other)}
    reader = {"Authorization": f"Bearer {quiet_system.connection['user_token']}"}

    async def report(exchange: aio_pika.abc.AbstractExchange, one: str, number: int) -> None:
        content = {"progress": REAL_PATCH["progress"] | {"summary": f"report {number}"}}
        packed = protocol.pack("progress", one, content, token=bearers[one], producer="p", sequence=number)
        await exchange.publish(aio_pika.Message(packed.body, headers=dict(packed.headers)), packed.routing_key)

    async def shows(one: str, number: int) -> bool:
        manifest = await asyncio.to_thread(quiet_system.get, f"/scan/{one}/manifest")
        return (manifest["progress"] or {}).get("summary") == f"report {number}"

    def looks() -> None:
        with requests.Session() as session:
            for n in range(LOOKS):
                path = PATHS[n % len(PATHS)].format(scan_id)
                assert session.get(quiet_system.connection["url"] + path, headers=reader, timeout=60).status_code == 200

    database = await asyncpg.connect(quiet_system.connection["database_url"])
    try:
        async with await aio_pika.connect(quiet_system.connection["amqp_url"]) as connection, database.transaction():
            await database.execute("LOCK TABLE event_log IN EXCLUSIVE MODE")  # reading works, writing waits
            exchange = await (await connection.channel()).get_exchange(protocol.EXCHANGE, ensure=False)
            flood = asyncio.gather(*(report(exchange, scan_id, number) for number in range(1, REPORTS + 1)))
            await asyncio.to_thread(looks)  # answered while the lock is held, so none of them waited for a write
            await flood
            await report(exchange, other, 1)
            assert not await shows(other, 1)
    finally:
        await database.close()
    await until(lambda: shows(other, 1))
    await until(lambda: shows(scan_id, REPORTS))
