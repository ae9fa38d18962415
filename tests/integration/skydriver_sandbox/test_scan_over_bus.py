"""Whole scans whose scanner reports over the bus, with the client library: the stand-in EWMS, workers and a real RabbitMQ."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from skydriver_scanner import protocol
from tests.integration.skydriver_sandbox.test_scan import SMALL, Stage, staged
from tests.support.sandbox_parts import SCAN_ID
from tests.support.waiting import until


class Reports:
    """What the scanner has published, in order."""

    def __init__(self, queue: aio_pika.abc.AbstractQueue, channel: aio_pika.abc.AbstractChannel) -> None:
        self._queue = queue
        self._channel = channel
        self.seen: list[protocol.UnpackedMessage] = []

    async def take(self) -> list[protocol.UnpackedMessage]:
        while (message := await self._queue.get(no_ack=True, fail=False)) is not None:
            headers, encoding = dict(message.headers), message.content_encoding
            self.seen.append(protocol.unpack(message.routing_key or "", headers, message.body, content_encoding=encoding))
        return self.seen

    async def stop_scan(self, reason: str) -> None:
        exchange = await self._channel.get_exchange(protocol.STOP_EXCHANGE, ensure=False)
        await exchange.publish(aio_pika.Message(protocol.stop_signal(reason)), SCAN_ID, mandatory=True)


@pytest.fixture
async def reports(amqp_url: str) -> AsyncIterator[Reports]:
    """The scanner exchange, read by the test."""
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel()
        for kind in protocol.KINDS:  # a service's own queues, if an earlier test has left them
            await channel.queue_delete(f"skydriver.scanner.{kind}")
        for name in (protocol.EXCHANGE, protocol.STOP_EXCHANGE):
            await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(protocol.EXCHANGE, f"*.{SCAN_ID}")
        yield Reports(queue, channel)


def _on_the_bus(stage: Stage, amqp_url: str) -> None:
    stage.scanner.environment["SKYSCAN_SKYDRIVER_BUS_URL"] = amqp_url


def _check(received: list[protocol.UnpackedMessage], nsides: list[str]) -> dict[str, Any]:
    """The final result came before the last progress, which says that all is done; nothing went over REST."""
    result, progress = received[-2:]
    assert (result.kind, progress.kind) == ("result", "progress")
    assert result.content["is_final"] is True
    assert list(result.content["skyscan_result"]) == [f"nside-{nside.partition(':')[0]}" for nside in nsides]
    assert progress.content["progress"]["processing_stats"]["finished"] is True
    return dict(result.content["skyscan_result"])


async def test_a_scan_reports_over_the_bus_and_calls_rest_for_the_event_workers_and_status_only(
    tmp_path: Path, amqp_url: str, reports: Reports
) -> None:
    async with staged(tmp_path, amqp_url) as stage:
        _on_the_bus(stage, amqp_url)
        await stage.prepare()
        assert await stage.run() == 0, stage.scanner.log()
        received = await reports.take()
        _check(received, SMALL)
        assert {one.producer for one in received} == {received[0].producer}
        assert [one.sequence for one in received] == sorted({one.sequence for one in received})
        assert {call for call in stage.skydriver.calls if not call.startswith("GET")} == set()
        assert stage.scanner.log().count("Traceback") == 0


async def test_a_stop_signal_ends_a_running_scanner_at_once(tmp_path: Path, amqp_url: str, reports: Reports) -> None:
    async with staged(tmp_path, amqp_url, SANDBOX_RECO_MEAN_S="5") as stage:
        _on_the_bus(stage, amqp_url)
        await stage.prepare()
        process = await stage.scanner.start()

        async def has_begun() -> bool:
            return len(await reports.take()) >= 2

        await until(has_begun)
        await reports.stop_scan("deleted")
        async with asyncio.timeout(120):
            assert await process.wait() == 128 + signal.SIGINT
        assert "stopping: deleted" in stage.scanner.log()


async def test_a_scanner_killed_before_its_last_report_ends_the_scan_in_its_next_life(
    tmp_path: Path, amqp_url: str, reports: Reports
) -> None:
    async with staged(tmp_path, amqp_url) as stage:
        _on_the_bus(stage, amqp_url)
        stage.scanner.environment["SANDBOX_SCANNER_DIE"] = "before-last-progress"
        await stage.prepare()
        assert await stage.run() == -signal.SIGKILL
        assert await stage.run() == 0, stage.scanner.log()
        received = await reports.take()
        _check(received, SMALL)
        assert len({one.producer for one in received}) == 2


async def test_a_scanner_that_fails_says_why(tmp_path: Path, amqp_url: str, reports: Reports) -> None:
    async with staged(tmp_path, amqp_url, event={"value": "nonsense"}) as stage:
        _on_the_bus(stage, amqp_url)
        assert await stage.run() == 2
        (failure,) = await reports.take()
        assert failure.kind == "failure"
        assert failure.content["reason"] in stage.scanner.log()
