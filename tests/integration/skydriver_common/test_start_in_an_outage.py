"""A service that is started while a server is away waits for it, instead of dying again and again."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from skydriver_common.runtime.service import Service, serve
from skydriver_common.runtime.service_resources import open_resources
from skydriver_common.runtime.settings import ServiceSettings
from tests.support.proxy import Proxy
from tests.support.waiting import until


@pytest.fixture
async def proxies(database: str, clean_bus: str) -> AsyncIterator[list[Proxy]]:
    made = [Proxy(urlsplit(url).port or 0) for url in (database, clean_bus)]
    for proxy in made:
        await proxy.open()
    yield made
    for proxy in made:
        await proxy.close()


async def _waits(logged: list[EventDict]) -> bool:
    """Whether the service has said, again, that it waits."""
    return any(line["event"] == "startup.retrying" for line in logged)


async def test_it_waits_for_database_and_broker_and_then_is_ready(
    database: str, clean_bus: str, proxies: list[Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, url, proxy in zip(("DATABASE", "AMQP"), (database, clean_bus), proxies, strict=True):
        monkeypatch.setenv(f"SKYDRIVER_{name}_URL", url.replace(f":{urlsplit(url).port}/", f":{proxy.port}/"))
        await proxy.close()
    is_built, services = asyncio.Event(), list[Service]()

    async def build(service: Service) -> None:
        foundation = await open_resources(service, ServiceSettings.read())
        await foundation.start_consuming()
        is_built.set()

    running = asyncio.create_task(serve("progress", ServiceSettings.read(), build, on_created=services.append))
    with capture_logs() as logged:
        for proxy in proxies:
            logged.clear()
            await until(lambda: _waits(logged))
            assert not running.done()
            assert not is_built.is_set()
            await proxy.open()
    await asyncio.wait_for(is_built.wait(), 120)
    assert await services[0].health.not_ready() == []
    services[0].request_stop()
    assert await asyncio.wait_for(running, 120) == 0


async def test_it_stops_at_once_while_it_waits(
    database: str, clean_bus: str, proxies: list[Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYDRIVER_DATABASE_URL", database)
    monkeypatch.setenv("SKYDRIVER_AMQP_URL", clean_bus.replace(f":{urlsplit(clean_bus).port}/", f":{proxies[1].port}/"))
    await proxies[1].close()
    services = list[Service]()

    async def build(service: Service) -> None:
        await open_resources(service, ServiceSettings.read())

    running = asyncio.create_task(serve("progress", ServiceSettings.read(), build, on_created=services.append))
    with capture_logs() as logged:
        await until(lambda: _waits(logged))
    services[0].request_stop()
    assert await asyncio.wait_for(running, 120) == 0
