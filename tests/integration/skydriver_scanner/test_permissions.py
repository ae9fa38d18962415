"""A scan's token is a login at the broker, and lets its bearer do what a scanner does: nothing else, and nothing to other scans."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused, ProbableAuthenticationError

from skydriver_cli.embedded import rabbitmq
from skydriver_cli.embedded.ports import choose
from skydriver_common.auth import TokenSigner, ensure_key
from skydriver_common.bus import topology
from skydriver_common.model.ids import ScanId
from skydriver_scanner import AsyncScannerSession, SessionSettings, StopSignal, protocol
from tests.support.sandbox_parts import SCAN_ID, FakeSkyDriver, serving

OTHER = "18e0f1a2b3cx4f5e6d7c8b9a0d1e2f3b"
HOUR = timedelta(hours=1)


@dataclass
class Guarded:
    """A broker that trusts a signer of scan tokens."""

    admin_url: str
    bus_url: str
    signer: TokenSigner
    stranger: TokenSigner

    def login(self, scan_id: str = SCAN_ID, *, signer: TokenSigner | None = None, life: timedelta = HOUR) -> str:
        token = (signer or self.signer).scan_token(ScanId(scan_id), datetime.now(UTC) + life)
        return self.bus_url.replace("amqp://", f"amqp://scan-{scan_id}:{token}@")


@pytest.fixture(scope="module")
def guarded(_runner: asyncio.Runner) -> Iterator[Guarded]:
    """The embedded broker as `skydriver up` starts it, always: another one may lack the plugin."""
    with tempfile.TemporaryDirectory(prefix="skydriver guarded ") as name:
        home = Path(name)
        signers = []
        for folder in ("ours", "theirs"):
            ensure_key(home / folder / "key.pem")
            signers.append(TokenSigner.from_file(home / folder / "key.pem", issuer="skydriver-local", audience="skydriver"))
        ports = choose(list(rabbitmq.PORTS), {})
        trusted = rabbitmq.BrokerTokenAuth("skydriver", signers[0].kid, signers[0].public_pem())
        node = _runner.run(
            rabbitmq.start(home / "node", ports=ports, run_dir=home / "run", logs=home / "logs", token_auth=trusted)
        )
        try:
            assert node.accepts_scan_tokens
            _runner.run(_declare(node.url))
            yield Guarded(node.url, f"amqp://127.0.0.1:{node.port}/", *signers)
        finally:
            _runner.run(node.stop())


async def _declare(url: str) -> None:
    """What services declare, and a reader of all reports."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        await topology.declare(channel)
        await (await channel.declare_queue("reports")).bind(topology.SCANNER_EXCHANGE.name, "#")


async def _publish(channel: AbstractChannel, exchange: str, key: str) -> None:
    await (await channel.get_exchange(exchange, ensure=False)).publish(aio_pika.Message(b"{}"), key)


async def _bind(channel: AbstractChannel, key: str) -> None:
    queue = await channel.declare_queue(protocol.stop_queue(SCAN_ID, "mine"), exclusive=True)
    await queue.bind(protocol.STOP_EXCHANGE, key)


async def _read(channel: AbstractChannel, queue: str) -> None:
    await (await channel.get_queue(queue, ensure=False)).get(fail=False)


REFUSED: dict[str, Callable[[AbstractChannel], Awaitable[object]]] = {
    "report for another scan": lambda channel: _publish(channel, protocol.EXCHANGE, f"progress.{OTHER}"),
    "result for another scan": lambda channel: _publish(channel, protocol.EXCHANGE, f"result.{OTHER}"),
    "command": lambda channel: _publish(channel, topology.COMMAND_EXCHANGE.name, "scan.delete"),
    "event": lambda channel: _publish(channel, topology.EVENT_EXCHANGE.name, "scan.deleted"),
    "dead letter": lambda channel: _publish(channel, topology.DEAD_LETTER_EXCHANGE.name, "scan.deleted"),
    "stop signal": lambda channel: _publish(channel, protocol.STOP_EXCHANGE, SCAN_ID),
    "straight into a queue": lambda channel: _publish(channel, "", "reports"),
    "hear of another scan's end": lambda channel: _bind(channel, OTHER),
    "hear of every scan's end": lambda channel: _bind(channel, "#"),
    "read the reports": lambda channel: _read(channel, "reports"),
    "read the dead letters": lambda channel: _read(channel, topology.DEAD_LETTER_QUEUE),
    "another scan's stop queue": lambda channel: channel.declare_queue(protocol.stop_queue(OTHER, "x"), exclusive=True),
    "a queue of its own": lambda channel: channel.declare_queue("mine", exclusive=True),
    "an exchange of its own": lambda channel: channel.declare_exchange("mine"),
    "delete the exchange": lambda channel: channel.exchange_delete(protocol.EXCHANGE),
    "delete the reports": lambda channel: channel.queue_delete("reports"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_the_broker_refuses(what: str, guarded: Guarded) -> None:
    connection = await aio_pika.connect(guarded.login())
    async with connection:
        with pytest.raises(ChannelAccessRefused):
            await REFUSED[what](await connection.channel())


async def test_the_broker_lets_no_bad_token_in(guarded: Guarded) -> None:
    good = guarded.login()
    for url in (
        guarded.login(signer=guarded.stranger),
        guarded.login(life=-HOUR),
        good[: good.rindex("@") - 8] + "AAAAAAAA@" + good.rpartition("@")[2],
        guarded.bus_url.replace("//", "//guest:guest@"),
    ):
        with pytest.raises(ProbableAuthenticationError):
            await aio_pika.connect(url)


async def test_a_session_needs_its_token_only(guarded: Guarded, tmp_path: Path) -> None:
    async def one() -> int:
        return 1

    heard: asyncio.Queue[StopSignal] = asyncio.Queue()
    async with serving(FakeSkyDriver({}, one)) as skydriver:
        token = guarded.signer.scan_token(ScanId(SCAN_ID), datetime.now(UTC) + HOUR)
        skydriver.token = token
        settings = SessionSettings(
            SCAN_ID, skydriver.url, token, guarded.bus_url, spool_dir=tmp_path, bus_patience_s=60, close_patience_s=30
        )
        async with AsyncScannerSession(settings) as session:
            session.on_stop(heard.put)
            await session.report_progress({"summary": "…"})
            assert await session.flush(20)
            connection = await aio_pika.connect(guarded.admin_url)
            async with connection:
                channel = await connection.channel()
                report = await (await channel.get_queue("reports", ensure=False)).get(no_ack=True)
                assert report is not None
                assert report.headers["token"] == token
                stops = await channel.get_exchange(protocol.STOP_EXCHANGE, ensure=False)
                await stops.publish(aio_pika.Message(protocol.stop_signal("deleted")), SCAN_ID, mandatory=True)
                async with asyncio.timeout(120):
                    assert await heard.get() == StopSignal("deleted")
        assert skydriver.progress == []
