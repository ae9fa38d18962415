"""A log that was restored from a dump on a younger server: nobody writes, nobody publishes, until it is mended."""

import asyncio
from typing import Any

import pytest

from skydriver_common.bus.broker import connect
from skydriver_common.bus.relay import Relay
from skydriver_common.db.errors import database_faults
from skydriver_common.db.notifier import LOG_CHANNEL, Notifier
from skydriver_common.db.pool import open_pool
from skydriver_common.log.another_server import LogOfAnotherServer, refuse_log_of_another_server
from skydriver_common.log.unit_of_work import UnitOfWork
from tests.support.histories import Store, a_context, a_report

_MOVED = "SELECT set_config('session_replication_role', 'replica', true); UPDATE event_log SET xid = {} WHERE version = 1"
"""Without the triggers that keep the log as it is."""


async def test_nobody_writes_or_publishes_until_the_log_is_mended(store: Store, clean_bus: str) -> None:
    scan_id = await store.a_scan()
    names: dict[str, Any] = {"name": "test", "size": 1, "check": refuse_log_of_another_server}
    pool = await open_pool(store.url, **names)
    notifier, stopping = Notifier(pool), asyncio.Event()
    uow = UnitOfWork(pool, notifier, writer="progress")
    bus = await connect(clean_bus, name="test")
    relay = Relay(store.url, bus)

    async def report(number: int) -> None:
        async with uow.on_scans(a_context(), [scan_id]) as tx:
            tx.append(scan_id, [a_report(number)])

    async def written() -> int:
        return int(await store.pool.fetchval("SELECT count(*) FROM event_log"))

    async with store.pool.acquire() as connection, connection.transaction():
        before = await connection.fetchval("SELECT xid::text FROM event_log")
        await connection.execute(_MOVED.format("'99999999999'"))
    try:
        await report(1)  # a connection that was made before: none outlives the server that it leads to
        await pool.expire_connections()
        with pytest.raises(LogOfAnotherServer):
            await report(2)
        notifier.notify(LOG_CHANNEL)
        notifying = asyncio.create_task(notifier.run(stopping))  # outlives it: a service goes on when it is mended
        with pytest.raises(LogOfAnotherServer), database_faults():
            await open_pool(store.url, **names)
        with pytest.raises(LogOfAnotherServer):
            await relay.step()
        assert await written() == 2
        async with store.pool.acquire() as connection, connection.transaction():
            await connection.execute(_MOVED.format(f"'{before}'"))
        await report(3)
        await relay.step()
        assert await written() == 3
        assert not notifying.done()
        stopping.set()
        await notifying
    finally:
        await relay.close()
        await bus.close()
        pool.terminate()
