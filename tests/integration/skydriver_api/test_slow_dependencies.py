"""What the gateway depends on hangs: others are served, and nothing is done for a client that has left."""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from skydriver_api.images.catalogs import CachedCatalog, DirectoryCatalog
from skydriver_api.images.resolver import EmbeddedCatalog, ImageResolver
from skydriver_common.auth import Issuer, JwksFile, TokenSigner, TokenVerifier, ensure_key
from skydriver_common.bus import topology
from skydriver_common.model.commands import RequestScan
from skydriver_common.model.ids import new_scan_id
from tests.support.gateway import local_gateway

ISSUER, AUDIENCE = "skydriver-local", "skydriver"
REQUEST = {
    "docker_tag": "latest", "reco_algo": "dummy", "nsides": {"8": 0}, "real_or_simulated_event": "real",
    "max_pixel_reco_time": 10, "cluster": {"osg": 1}, "event_i3live_json": {"a": 1},
}  # fmt: skip


@pytest.fixture
def may_return(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The image folder hangs until this is set."""
    event, listed = threading.Event(), os.scandir

    def hanging(path: Any) -> Any:
        if str(path).endswith("images"):
            event.wait()
        return listed(path)

    monkeypatch.setattr(os, "scandir", hanging)
    yield event
    event.set()


async def test_a_hung_image_folder_leaves_new_tokens_and_large_bodies_to_be_served(
    database: str, clean_bus: str, tmp_path: Path, may_return: threading.Event
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    jwks = ensure_key(tmp_path / "keys" / "issuer.pem")
    signer = TokenSigner.from_file(tmp_path / "keys" / "issuer.pem", issuer=ISSUER, audience=AUDIENCE)
    verifier = TokenVerifier([Issuer(ISSUER, JwksFile(jwks))], audience=AUDIENCE)
    now = [0.0]

    def clock() -> float:
        now[0] += 11  # each question comes when it is time for another look
        return now[0]

    images = ImageResolver(CachedCatalog(DirectoryCatalog(folder, limit_s=0.2), clock=clock), minimum="v4.0.0")
    async with local_gateway(database, clean_bus, verifier=verifier, images=images) as gateway:

        async def status(method: str, path: str, token: str, **more: Any) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            async with gateway.session.request(method, gateway.url + path, headers=headers, **more) as answer:
                return answer.status

        async with asyncio.timeout(60):
            user = signer.user_token()
            posts = await asyncio.gather(*(status("POST", "/scan", user, json=REQUEST) for _ in range(50)))
            assert set(posts) == {503}
            assert [thread.name for thread in threading.enumerate()].count("image-folder") == 1
            assert await status("GET", "/", signer.user_token("somebody new")) == 200
            scan = new_scan_id()
            token = signer.scan_token(scan, datetime.now(UTC) + timedelta(hours=1))
            body = json.dumps({"scan_metadata": {"x": "y" * 300_000}})
            assert await status("PATCH", f"/scan/{scan}/manifest", token, data=body) in (404, 503)  # no service runs here


class Catalog(EmbeddedCatalog):
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.was_asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def push_times(self) -> Mapping[str, float]:
        self.was_asked.set()
        await self.may_answer.wait()
        return await super().push_times()


@pytest.fixture
async def commands(clean_bus: str) -> AsyncIterator[list[str]]:
    """The ids of scans that are requested, in order."""
    came: list[str] = []

    async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        came.append(json.loads(message.body)["scan_id"])
        await message.ack()

    bus = await aio_pika.connect(clean_bus)
    async with bus:
        channel = await bus.channel()
        await topology.declare(channel)
        described = topology.command_queue(RequestScan.key)
        queue = await channel.declare_queue(described.name, durable=True, arguments=dict(described.arguments or {}))
        await queue.bind(topology.COMMAND_EXCHANGE.name, RequestScan.key)
        await queue.consume(handle)
        yield came
        await queue.delete(if_unused=False, if_empty=False)


async def test_a_client_that_has_left_sends_no_command(database: str, clean_bus: str, commands: list[str]) -> None:
    catalog = Catalog()
    images = ImageResolver(catalog, minimum="v4.0.0")
    async with local_gateway(database, clean_bus, images=images, deadline_s=0.5) as gateway, asyncio.timeout(60):
        body = json.dumps(REQUEST).encode()
        head = f"POST /scan HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: {len(body)}\r\n\r\n"
        _, writer = await asyncio.open_connection(gateway.host, gateway.port)
        writer.write(head.encode() + body)
        await writer.drain()
        await catalog.was_asked.wait()
        writer.transport.abort()
        async with gateway.session.get(gateway.url) as answer:  # the gateway has seen the end of the other connection by now
            assert answer.status == 200
        catalog.may_answer.set()
        async with gateway.session.post(f"{gateway.url}/scan", json=REQUEST) as answer:
            assert answer.status == 503  # one who stayed: the command was sent, and nobody here replies
        assert len(commands) == 1
