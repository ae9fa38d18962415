"""Scanners on the bus in figures, beside a bare consumer of the same messages in the same run.

    python benchmarks/ingest.py [--messages 20000] [--scans 200] [--rounds 2]

One ``progress`` process drains a queue of progress reports of 4 kB; the bare one takes and acknowledges them, one by one, with
aio-pika. Events are logged durably (fsync on). The relay is another process's work and waits meanwhile, unless ``--relay``.
Talks to loopback only, starts servers of its own in a temporary folder and stops them.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import asyncpg
import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from skydriver_cli.embedded import postgres, rabbitmq
from skydriver_cli.embedded.ports import LOOPBACK, choose
from skydriver_common.auth import TokenSigner, ensure_key
from skydriver_common.bus import topology
from skydriver_common.db.migrate import migrate
from skydriver_common.model.ids import ScanId
from skydriver_scanner import protocol
from tests.support.histories import a_store
from tests.support.scanner_bus import AUDIENCE, ISSUER, a_progress, size_of

_RELAY_LOCK = 7_311_002
_BARE_QUEUE = "bench.bare"
_AT_ONCE = 500


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the ingestion of scanners' messages.")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2, help="of the throughput figures; the best of each counts")
    parser.add_argument("--relay", action="store_true", help="let the progress process publish the events too")
    parser.add_argument("--only", choices=["throughput", "latency", "flood", "result", "memory"], help="one of the figures")
    given = parser.parse_args()
    uvloop.run(_measure(given))


async def _measure(given: argparse.Namespace) -> None:
    table = Table("figure", "measured", "target", title=f"{given.messages} progress messages of {size_of(a_progress(1))} bytes")
    with tempfile.TemporaryDirectory(prefix="skydriver-bench-") as folder:
        async with _bench(Path(folder), given) as bench:
            for name, figure in (
                ("throughput", _throughput), ("latency", _latency), ("flood", _flood), ("result", _result), ("memory", _memory)
            ):  # fmt: skip
                if given.only in (None, name):
                    await figure(bench, given, table)
    Console().print(table)


class _Bench:
    """Servers, scans, and who publishes."""

    def __init__(self, folder: Path, database_url: str, amqp_url: str, signer: TokenSigner, jwks: Path) -> None:
        self.folder, self.database_url, self.amqp_url, self.signer, self.jwks = folder, database_url, amqp_url, signer, jwks
        self.connection: aio_pika.abc.AbstractConnection
        self.channel: aio_pika.abc.AbstractChannel
        self.pool: asyncpg.Pool[asyncpg.Record]
        self.http_port = choose(["http"], {})["http"]
        self._tokens: dict[str, str] = {}

    async def scans(self, count: int) -> list[str]:
        """New scans."""
        async with a_store(self.database_url) as store:
            return [await store.a_scan() for _ in range(count)]

    def message(self, kind: str, scan_id: str, content: dict[str, Any], sequence: int) -> tuple[aio_pika.Message, str]:
        """A message and its routing key, as the client library packs it."""
        if scan_id not in self._tokens:
            self._tokens[scan_id] = self.signer.scan_token(ScanId(scan_id), datetime.now(UTC) + timedelta(hours=3))
        packed = protocol.pack(kind, scan_id, content, token=self._tokens[scan_id], producer="bench", sequence=sequence)
        message = aio_pika.Message(
            packed.body, headers=dict(packed.headers), content_type=packed.content_type,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )  # fmt: skip
        return message, packed.routing_key

    @asynccontextmanager
    async def service(self, module: str, **environment: str) -> AsyncIterator["subprocess.Popen[bytes]"]:
        """A service's process, ended afterwards."""
        names = ("PATH", "HOME", "LANG", "PYTHONPATH")
        with (self.folder / f"{module}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: ASYNC220  (quick, and ended below)
                [sys.executable, "-m", module], stdout=log, stderr=log,
                env={name: os.environ[name] for name in names if name in os.environ} | {
                    "SKYDRIVER_DATABASE_URL": self.database_url, "SKYDRIVER_AMQP_URL": self.amqp_url,
                    "SKYDRIVER_AUTH_ISSUER": ISSUER, "SKYDRIVER_AUTH_AUDIENCE": AUDIENCE,
                    "SKYDRIVER_AUTH_JWKS_FILE": str(self.jwks), "SKYDRIVER_LOG_LEVEL": "warning", **environment,
                },
            )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)

    async def depth(self, queue: str) -> int:
        """Messages that wait in a queue."""
        return (await self.channel.declare_queue(queue, passive=True)).declaration_result.message_count or 0

    async def publish(self, exchange: str, messages: list[tuple[aio_pika.Message, str]]) -> None:
        """Publish with confirms, some at once."""
        target = await self.channel.get_exchange(exchange, ensure=False) if exchange else self.channel.default_exchange
        for start in range(0, len(messages), _AT_ONCE):
            await asyncio.gather(*(target.publish(message, key) for message, key in messages[start : start + _AT_ONCE]))


@asynccontextmanager
async def _bench(folder: Path, given: argparse.Namespace) -> AsyncIterator[_Bench]:
    ports = choose(["postgres", *rabbitmq.PORTS], {})
    server = await postgres.start(
        folder / "postgres", port=ports["postgres"], run_dir=folder / "run", log=folder / "postgres.log"
    )
    try:
        await asyncio.to_thread(migrate, server.url)
        node = await rabbitmq.start(folder / "rabbitmq", ports=ports, run_dir=folder / "run", logs=folder / "logs")
        try:
            key = folder / "keys" / "key.pem"
            jwks = ensure_key(key)
            bench = _Bench(folder, server.url, node.url, TokenSigner.from_file(key, issuer=ISSUER, audience=AUDIENCE), jwks)
            async with await aio_pika.connect(node.url) as bench.connection, asyncpg.create_pool(server.url) as bench.pool:
                bench.channel = await bench.connection.channel()
                await topology.declare(bench.channel)
                queue = topology.scanner_queue("progress")
                await bench.channel.declare_queue(_BARE_QUEUE, durable=True, arguments=dict(queue.arguments or {}))
                async with bench.pool.acquire() as holder:
                    if not given.relay:
                        await holder.execute("SELECT pg_advisory_lock($1)", _RELAY_LOCK)
                    yield bench
        finally:
            await node.stop()
    finally:
        await server.stop()


async def _throughput(bench: _Bench, given: argparse.Namespace, table: Table) -> None:
    bare, logged, coalesced = [], [], []
    for _ in range(given.rounds):
        bare.append(await _bare(bench, given))
        logged.append(await _drain(bench, given, coalesce=False))
        coalesced.append(await _drain(bench, given, coalesce=True))
    table.add_row("bare consume-and-ack", f"{max(bare):.0f}/s", "")
    table.add_row("all events logged", f"{max(logged):.0f}/s, {max(logged) / max(bare):.0%} of bare", ">= 40 %")
    table.add_row("with coalescing", f"{max(coalesced):.0f}/s, {max(coalesced) / max(bare):.0%} of bare", ">= 70 %")


def _reports(bench: _Bench, scans: list[str], count: int) -> list[tuple[aio_pika.Message, str]]:
    """Reports of all scans in turn."""
    return [
        bench.message("progress", scans[n % len(scans)], a_progress(n // len(scans) + 1), n // len(scans) + 1)
        for n in range(count)
    ]


async def _bare(bench: _Bench, given: argparse.Namespace) -> float:
    messages = _reports(bench, [f"bare{n}" for n in range(given.scans)], given.messages)
    await bench.publish("", [(message, _BARE_QUEUE) for message, _ in messages])
    result: multiprocessing.Queue[float] = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(
        target=_bare_consumer, args=(bench.amqp_url, given.messages, result), daemon=True
    )
    process.start()
    seconds = await asyncio.to_thread(result.get, True, 300)
    process.join()
    return float(given.messages / seconds)


def _bare_consumer(amqp_url: str, count: int, result: Any) -> None:
    async def consume() -> float:
        done, seen, first = asyncio.Event(), 0, 0.0
        async with await aio_pika.connect(amqp_url) as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=500)
            queue = await channel.get_queue(_BARE_QUEUE, ensure=False)

            async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
                nonlocal seen, first
                seen += 1
                first = first or time.perf_counter()
                await message.ack()
                if seen == count:
                    done.set()

            await queue.consume(take)
            await done.wait()
            return time.perf_counter() - first

    result.put(uvloop.run(consume()))


async def _drain(bench: _Bench, given: argparse.Namespace, *, coalesce: bool) -> float:
    scans = await bench.scans(given.scans)
    await bench.publish(topology.SCANNER_EXCHANGE.name, _reports(bench, scans, given.messages))
    last = given.messages // given.scans
    name = topology.scanner_queue("progress").name
    async with bench.service("skydriver_progress", SKYDRIVER_COALESCE_PROGRESS=str(coalesce).lower()):
        while await bench.depth(name) == given.messages:
            await asyncio.sleep(0.01)
        began = time.perf_counter()
        while await bench.depth(name):
            await asyncio.sleep(0.02)
        while await _behind(bench, scans, last):
            await asyncio.sleep(0.01)
        seconds = time.perf_counter() - began
    events = await bench.pool.fetchval(
        "SELECT count(*) FROM event_log WHERE scan_id = ANY ($1) AND type = 'scan.progress-reported'", scans
    )
    print(f"coalesce={coalesce}: {given.messages / seconds:.0f} messages/s, {events} events", flush=True)
    return float(given.messages / seconds)


async def _behind(bench: _Bench, scans: list[str], last: int) -> int:
    return int(
        await bench.pool.fetchval(
            "SELECT count(*) FROM manifests WHERE scan_id = ANY ($1)"
            " AND (convert_from(rest, 'UTF8')::jsonb ->> 'sequence')::int < $2", scans, last,
        )
    )  # fmt: skip


async def _latency(bench: _Bench, given: argparse.Namespace, table: Table) -> None:
    """From before publishing to seen in ``GET manifest``, at 500 messages per second over all scans."""
    scans = await bench.scans(given.scans)
    took: list[float] = []
    async with bench.service("skydriver_progress"), bench.service("skydriver_api", SKYDRIVER_HTTP_PORT=str(bench.http_port)):
        headers = {"Authorization": f"Bearer {bench.signer.user_token()}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            await _until_it_answers(session, bench)
            exchange = await bench.channel.get_exchange(topology.SCANNER_EXCHANGE.name, ensure=False)
            began, n = time.perf_counter(), 0
            sending: set[asyncio.Task[Any]] = set()
            watching: asyncio.Task[float] | None = None
            while (now := time.perf_counter()) < began + 8:
                while n < (now - began) * 500:
                    scan_id, sequence = scans[n % len(scans)], n // len(scans) + 1
                    message, key = bench.message("progress", scan_id, a_progress(sequence), sequence)
                    if (watching is None or watching.done()) and n > 1000:
                        if watching is not None:
                            took.append(watching.result())
                        watching = asyncio.create_task(
                            _seen(session, bench, scan_id, f"report {sequence}", time.perf_counter())
                        )
                    task = asyncio.create_task(exchange.publish(message, key))
                    sending.add(task)
                    task.add_done_callback(sending.discard)
                    n += 1
                await asyncio.sleep(0.002)
            assert watching is not None
            took.append(await watching)
            await asyncio.gather(*sending)
    table.add_row(
        f"to be seen in REST at 500/s ({len(took)} seen)",
        f"median {statistics.median(took) * 1000:.0f} ms, p95 {statistics.quantiles(took, n=20)[-1] * 1000:.0f} ms", "median < 50 ms",
    )  # fmt: skip


async def _flood(bench: _Bench, given: argparse.Namespace, table: Table) -> None:
    """How long others wait while one scanner publishes as fast as it can, without waiting for confirms."""
    loud, quiet = await bench.scans(2)
    took: list[float] = []
    async with (
        bench.service("skydriver_progress"),
        bench.service("skydriver_api", SKYDRIVER_HTTP_PORT=str(bench.http_port)),
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {bench.signer.user_token()}"}) as session,
    ):
        await _until_it_answers(session, bench)
        stop = multiprocessing.get_context("spawn").Event()
        messages = [bench.message("progress", loud, a_progress(n), n) for n in range(1, 2001)]
        raw = [(message.body, dict(message.headers), key) for message, key in messages]
        flooder = multiprocessing.get_context("spawn").Process(target=_flood_of, args=(bench.amqp_url, raw, stop), daemon=True)
        flooder.start()
        exchange = await bench.channel.get_exchange(topology.SCANNER_EXCHANGE.name, ensure=False)
        await asyncio.sleep(2)
        for sequence in range(1, 31):
            message, key = bench.message("progress", quiet, a_progress(sequence), sequence)
            since = time.perf_counter()
            await exchange.publish(message, key)
            took.append(await _seen(session, bench, quiet, f"report {sequence}", since))
            await asyncio.sleep(0.1)
        stop.set()
        flooder.join(20)
    table.add_row(
        "others, beside a flood by one scanner",
        f"median {statistics.median(took) * 1000:.0f} ms, longest {max(took) * 1000:.0f} ms", "<= 1 s",
    )  # fmt: skip


def _flood_of(amqp_url: str, raw: list[tuple[bytes, dict[str, Any], str]], stop: Any) -> None:
    async def flood() -> None:
        async with await aio_pika.connect(amqp_url) as connection:
            channel = await connection.channel(publisher_confirms=False)
            exchange = await channel.get_exchange(topology.SCANNER_EXCHANGE.name, ensure=False)
            sequence = 0
            while not stop.is_set():
                for body, headers, key in raw:
                    sequence += 1
                    await exchange.publish(aio_pika.Message(body, headers=headers | {"sequence": sequence}), key)
                    if stop.is_set():
                        break

    uvloop.run(flood())


async def _seen(session: aiohttp.ClientSession, bench: _Bench, scan_id: str, text: str, since: float) -> float:
    url = f"http://{LOOPBACK}:{bench.http_port}/scan/{scan_id}/manifest"
    while True:
        async with session.get(url) as response:
            progress = orjson.loads(await response.read())["progress"]
        if progress is not None and int(progress["last_updated"].split()[1]) >= int(text.split()[1]):
            return time.perf_counter() - since
        await asyncio.sleep(0.003)


async def _result(bench: _Bench, given: argparse.Namespace, table: Table) -> None:
    """A skymap of 5 MB, from before publishing to its last byte over REST."""
    [scan_id] = await bench.scans(1)
    row = [0, 1288.4093123, 5210.441234, 5733.912345, -212.6123, 88.141234, -341.07123, 10231.71234]
    skymap = {"nside-64": {"columns": list("iletxyzt"), "data": [row for _ in range(5_000_000 // 88)], "metadata": {}}}
    took = []
    async with (
        bench.service("skydriver_progress"),
        bench.service("skydriver_api", SKYDRIVER_HTTP_PORT=str(bench.http_port)),
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {bench.signer.user_token()}"}) as session,
    ):
        await _until_it_answers(session, bench)
        for sequence in range(1, 4):
            row[0] = sequence
            content = {"skyscan_result": skymap, "is_final": sequence == 3}
            began = time.perf_counter()
            message, key = bench.message("result", scan_id, content, sequence)
            await bench.publish(topology.SCANNER_EXCHANGE.name, [(message, key)])
            while True:
                async with session.get(f"http://{LOOPBACK}:{bench.http_port}/scan/{scan_id}/result") as response:
                    content = await response.read()
                if b'"data":[[%d,' % sequence in content[:200]:
                    break
                await asyncio.sleep(0.02)
            took.append(time.perf_counter() - began)
    table.add_row(f"result of {len(content) / 1e6:.1f} MB by bus", f"{max(took):.2f} s (longest of 3)", "<= 1 s")


async def _memory(bench: _Bench, given: argparse.Namespace, table: Table) -> None:
    """A thousand connections that report every few seconds: what the progress process and the gateway hold."""
    scans = await bench.scans(1000)
    async with (
        bench.service("skydriver_progress") as progress,
        bench.service("skydriver_api", SKYDRIVER_HTTP_PORT=str(bench.http_port)) as api,
    ):
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {bench.signer.user_token()}"}) as session:
            await _until_it_answers(session, bench)
        connections = []
        for start in range(0, 1000, 50):
            connections += await asyncio.gather(*(aio_pika.connect(bench.amqp_url) for _ in range(start, start + 50)))
        exchanges = [
            await (await each.channel()).get_exchange(topology.SCANNER_EXCHANGE.name, ensure=False) for each in connections
        ]
        most = 0
        for sequence in range(1, 4):
            for start in range(0, 1000, 100):
                await asyncio.gather(
                    *(
                        exchanges[n].publish(*bench.message("progress", scans[n], a_progress(sequence), sequence))
                        for n in range(start, start + 100)
                    )
                )
                most = max(most, sum(_resident_bytes(each.pid) for each in (progress, api)))
        while await _behind(bench, scans, 3):
            await asyncio.sleep(0.05)
        await asyncio.gather(*(each.close() for each in connections))
    table.add_row("1,000 connected scanners, progress + gateway", f"{most / 1e6:.0f} MB", "< 300 MB")


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _until_it_answers(session: aiohttp.ClientSession, bench: _Bench) -> None:
    while True:
        try:
            async with session.get(f"http://{LOOPBACK}:{bench.http_port}/") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientError:
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    main()
