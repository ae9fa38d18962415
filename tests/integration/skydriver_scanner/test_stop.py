"""A scan's end reaches its scanner: pushed over the bus, or found over REST."""

import asyncio
import dataclasses
import threading

import aio_pika

from skydriver_scanner import AsyncScannerSession, ScannerSession, ScanStopped, SessionSettings, StopSignal, protocol
from tests.support.proxy import Proxy
from tests.support.sandbox_parts import SCAN_ID, FakeSkyDriver
from tests.support.waiting import until

Channel = aio_pika.abc.AbstractChannel


async def _publish_stop(bus: Channel, scan_id: str, reason: str = "deleted") -> None:
    exchange = await bus.get_exchange(protocol.STOP_EXCHANGE, ensure=False)
    await exchange.publish(aio_pika.Message(protocol.stop_signal(reason)), scan_id, mandatory=scan_id == SCAN_ID)


async def _is_listening(skydriver: FakeSkyDriver, asked: int = 2) -> None:
    """A session asks for the status once at its start and once after each connect."""

    async def has_asked() -> bool:
        return skydriver.calls.count("GET status") >= asked

    await until(has_asked)


async def test_a_stop_signal_reaches_its_scanner_and_no_other(
    settings: SessionSettings, bus: Channel, skydriver: FakeSkyDriver
) -> None:
    heard: asyncio.Queue[StopSignal] = asyncio.Queue()
    async with AsyncScannerSession(settings) as session:
        session.on_stop(heard.put)
        await _is_listening(skydriver)
        await _publish_stop(bus, "another")
        await _publish_stop(bus, SCAN_ID)
        async with asyncio.timeout(120):
            assert await heard.get() == StopSignal("deleted")
        await _publish_stop(bus, SCAN_ID)
        late: asyncio.Queue[StopSignal] = asyncio.Queue()
        session.on_stop(late.put)
        assert await late.get() == StopSignal("deleted")
        assert heard.empty()


async def test_the_blocking_form_is_called_in_a_thread(
    settings: SessionSettings, bus: Channel, skydriver: FakeSkyDriver
) -> None:
    heard, names = threading.Event(), []

    def stop(_: StopSignal) -> None:
        names.append(threading.current_thread().name)
        heard.set()

    session = await asyncio.to_thread(ScannerSession, settings)
    session.on_stop(stop)
    await _is_listening(skydriver)
    await _publish_stop(bus, SCAN_ID, "deactivated")
    assert await asyncio.to_thread(heard.wait, 10)
    assert names == ["skydriver-stop"]
    await asyncio.to_thread(session.close)


async def test_the_signal_is_heard_after_the_connection_was_cut(
    settings: SessionSettings, bus: Channel, skydriver: FakeSkyDriver, proxy: Proxy
) -> None:
    heard: asyncio.Queue[StopSignal] = asyncio.Queue()
    async with AsyncScannerSession(settings) as session:
        session.on_stop(heard.put)
        await _is_listening(skydriver)
        proxy.cut()
        await _is_listening(skydriver, asked=3)
        await _publish_stop(bus, SCAN_ID)
        async with asyncio.timeout(120):
            assert await heard.get() == StopSignal("deleted")


async def test_a_stop_while_the_bus_was_away_is_found_on_connect(
    settings: SessionSettings, bus: Channel, skydriver: FakeSkyDriver, proxy: Proxy
) -> None:
    heard: asyncio.Queue[StopSignal] = asyncio.Queue()
    proxy.refuse = True
    async with AsyncScannerSession(settings) as session:
        session.on_stop(heard.put)
        await _is_listening(skydriver, asked=1)
        skydriver.is_deleted = True
        proxy.refuse = False
        async with asyncio.timeout(120):
            assert await heard.get() == StopSignal("deleted")


async def test_without_a_bus_the_status_is_asked_for(rest_settings: SessionSettings, skydriver: FakeSkyDriver) -> None:
    heard: asyncio.Queue[StopSignal] = asyncio.Queue()
    skydriver.refuse = {"GET status": [503, 404]}
    async with AsyncScannerSession(dataclasses.replace(rest_settings, status_interval_s=0.05)) as session:
        session.on_stop(heard.put)
        await _is_listening(skydriver, asked=3)
        skydriver.is_deleted = True
        async with asyncio.timeout(120):
            assert await heard.get() == StopSignal("deleted")


async def test_the_end_of_the_workflow_of_a_finished_scan_is_no_stop(
    settings: SessionSettings, bus: Channel, skydriver: FakeSkyDriver
) -> None:
    heard: asyncio.Queue[StopSignal] = asyncio.Queue()
    async with AsyncScannerSession(settings) as session:
        session.on_stop(heard.put)
        await _is_listening(skydriver)
        await session.put_result({}, is_final=True)
        await _publish_stop(bus, SCAN_ID, "deactivated")
        await _publish_stop(bus, SCAN_ID, "deleted")
        async with asyncio.timeout(120):
            assert await heard.get() == StopSignal("deleted")


async def test_who_waits_for_workers_hears_of_the_end(
    settings: SessionSettings, bus: Channel, skydriver: FakeSkyDriver
) -> None:
    async def none() -> int:
        return 0

    skydriver.workforce = none
    async with AsyncScannerSession(settings) as session:
        waiting = asyncio.create_task(session.wait_for_workers(poll_s=60))
        await _is_listening(skydriver)
        await _publish_stop(bus, SCAN_ID)
        async with asyncio.timeout(120):
            (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
        assert isinstance(outcome, ScanStopped)
