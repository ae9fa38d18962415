"""Lanes between crashing servers: a skymap lost before its decision is put again, a broker that hangs up at once kills nobody."""

import asyncio
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from skydriver_common.auth import Issuer, JwksFile, TokenVerifier
from skydriver_common.bus import topology
from skydriver_common.db.pool import Pool
from skydriver_common.db.schedule import Schedule
from skydriver_common.faults import TryLater
from skydriver_common.log import blobs
from skydriver_common.model.ids import digest_of
from skydriver_progress.adapters import batch_consumer
from skydriver_progress.incoming import ReceivedMessage
from skydriver_progress.ingest import Ingest
from skydriver_progress.retention import Retention
from skydriver_progress.scan_token_verifier import ScanTokenVerifier
from skydriver_scanner import protocol
from tests.integration.skydriver_progress.conftest import Rig
from tests.support.histories import a_store
from tests.support.proxy import Proxy
from tests.support.scanner_bus import AUDIENCE, ISSUER, a_progress, batch_consumers


async def test_a_skymap_that_a_crash_has_lost_is_put_again_before_a_decision_refers_to_it(rig: Rig) -> None:
    scan_id = await rig.store.a_scan()
    ingest = Ingest(
        rig.store.pool, rig.store.notifier, rig.store.uows["progress"],
        ScanTokenVerifier(TokenVerifier([Issuer(ISSUER, JwksFile(rig.jwks))], audience=AUDIENCE)),
        coalesces=True, token_grace_s=600,
        retention=Retention(rig.store.uows["progress"], Schedule(rig.store.pool, rig.store.notifier, holder="t"), keep=timedelta(1)),
    )  # fmt: skip
    content = {"skyscan_result": {"nside-8": {"data": [1]}}, "is_final": True}
    packed = protocol.pack(
        "result", scan_id, content, token=rig.bus.token(scan_id), producer="p", sequence=1, content_encoding=protocol.NONE
    )
    message = ReceivedMessage(packed.routing_key, packed.headers, packed.body, protocol.NONE, "p-1", None, len(packed.body), 1)
    items = await ingest.prepare([message])
    await rig.store.pool.execute("DELETE FROM blobs")  # what a crash does to a row that the disk had not got yet
    with pytest.raises(TryLater):
        await ingest.decide(items)
    assert await ingest.decide(items) == []
    digest = digest_of(b'{"nside-8":{"data":[1]}}')
    assert await blobs.get(rig.store.pool, digest) == b'{"nside-8":{"data":[1]}}'
    assert await rig.store.pool.fetchval("SELECT digest FROM results WHERE scan_id = $1", scan_id) == digest


async def test_a_database_that_can_only_be_read_costs_no_message_its_life(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_consumer, "_RELEASE_AFTER_S", 0.1)
    monkeypatch.setattr(batch_consumer, "_DATABASE_POLL_S", 0.05)
    asked, asked_often = 0, asyncio.Event()
    can_be_written = blobs.can_be_written

    async def counted(pool: Pool) -> bool:
        nonlocal asked
        asked += 1
        if asked > topology.DELIVERY_LIMIT + 10:
            asked_often.set()
        return await can_be_written(pool)

    monkeypatch.setattr(blobs, "can_be_written", counted)
    scan_id = await rig.store.a_scan()
    assert await can_be_written(rig.store.pool)
    name = await rig.store.pool.fetchval("SELECT current_database()")
    await rig.store.pool.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    async with a_store(rig.store.url) as read_only, batch_consumers(rig.amqp_url, read_only, rig.jwks):
        await rig.bus.send("progress", scan_id, a_progress(1), sequence=1)
        async with asyncio.timeout(60):
            await asked_often.wait()
        assert await rig.dead.read(0) == []
    await rig.store.pool.execute("SET default_transaction_read_only = off")
    await rig.store.pool.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    async with a_store(rig.store.url) as store, batch_consumers(rig.amqp_url, store, rig.jwks):
        await rig.bus.until(scan_id, lambda scan: scan.sequence == 1)
    assert await rig.dead.read(0) == []


async def test_a_locked_log_can_not_be_written(rig: Rig) -> None:
    assert await blobs.can_be_written(rig.store.pool)
    async with rig.store.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE event_log IN EXCLUSIVE MODE")
        assert not await blobs.can_be_written(rig.store.pool)
    assert await blobs.can_be_written(rig.store.pool)
    assert await rig.store.pool.fetchval("SELECT count(*) FROM blobs") == 0


async def test_a_broker_that_hangs_up_at_once_is_tried_again(rig: Rig) -> None:
    port = urlsplit(rig.amqp_url).port or 0
    has_hung_up = asyncio.Event()

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        has_hung_up.set()

    proxy, hangs_up = Proxy(port), await asyncio.start_server(hang_up, "127.0.0.1", 0)
    proxy.port = hangs_up.sockets[0].getsockname()[1]
    scan_id = await rig.store.a_scan()
    async with batch_consumers(rig.amqp_url.replace(f":{port}/", f":{proxy.port}/"), rig.store, rig.jwks):
        async with asyncio.timeout(120):
            await has_hung_up.wait()
        hangs_up.close()
        await hangs_up.wait_closed()
        await proxy.open()
        await rig.bus.send("progress", scan_id, a_progress(1), sequence=1)
        await rig.bus.until(scan_id, lambda scan: scan.sequence == 1)
    await proxy.close()
