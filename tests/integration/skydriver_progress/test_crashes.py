"""Lanes between crashing servers: a skymap lost before its decision is put again, a broker that hangs up at once kills nobody."""

import asyncio
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from skydriver_common.auth import Issuer, JwksFile, TokenVerifier
from skydriver_common.db.schedule import Schedule
from skydriver_common.faults import TryLater
from skydriver_common.log import blobs
from skydriver_common.model.ids import digest_of
from skydriver_progress.ingest import Ingest, Message
from skydriver_progress.retention import Retention
from skydriver_progress.tokens import ScanTokens
from skydriver_scanner import wire
from tests.integration.skydriver_progress.conftest import Rig
from tests.support.proxy import Proxy
from tests.support.scanner_bus import AUDIENCE, ISSUER, a_progress, lanes


async def test_a_skymap_that_a_crash_has_lost_is_put_again_before_a_decision_refers_to_it(rig: Rig) -> None:
    scan_id = await rig.store.a_scan()
    ingest = Ingest(
        rig.store.pool, rig.store.bell, rig.store.uows["progress"],
        ScanTokens(TokenVerifier([Issuer(ISSUER, JwksFile(rig.jwks))], audience=AUDIENCE)),
        coalesces=True, token_grace_s=600,
        retention=Retention(rig.store.uows["progress"], Schedule(rig.store.pool, rig.store.bell, holder="t"), keep=timedelta(1)),
    )  # fmt: skip
    content = {"skyscan_result": {"nside-8": {"data": [1]}}, "is_final": True}
    packed = wire.pack(
        "result", scan_id, content, token=rig.bus.token(scan_id), producer="p", sequence=1, content_encoding=wire.NONE
    )
    message = Message(packed.routing_key, packed.headers, packed.body, wire.NONE, "p-1", None, len(packed.body), 1)
    items = await ingest.prepare([message])
    await rig.store.pool.execute("DELETE FROM blobs")  # what a crash does to a row that the disk had not got yet
    with pytest.raises(TryLater):
        await ingest.decide(items)
    assert await ingest.decide(items) == []
    digest = digest_of(b'{"nside-8":{"data":[1]}}')
    assert await blobs.get(rig.store.pool, digest) == b'{"nside-8":{"data":[1]}}'
    assert await rig.store.pool.fetchval("SELECT digest FROM results WHERE scan_id = $1", scan_id) == digest


async def test_a_broker_that_hangs_up_at_once_is_tried_again(rig: Rig) -> None:
    port = urlsplit(rig.amqp_url).port or 0
    proxy, hangs_up = Proxy(port), await asyncio.start_server(lambda _, writer: writer.transport.abort(), "127.0.0.1", 0)
    proxy.port = hangs_up.sockets[0].getsockname()[1]
    scan_id = await rig.store.a_scan()
    async with lanes(rig.amqp_url.replace(f":{port}/", f":{proxy.port}/"), rig.store, rig.jwks):
        await asyncio.sleep(0.5)
        hangs_up.close()
        await hangs_up.wait_closed()
        await proxy.open()
        await rig.bus.send("progress", scan_id, a_progress(1), sequence=1)
        await rig.bus.until(scan_id, lambda scan: scan.sequence == 1)
    await proxy.close()
