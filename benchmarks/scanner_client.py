"""What the client library costs a scanner, in figures: handing over a report, a result on disk, the way to the broker.

    python benchmarks/scanner_client.py [--reports 2000]

Ratios are against the raw limit in the same run: json.dumps of the same report; a bare aio-pika publish that waits for its
confirmation. Talks to loopback only, with a broker of its own in a temporary folder.
"""

import argparse
import asyncio
import json
import queue
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aio_pika
from aiohttp import web
from rich.console import Console
from rich.table import Table

from skydriver_cli.embedded import rabbitmq
from skydriver_cli.embedded.ports import choose
from skydriver_scanner import NotDelivered, ScannerSession, SessionSettings, protocol

SCAN_ID = "18e0f1a2b3cx4f5e6d7c8b9a0d1e2f3a"
WARM_UP = 100
STOPS = 10
FIVE_MB = 5_000_000


def a_report(number: int) -> dict[str, Any]:
    """About 3.6 kB, as a three-nside scan reports."""
    tally = {
        "done": number,
        "done est. percent": f"{number}/9999 (0.31)",
        "generated": 9999,
        "initial approximation total": 9999,
    }
    times = {"mean": "0:00:41", "median": "0:00:37", "slowest": "0:03:12", "fastest": "0:00:08"}
    rates = {"worker time": times, "round-trip time": times, "wall time": times}
    both = {"recos": tally, "pixels": tally}
    return {
        "progress": {
            "summary": "Scanning.",
            "epilogue": "Next report in 60 s.",
            "tallies": {"nsides": dict.fromkeys(("8", "64", "512"), both), "overall": both},
            "processing_stats": {
                "start": {"scanner start": "2024-03-05 14:00:02"},
                "runtime": {"elapsed": "0:23:40"},
                "rate": dict.fromkeys(("all recos", "nside-8", "nside-64", "nside-512"), rates),
            },
            "predictive_scanning_threshold": 1.0,
            "last_updated": "2024-03-05 14:23:40",
            "start": 1709647202,
            "end": None,
        },
        "event_metadata": {
            "run_id": 138632,
            "event_id": 31747601,
            "event_type": "neutrino",
            "mjd": 60280.71,
            "is_real_event": True,
        },
        "scan_metadata": {"scan_id": SCAN_ID, "nside_progression": {"8": 0, "64": 12, "512": 24}, "position_variations": 1},
    }


def a_skymap(size_bytes: int) -> dict[str, Any]:
    """Rows of floats of about this many bytes as JSON."""
    row = [1288.4093112, 5210.4412, 5733.9121, -212.6121, 88.1411, -341.0721, 10231.7123]
    n_rows = size_bytes // 76
    return {"nside-512": {"columns": list("iabcdefg"), "data": [[i, *(x + i / 7 for x in row)] for i in range(n_rows // 2)]}}


def timed(calls: int, call: Callable[[int], object]) -> list[float]:
    """Seconds of each call."""
    taken = []
    for number in range(calls):
        began = time.perf_counter()
        call(number)
        taken.append(time.perf_counter() - began)
    return taken


async def bare_publish(url: str, calls: int) -> float:
    """Confirmed publishes a second, one after the other, of the same bytes."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange(protocol.EXCHANGE, ensure=False)
        body = protocol.encode("progress", a_report(1))
        began = time.perf_counter()
        for _ in range(calls):
            message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await exchange.publish(message, f"progress.{SCAN_ID}", mandatory=True)
        return calls / (time.perf_counter() - began)


def stopped_after(settings: SessionSettings, url: str) -> float:
    """Seconds from the publishing of a stop signal to the callback of a session that listens."""
    heard: queue.Queue[float] = queue.Queue()
    with ScannerSession(settings) as session:
        session.on_stop(lambda _: heard.put(time.perf_counter()))
        session.report_progress(summary_only())
        session.flush(30)  # so it is connected

        async def publish() -> float:
            connection = await aio_pika.connect(url)
            async with connection:
                exchange = await (await connection.channel()).get_exchange(protocol.STOP_EXCHANGE, ensure=False)
                began = time.perf_counter()
                await exchange.publish(aio_pika.Message(protocol.stop_signal(protocol.DELETED)), SCAN_ID, mandatory=True)
                return began

        began = asyncio.run(publish())
        return heard.get(timeout=30) - began


def summary_only() -> dict[str, Any]:
    """The least that a report may hold."""
    return {"summary": "Scanning."}


def measure(url: str, address: str, folder: Path, reports: int, say: Callable[..., None]) -> None:
    """All figures of a session on a bus."""
    settings = SessionSettings(SCAN_ID, address, "token", url, spool_dir=folder / "spool")
    made = [a_report(number) for number in range(reports)]
    raw = timed(reports, lambda n: json.dumps(made[n], separators=(",", ":"), ensure_ascii=False).encode())
    with ScannerSession(settings) as session:
        timed(WARM_UP, lambda n: session.report_progress(**made[n]))
        session.flush(30)
        taken = timed(reports, lambda n: session.report_progress(**made[n]))
        session.flush(30)
        paced = []
        for number in range(min(reports, 500)):
            paced += timed(1, lambda _, n=number: session.report_progress(**made[n]))
            session.flush(30)
        began = time.perf_counter()
        for number in range(200):
            session.put_result({"n": number}, is_final=False)
        session.flush(60)
        results_s = (time.perf_counter() - began) / 200
        skymap = a_skymap(FIVE_MB)
        size = len(json.dumps(skymap))
        (handed,) = timed(1, lambda _: session.put_result(skymap, is_final=True))
        began = time.perf_counter()
        session.flush(60)
        on_its_way = time.perf_counter() - began
    stops = [stopped_after(settings, url) for _ in range(STOPS)]
    away = SessionSettings(SCAN_ID, address, "token", "amqp://127.0.0.1:1/", spool_dir=folder / "away", bus_patience_s=600)
    session = ScannerSession(away)
    without = timed(reports, lambda n: session.report_progress(**made[n]))
    with suppress(NotDelivered):
        session.close(0)
    base = statistics.median(raw)
    measured = {
        "report_progress, bus there": taken,
        "report_progress, one at a time": paced,
        "report_progress, bus away": without,
    }
    for name, values in measured.items():
        ordered = sorted(values)
        text = f"median {statistics.median(values) * 1e6:.0f} µs, 99 % {ordered[int(len(ordered) * 0.99)] * 1e6:.0f} µs"
        say(name, f"{text} ({statistics.median(values) / base:.1f}× json.dumps)", "< 1 ms")
    say("put_result, small, on disk and confirmed", f"{results_s * 1e3:.2f} ms", "")
    say(f"put_result, {size / 1e6:.1f} MB: handed over, on disk", f"{handed * 1e3:.0f} ms", "")
    say("… and confirmed by the broker after", f"{on_its_way * 1e3:.0f} ms", "< 1 s")
    say("stop signal, publish to callback", f"median {statistics.median(stops) * 1e3:.1f} ms", "< 1 s")


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the scanners' client library.")
    parser.add_argument("--reports", type=int, default=2000)
    given = parser.parse_args()
    table = Table("figure", "measured", "target", title="client library of scanners")
    with tempfile.TemporaryDirectory(prefix="skydriver-bench-") as name:
        folder = Path(name)
        ports = choose(list(rabbitmq.PORTS), {})
        node = await rabbitmq.start(folder / "node", ports=ports, run_dir=folder / "run", logs=folder / "logs")
        try:
            connection = await aio_pika.connect(node.url)
            async with connection:
                channel = await connection.channel()
                for exchange in (protocol.EXCHANGE, protocol.STOP_EXCHANGE):
                    await channel.declare_exchange(exchange, aio_pika.ExchangeType.TOPIC, durable=True)
                reports = await channel.declare_queue("all", durable=True, arguments={"x-queue-type": "quorum"})
                await reports.bind(protocol.EXCHANGE, "#")
            app = web.Application()
            app.router.add_get(f"/scan/{SCAN_ID}/status", _not_stopped)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            address = f"http://127.0.0.1:{runner.addresses[0][1]}"
            bare = await bare_publish(node.url, 500)
            table.add_row("bare aio-pika, confirmed, one at a time", f"{bare:.0f}/s", "")
            await asyncio.to_thread(measure, node.url, address, folder, given.reports, table.add_row)
            await runner.cleanup()
        finally:
            await node.stop()
    table.add_row(
        "peak resident size of this process", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB", ""
    )
    Console().print(table)


async def _not_stopped(_: web.Request) -> web.Response:
    return web.json_response({"is_deleted": False, "ewms_deactivated": None})


if __name__ == "__main__":
    asyncio.run(main())
