"""Presigned URLs against an S3 server that is not ours."""

import socket
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr
from yarl import URL

from skydriver_common.faults import TryLater
from skydriver_ewms_bridge.adapters.object_store import S3Store, open_store

KEY = "18e0f1a2b3cx4f5e6d7c8b9a01234567-s3-object"


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
async def store(s3_url: str) -> AsyncIterator[S3Store]:
    async with aiohttp.ClientSession() as session, session.put(f"{s3_url}/scans") as made:
        assert made.status == 200
    async with open_store(url=s3_url, key_id="key", secret=SecretStr("secret"), bucket="scans") as store:
        yield store


async def test_what_is_put_by_one_url_is_read_by_the_other(store: S3Store) -> None:
    async with aiohttp.ClientSession() as session:
        assert not await store.exists("another-" + KEY)
        async with session.put(URL(store.presigned_put(KEY), encoded=True), data=b"{}") as put:
            assert put.status == 200
        async with session.get(URL(store.presigned_get(KEY), encoded=True)) as got:
            assert await got.read() == b"{}"
    assert await store.exists(KEY)


async def test_the_urls_are_good_for_a_week_and_show_no_secret(store: S3Store) -> None:
    url = URL(store.presigned_get(KEY))

    assert url.query["X-Amz-Expires"] == "604800"
    assert "/us-east-1/s3/" in url.query["X-Amz-Credential"]
    assert "secret" not in str(url)
    assert url.path == f"/scans/{KEY}"


async def test_a_store_that_is_away_is_no_missing_object() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        async with open_store(url=url, key_id="key", secret=SecretStr("secret"), bucket="scans") as store:
            with pytest.raises(TryLater, match="not reachable"):
                await store.exists(KEY)
