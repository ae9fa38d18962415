"""The event log in figures, beside the PyPI package `eventsourcing` on the same Postgres in the same run; events of about 1 kB.

    python benchmarks/event_log.py [--seconds 4] [--long 5000000]

--long: also append and claim on a log of so many events, against one of 50,000 (5 million need some 4 GB and some minutes).
Starts servers of its own in a temporary folder, talks to loopback only, stops by itself.
"""

import argparse
import asyncio
import json
import resource
import statistics
import tempfile
import threading
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from skydriver_cli.embedded import postgres, rabbitmq
from skydriver_cli.embedded.ports import choose
from skydriver_common.bus import topology
from skydriver_common.bus.broker import connect
from skydriver_common.bus.relay import Relay
from skydriver_common.db.migrate import migrate
from skydriver_common.db.notifier import LOG_CHANNEL, Notifier
from skydriver_common.db.pool import Listener, Pool, open_pool
from skydriver_common.db.schedule import Schedule
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.model import events as ev
from skydriver_common.model.commands import Context
from skydriver_common.model.ids import new_scan_id
from skydriver_common.model.rejections import Reply
from skydriver_common.runtime.loops import LoopSignals, forever
from skydriver_ops.eventlog.fold import folded
from skydriver_ops.eventlog.selection import iter_pages

CONNECTIONS = 16
SCANS = 400
_TEXT = "the scan goes on " * 50


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the event log.")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each figure")
    parser.add_argument("--long", type=int, default=0, help="length of the long log, 0: not measured")
    given = parser.parse_args()
    uvloop.run(_measure(given.seconds, given.long))


async def _measure(seconds: float, long: int) -> None:
    table = Table("figure", "measured", "target", title="The event log")
    with tempfile.TemporaryDirectory(prefix="skydriver-bench-") as folder:
        home = Path(folder)
        ports = choose(["postgres", *rabbitmq.PORTS], {})
        server = await postgres.start(
            home / "postgres", port=ports["postgres"], run_dir=home / "run", log=home / "postgres.log"
        )
        try:
            if long:
                await _length(server.url, seconds, long, table)
            else:
                peer = await asyncio.to_thread(_peer, server.url, seconds, table)
                await _appending(server.url, seconds, table, peer)
                await _reading(server.url, table, peer)
                node = await rabbitmq.start(home / "rabbitmq", ports=ports, run_dir=home / "run", logs=home / "logs")
                try:
                    await _relaying(server.url, node.url, table)
                finally:
                    await node.stop()
        finally:
            await server.stop()
    Console().print(table)


def _report(number: int) -> ev.ProgressReported:
    stats = {"rate": {"pixels/s": "1.0"}, "finished": False}
    return ev.ProgressReported(
        progress={"summary": f"{number} {_TEXT}", "processing_stats": stats}, producer="p", sequence=number
    )


def _context() -> Context:
    return Context(command_id=uuid.uuid4().hex, correlation_id="c", actor="bench")


def _peer(url: str, seconds: float, table: Table) -> dict[str, float]:
    """The same with `eventsourcing`: 16 threads with a connection each."""
    from eventsourcing.persistence import StoredEvent
    from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

    parts = urlsplit(url)
    store = PostgresDatastore(
        "skydriver", parts.hostname or "", parts.port or 0, parts.username or "", parts.password or "", pool_size=CONNECTIONS
    )
    recorder = PostgresApplicationRecorder(store, events_table_name="peer_events")
    recorder.create_table()
    state = orjson.dumps(_report(1).progress)

    def rate(batch: int) -> float:
        ends_at, counts = time.monotonic() + seconds, [0] * CONNECTIONS

        def work(which: int) -> None:
            originator, version = uuid.uuid4(), 0
            while time.monotonic() < ends_at:
                recorder.insert_events([StoredEvent(originator, version + n, "topic", state) for n in range(batch)])
                version += batch
                counts[which] += batch

        threads = [threading.Thread(target=work, args=(n,)) for n in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / seconds

    found = {"single": rate(1), "batch": rate(100)}
    began, read, position = time.monotonic(), 0, 0
    while page := recorder.select_notifications(start=position + 1, limit=1000):
        for notification in page:
            json.loads(notification.state)
        position, read = page[-1].id, read + len(page)
        if read >= 100_000:
            break
    found["read"] = read / (time.monotonic() - began)
    store.close()
    table.add_row("eventsourcing: single appends", f"{found['single']:.0f}/s", "")
    table.add_row("eventsourcing: batches of 100", f"{found['batch']:.0f} events/s", "")
    table.add_row("eventsourcing: read and decoded", f"{found['read']:.0f} events/s", "")
    return found


async def _fresh(url: str) -> str:
    """A migrated database of its own."""
    name = f"bench_{uuid.uuid4().hex[:8]}"
    connection = await asyncpg.connect(url)
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    fresh = urlsplit(url)._replace(path=f"/{name}").geturl()
    await asyncio.to_thread(migrate, fresh)
    return fresh


async def _scans(uow: UnitOfWork, count: int) -> list[str]:
    async def one() -> str:
        scan_id = new_scan_id()
        request = {"priority": 0, "i3_event_id": uuid.uuid4().hex}
        event = ev.ScanRequested(
            requested_at=time.time(), request=request, request_scan_id=scan_id, event_digest="sha256:0", classifiers={},
            scanner_server_args="",
        )  # fmt: skip
        async with uow.on_scans(_context(), [scan_id]) as tx:
            tx.append(scan_id, [event])
        return scan_id

    return await asyncio.gather(*(one() for _ in range(count)))


async def _append_rate(pool: Pool, scans: list[str], seconds: float, *, batch: int = 1, in_flight: int = CONNECTIONS) -> float:
    """Events per second of commands that append so many events to a scan, with chain, views and recorded reply."""
    uow = UnitOfWork(pool, Notifier(pool), writer="progress")
    ends_at, done = time.monotonic() + seconds, 0
    number = iter(range(1, 10**9))

    async def work(which: int) -> None:
        nonlocal done
        while time.monotonic() < ends_at:
            n = next(number)
            scan_id = scans[(n * in_flight + which) % len(scans)]
            async with uow.on_scans(_context(), [scan_id]) as tx:
                tx.append(scan_id, [_report(n) for _ in range(batch)])
                tx.record(Reply(body=b"{}"))
            done += batch

    began = time.monotonic()
    await asyncio.gather(*(work(which) for which in range(in_flight)))
    return done / (time.monotonic() - began)


async def _appending(url: str, seconds: float, table: Table, peer: dict[str, float]) -> None:
    pool = await open_pool(await _fresh(url), name="bench", size=CONNECTIONS)
    scans = await _scans(UnitOfWork(pool, Notifier(pool), writer="dispatcher"), SCANS)
    for in_flight in (CONNECTIONS, 64):
        rate = await _append_rate(pool, scans, seconds, in_flight=in_flight)
        table.add_row(
            f"commands with one event, {in_flight} in flight", f"{rate:.0f}/s, {rate / peer['single']:.1f} x", ">= 3 x"
        )
    rate = await _append_rate(pool, scans, seconds, batch=100)
    table.add_row("batches of 100", f"{rate:.0f} events/s, {rate / peer['batch']:.1f} x", ">= 10,000 events/s")
    await pool.close()


async def _filled(url: str, events: int) -> str:
    """A database with so many events of some thousand scans, written by the server itself; hashes are not real."""
    fresh = await _fresh(url)
    connection = await asyncpg.connect(fresh)
    data = orjson.dumps({"progress": _report(1).progress, "producer": "p", "sequence": 1})
    requested = {"requested_at": 1.0, "request": {"priority": 0, "i3_event_id": "e"}, "event_digest": "sha256:0", "classifiers": {},
                 "scanner_server_args": ""}  # fmt: skip
    size = 250
    for start in range(0, events, 100_000):
        await connection.execute(
            """INSERT INTO event_log (event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id,
                                      correlation_id, data, prev_hash, hash)
               SELECT gen_random_uuid(), lpad(to_hex(n / $3), 11, '0') || 'x00000000000000000000', n % $3 + 1,
                      CASE n % $3 WHEN 0 THEN 'scan.requested' ELSE 'scan.progress-reported' END, 1, now(), 'bench', 'c', 'c',
                      CASE n % $3 WHEN 0 THEN convert_to(($5::jsonb || jsonb_build_object('request_scan_id',
                          lpad(to_hex(n / $3), 11, '0') || 'x00000000000000000000'))::text, 'UTF8') ELSE $4::bytea END,
                      sha256('p'), sha256('h')
                 FROM generate_series($1::bigint, $2::bigint) n""",
            start, min(events, start + 100_000) - 1, size, data, orjson.dumps(requested).decode(), timeout=600,
        )  # fmt: skip
    await connection.execute("VACUUM ANALYZE event_log", timeout=600)
    await connection.close()
    return fresh


async def _reading(url: str, table: Table, peer: dict[str, float]) -> None:
    filled = await _filled(url, 100_000)
    connection = await asyncpg.connect(filled, server_settings={"jit": "off"})
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, read, size = time.monotonic(), 0, 0
    while time.monotonic() - began < 2:
        async for page in iter_pages(connection):
            for one in page:
                size += len(orjson.loads(one.event.data))
            read += len(page)
    rate = read / (time.monotonic() - began)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    ratio = f"{rate / peer['read']:.1f} x, memory +{grown:.0f} MB"
    table.add_row("read in order and decoded", f"{rate:.0f} events/s, {ratio}", ">= 2 x, constant")
    began, busy, events = time.monotonic(), time.process_time(), 0
    async with connection.transaction():
        async for rows in folded(connection):
            events += rows.events
    took, busy = time.monotonic() - began, time.process_time() - busy
    table.add_row(
        "fold (rebuild)", f"{events / took:.0f} events/s, {events / busy:.0f} per s of this core", ">= 30,000 per core"
    )
    await connection.close()


async def _relaying(url: str, amqp_url: str, table: Table) -> None:
    fresh = await _fresh(url)
    pool = await open_pool(fresh, name="bench", size=8)
    notifier, stopping = Notifier(pool), asyncio.Event()
    committed: dict[str, float] = {}
    waited: list[float] = []
    heard = asyncio.Event()
    expected = 0
    received = 0

    async def on_event(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        nonlocal received
        received += 1
        if (at := committed.pop(str(message.correlation_id), None)) is not None:
            waited.append(time.monotonic() - at)
        if received >= expected:
            heard.set()

    bus = await connect(amqp_url, name="bench")
    async with bus:
        channel = await bus.channel()
        await topology.declare(channel)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(topology.EVENT_EXCHANGE.name, "#")
        listening = await queue.consume(on_event, no_ack=True)
        uow = UnitOfWork(pool, notifier, writer="dispatcher")
        relay, pulse = Relay(fresh, bus), LoopSignals()
        notifier.on_notify(LOG_CHANNEL, lambda _: pulse.wake())
        listener = Listener(fresh, {LOG_CHANNEL: lambda _: pulse.wake()}, name="bench")
        tasks = [asyncio.create_task(work) for work in (
            notifier.run(stopping), listener.run(stopping), forever(relay.step, pulse, name="relay", idle_s=5))]  # fmt: skip
        (scan,) = await _scans(uow, 1)
        expected = 201
        for number in range(200):
            correlation = f"n{number}"
            context = Context(command_id=uuid.uuid4().hex, correlation_id=correlation, actor="bench")
            async with uow.on_scans(context, [scan]) as tx:
                tx.append(scan, [ev.LaunchFailed(attempt=number, reason=_TEXT)])
                committed[correlation] = time.monotonic()
            committed[correlation] = time.monotonic() if correlation in committed else 0.0
            await asyncio.sleep(0.01)
        await asyncio.wait_for(heard.wait(), 30)
        latency = statistics.median(waited) * 1000
        table.add_row("commit to published, median", f"{latency:.1f} ms", "< 10 ms")
        pulse.stop()
        stopping.set()
        await asyncio.gather(*tasks)
        async with uow.on_scans(_context(), [scan]) as tx:
            tx.append(scan, [ev.LaunchFailed(attempt=number, reason=_TEXT) for number in range(20_000)])
        await queue.cancel(listening)  # whoever listens has a processor of their own
        began = time.monotonic()
        while await relay.step() is not False:
            pass
        table.add_row("relay, a backlog of 20,000", f"{20_000 / (time.monotonic() - began):.0f} events/s", ">= 5,000")
        await relay.close()
    await pool.close()


async def _length(url: str, seconds: float, long: int, table: Table) -> None:
    """Append and claim on a short and on a long log, in turns."""
    pools: dict[int, tuple[Pool, list[str]]] = {}
    for events in (50_000, long):
        began = time.monotonic()
        pool = await open_pool(await _filled(url, events), name="bench", size=CONNECTIONS)
        pools[events] = pool, await _scans(UnitOfWork(pool, Notifier(pool), writer="dispatcher"), SCANS)
        await pool.execute(_WAITING)
        Console(stderr=True).print(f"a log of {events} events after {time.monotonic() - began:.0f} s")
    for pool, _ in pools.values():
        while await pool.fetchval("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'autovacuum worker')"):
            await asyncio.sleep(1)  # it looks at what was filled in just now, and no log grows by millions in a minute
    appended: dict[int, list[float]] = {events: [] for events in pools}
    claimed: dict[int, list[float]] = {events: [] for events in pools}
    for _ in range(10):  # short turns: what else the machine does meets both
        for events, (pool, scans) in pools.items():
            appended[events].append(await _append_rate(pool, scans, seconds / 4))
            claimed[events].append(1 / statistics.median(await _claims(pool, seconds / 8)))
    for name, rates in (("append", appended), ("claim", claimed)):
        short, at_length = (statistics.median(rates[events]) for events in pools)
        table.add_row(f"{name}, {long} against 50,000 events", f"{at_length:.0f}/s, {at_length / short:.0%}", ">= 90 %")
    for pool, _ in pools.values():
        await pool.close()


_WAITING = """INSERT INTO due_work (kind, scan_id, due_at, priority, created_at)
              SELECT 'bench', 'waiting' || n, now(), 0, now() FROM generate_series(1, 1000) n"""


async def _claims(pool: Pool, seconds: float) -> list[float]:
    """How long each took, one after the other: put a piece of work, claim the oldest, finish it; in seconds."""
    schedule = Schedule(pool, Notifier(pool), holder="bench")
    ends_at, took = time.monotonic() + seconds, list[float]()
    while time.monotonic() < ends_at:
        began = time.perf_counter()
        await schedule.put("bench", uuid.uuid4().hex)
        work = await schedule.claim("bench")
        assert work is not None
        await schedule.finish(work)
        took.append(time.perf_counter() - began)
    return took


if __name__ == "__main__":
    main()
