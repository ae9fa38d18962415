"""One file of authorities is enough for every server of an installation's own."""

import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import psycopg
import pytest
from aiohttp import web
from pydantic import ValidationError

from skydriver_common.bus.broker import watched
from skydriver_common.db.addresses import with_defaults
from skydriver_common.runtime.settings import BadSettings, ServiceSettings
from skydriver_common.trust import client_context, trust
from tests.support.kube.certificates import Authority

URLS = {"database_url": "postgresql://db/skydriver", "amqp_url": "amqps://bus/skydriver"}


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    yield Authority(tmp_path / "ca")
    trust(None)


@pytest.fixture
async def https(authority: Authority) -> AsyncIterator[str]:
    """The address of a server whose certificate is of the test's own authority."""

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    pair = authority.server("web")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://localhost:{runner.addresses[0][1]}/"
    await runner.cleanup()


async def _get(url: str) -> str:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_context())) as session,
        session.get(url) as response,
    ):
        return await response.text()


async def test_a_server_of_a_private_authority_is_reached_when_its_file_is_trusted(https: str, authority: Authority) -> None:
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await _get(https)
    trust(authority.pair.certificate)
    assert await _get(https) == "hello"


def test_the_systems_authorities_stay_trusted(authority: Authority) -> None:
    before = {str(each) for each in client_context().get_ca_certs()}
    trust(authority.pair.certificate)
    assert before < {str(each) for each in client_context().get_ca_certs()}


def test_the_broker_is_verified_by_it(authority: Authority) -> None:
    assert "cafile" not in watched("amqps://me:secret@bus/v")
    trust(authority.pair.certificate)
    query = parse_qs(urlsplit(watched("amqps://me:secret@bus/v")).query)
    assert query["cafile"] == [str(authority.pair.certificate)]
    assert "heartbeat" in query
    assert "cafile" not in watched("amqp://me:secret@bus/v")
    assert watched("amqps://bus/v?cafile=/own&heartbeat=5") == "amqps://bus/v?cafile=/own&heartbeat=5"


def test_a_database_that_is_to_be_verified_is_verified_by_it(authority: Authority) -> None:
    verified = "postgresql://me:secret@db/skydriver?sslmode=verify-full"
    assert with_defaults(verified) == verified
    trust(authority.pair.certificate)
    known = psycopg.conninfo.conninfo_to_dict(with_defaults(verified))
    assert known["sslrootcert"] == str(authority.pair.certificate)
    for url in ("postgresql://me@db/skydriver", "postgresql://me@db/s?sslmode=verify-full&sslrootcert=system"):
        assert with_defaults(url) == url
    several = psycopg.conninfo.conninfo_to_dict(with_defaults("postgresql://me@one:1,two:2/s?sslmode=verify-full"))
    assert (several["target_session_attrs"], several["sslrootcert"]) == ("read-write", str(authority.pair.certificate))


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_that_is_no_bundle_stops_the_start(content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_text(content)
    for name, value in (URLS | {"ca_file": str(file)}).items():
        monkeypatch.setenv(f"SKYDRIVER_{name.upper()}", value)
    with pytest.raises((BadSettings, ValidationError), match="SKYDRIVER_CA_FILE"):
        ServiceSettings.read()
