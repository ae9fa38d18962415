"""A connection pooler before the database: one that keeps sessions is as good as none, another one stops the start."""

import asyncio

import pytest

from skydriver_common.db.migrate import migrate
from skydriver_common.db.notifier import DUE_CHANNEL
from skydriver_common.db.pooler import SharedSessions, shares_sessions
from skydriver_common.runtime.loops import LoopSignals
from skydriver_common.runtime.service import Service, serve
from skydriver_common.runtime.service_resources import ServiceResources, open_resources, open_service_pool
from skydriver_common.runtime.settings import ServiceSettings
from tests.support.pgbouncer import needs_pgbouncer, pgbouncer
from tests.support.waiting import until

pytestmark = needs_pgbouncer


@pytest.mark.parametrize(("mode", "is_refused"), [("session", False), ("transaction", True), ("statement", None)])
async def test_the_mode_is_seen_from_the_sessions(database: str, mode: str, is_refused: bool | None) -> None:
    async with pgbouncer(database, mode=mode) as url:
        if is_refused is None:
            with pytest.raises(Exception, match="transaction"):  # it says itself that it allows none
                await asyncio.to_thread(shares_sessions, url)
        else:
            assert await asyncio.to_thread(shares_sessions, url) is is_refused


async def test_it_is_seen_with_one_session_for_all_and_beside_other_clients(database: str) -> None:
    async with pgbouncer(database, mode="transaction", pool_size=1) as url:
        assert await asyncio.to_thread(shares_sessions, url)
    assert not await asyncio.to_thread(shares_sessions, database)


async def test_nothing_is_migrated_through_it(database: str) -> None:
    async with pgbouncer(database, mode="transaction") as url:
        with pytest.raises(SharedSessions, match="set pool_mode = session"):
            await asyncio.to_thread(migrate, url)


async def test_in_session_mode_a_service_is_woken_by_notify(
    database: str, clean_bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYDRIVER_AMQP_URL", clean_bus)
    opened: list[tuple[Service, ServiceResources]] = []
    pulse = LoopSignals()

    async def build(service: Service) -> None:
        resources = await open_resources(service, ServiceSettings.read())
        resources.wake_when_due(["a-test"], pulse)
        await resources.start_consuming()
        opened.append((service, resources))

    async with pgbouncer(database, mode="session") as url:
        monkeypatch.setenv("SKYDRIVER_DATABASE_URL", url)
        running = asyncio.create_task(serve("progress", ServiceSettings.read(), build))
        await until(lambda: bool(opened) or running.done(), "the service is built")
        service, resources = opened[0]
        await until(lambda: _is_ready(service), "the service is ready")
        pulse.work.clear()
        await resources.pool.execute("SELECT pg_notify($1, $2)", DUE_CHANNEL, "a-test")
        await until(pulse.work.is_set, "the loop is woken")
        service.request_stop()
        assert await asyncio.wait_for(running, 60) == 0


async def _is_ready(service: Service) -> bool:
    return await service.health.not_ready() == []


@pytest.mark.parametrize("opened", ["all that a service needs", "the gateway's pool"])
async def test_in_transaction_mode_no_service_starts_and_one_line_says_why(
    database: str, clean_bus: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], opened: str
) -> None:
    monkeypatch.setenv("SKYDRIVER_AMQP_URL", clean_bus)

    async def build(service: Service) -> None:
        if opened == "the gateway's pool":
            await open_service_pool(service, ServiceSettings.read().database_url.get_secret_value())
        else:
            await open_resources(service, ServiceSettings.read())

    async with pgbouncer(database, mode="transaction") as url:
        monkeypatch.setenv("SKYDRIVER_DATABASE_URL", url)
        code = await asyncio.wait_for(serve("progress", ServiceSettings.read(), build), 120)
    lines = [line for line in capfd.readouterr().err.splitlines() if "cannot start" in line]
    assert code == 2
    assert len(lines) == 1
    assert "SKYDRIVER_DATABASE_URL: the connection pooler in front of the database is in transaction mode" in lines[0]
    assert "set pool_mode = session" in lines[0]
