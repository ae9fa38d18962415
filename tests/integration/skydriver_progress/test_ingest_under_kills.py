"""Two hundred scanners report while replicas of the progress service are killed and the database goes away: nothing is lost.

SKYDRIVER_TEST_FIRE_SECONDS: how long (default: some seconds; `make fire`: a minute).
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import pytest

from skydriver_common.bus import topology
from skydriver_common.model import event_codec as model_wire
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_ops.eventlog import rebuild
from skydriver_ops.eventlog.verify import verify
from tests.integration.skydriver_progress.conftest import Rig
from tests.support.histories import Store, a_store
from tests.support.proxy import proxying
from tests.support.scanner_bus import AUDIENCE, ISSUER, ScannerBus, a_progress, batch_consumers
from tests.support.waiting import pause, until

SECONDS = float(os.environ.get("SKYDRIVER_TEST_FIRE_SECONDS", "6"))
SCANS = 200


class _Replica:
    """A progress process that is started again whenever it was killed."""

    def __init__(self, rig: Rig, folder: Path, number: int) -> None:
        self._log = folder / f"progress-{number}.log"
        self._environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ} | {
            "SKYDRIVER_DATABASE_URL": rig.store.url, "SKYDRIVER_AMQP_URL": rig.amqp_url, "SKYDRIVER_AUTH_ISSUER": ISSUER,
            "SKYDRIVER_AUTH_AUDIENCE": AUDIENCE, "SKYDRIVER_AUTH_JWKS_FILE": str(rig.jwks),
        }  # fmt: skip
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "skydriver_progress", env=self._environment, stdout=log, stderr=log
            )

    async def kill(self) -> None:
        assert self._process is not None
        assert self._process.returncode is None, self._log.read_text()[-2000:]
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """As a supervisor does; the exit code."""
        assert self._process is not None
        self._process.terminate()
        return await self._process.wait()


class _Scanner:
    """Reports with gaps, repetitions and swaps; remembers the newest report that the broker confirmed."""

    def __init__(self, bus: ScannerBus, scan_id: ScanId, dice: random.Random) -> None:
        self._bus = bus
        self.scan_id = scan_id
        self._dice = dice
        self.confirmed = 0
        self.sent = 0

    async def run(self, until: float) -> None:
        n = 0
        while time.monotonic() < until:
            numbers = [n + 1, n + 2]
            if self._dice.random() < 0.3:
                numbers.reverse()
            if self._dice.random() < 0.2:
                numbers.append(n + 1)
            n += 2
            for number in numbers:
                await self._bus.send("progress", self.scan_id, a_progress(number), sequence=number)
                self.confirmed = max(self.confirmed, number)
                self.sent += 1
            await pause(self._dice.uniform(0.1, 0.6))
        final = {"skyscan_result": {"nside-8": {"data": [[0, n]]}}, "is_final": True}
        await self._bus.send("result", self.scan_id, final, sequence=n + 1)


@contextlib.asynccontextmanager
async def _replicas(rig: Rig, folder: Path, count: int) -> AsyncIterator[list[_Replica]]:
    replicas = [_Replica(rig, folder, number) for number in range(count)]
    for replica in replicas:
        await replica.start()
    try:
        yield replicas
    finally:
        codes = [await replica.stop() for replica in replicas]
    assert set(codes) <= {0, -signal.SIGTERM}, codes  # the latter: it had hardly begun


async def _behind(store: Store, scanners: list[_Scanner]) -> list[str]:
    """Scanners whose newest confirmed report, or final result, is not what the view shows."""
    rows = await store.pool.fetch("SELECT scan_id, body, has_final_result FROM manifests")
    shown = {row["scan_id"]: (model_wire.decode(row["body"])["progress"], row["has_final_result"]) for row in rows}
    return [
        scanner.scan_id
        for scanner in scanners
        if not shown[scanner.scan_id][1]
        or (shown[scanner.scan_id][0] or {}).get("last_updated") != f"report {scanner.confirmed}"
    ]


async def _all_arrive(store: Store, scanners: list[_Scanner], limit_s: float = 600.0) -> None:
    async def none_is_behind() -> bool:
        left = await _behind(store, scanners)
        assert not left, f"{len(left)} of {len(scanners)} scans don't show their newest report: {left[:3]}"
        return True

    await until(none_is_behind, limit_s=limit_s, not_yet=AssertionError)


@pytest.mark.timeout(900)
async def test_two_hundred_scanners_while_replicas_are_killed(rig: Rig, tmp_path: Path) -> None:
    dice = random.Random(7)
    scanners = [_Scanner(rig.bus, await rig.store.a_scan(), random.Random(n)) for n in range(SCANS)]
    kills = 0
    async with _replicas(rig, tmp_path, 2) as replicas:
        until = time.monotonic() + SECONDS
        work = asyncio.gather(*(scanner.run(until) for scanner in scanners))
        while not work.done():
            await asyncio.wait([work], timeout=dice.uniform(1.5, 3.0))
            victim = dice.choice(replicas)
            await victim.kill()
            await victim.start()
            kills += 1
        await work
        await _all_arrive(rig.store, scanners)
    assert kills >= 2
    assert await rig.dead.read(0) == []
    async with rig.store.pool.acquire() as connection:
        report = await verify(connection)
        assert report.breaks == []
        assert (await rebuild.check(connection)).differences == []
    twice = await rig.store.pool.fetchval(
        "SELECT count(*) FROM (SELECT FROM event_log WHERE type = 'scan.progress-reported'"
        " GROUP BY scan_id, command_id HAVING count(*) > 1) d"
    )
    assert twice == 0
    print(f"{sum(scanner.sent for scanner in scanners)} reports confirmed, {report.events} events, {kills} kills")


async def test_while_one_scanner_floods_the_others_are_heard(rig: Rig, tmp_path: Path) -> None:
    flooding, *others = [await rig.store.a_scan() for _ in range(6)]
    sent, ahead = 0, []

    async def flood() -> None:
        nonlocal sent
        while True:
            numbers = range(sent + 1, sent + 101)
            await asyncio.gather(*(rig.bus.send("progress", flooding, a_progress(n), sequence=n) for n in numbers))
            sent += 100

    async with _replicas(rig, tmp_path, 1):
        for scan_id in (flooding, *others):
            await rig.bus.send("progress", scan_id, a_progress(0), sequence=0)
            await rig.bus.until(scan_id, lambda scan: scan.progress is not None)
        work = asyncio.create_task(flood())
        for n in range(1, 5):
            for scan_id in others:
                before = sent
                await rig.bus.send("progress", scan_id, a_progress(n), sequence=n)
                await rig.bus.until(scan_id, partial(_has, n))
                assert not work.done(), "the flood goes on"
                ahead.append(sent - before)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await rig.bus.until(flooding, lambda scan: scan.sequence >= sent)
    logged = await rig.store.pool.fetchval("SELECT count(*) FROM event_log WHERE scan_id = $1", flooding)
    assert logged < sent / 2
    print(f"{sent} reports of the flood, {logged} logged; at most {max(ahead)} of them until another scanner's was seen")


def _has(n: int, scan: Scan) -> bool:
    return scan.sequence == n


async def test_while_the_database_is_away_the_queue_grows_and_nothing_is_lost(rig: Rig) -> None:
    scans = [await rig.store.a_scan() for _ in range(20)]
    async with (
        proxying(urlsplit(rig.store.url).port or 5432) as proxy,
        a_store(_through(rig.store.url, proxy.port)) as store,
        batch_consumers(rig.amqp_url, store, rig.jwks, prefetch=10),
    ):
        await rig.bus.send("progress", scans[0], a_progress(1), sequence=1)
        await rig.bus.until(scans[0], lambda scan: scan.sequence == 1)
        proxy.refuse = True
        proxy.cut()
        for n in range(2, 7):
            for scan_id in scans:
                await rig.bus.send("progress", scan_id, a_progress(n), sequence=n)
        assert await _waiting(rig) >= 100 - 10  # what is held is bounded by the prefetch
        proxy.refuse = False
        for scan_id in scans:
            await rig.bus.until(scan_id, lambda scan: scan.sequence == 6)
    assert await rig.dead.read(0) == []


async def test_a_connection_to_the_broker_that_is_cut_again_and_again_loses_nothing(rig: Rig) -> None:
    scans = [await rig.store.a_scan() for _ in range(20)]
    async with (
        proxying(urlsplit(rig.amqp_url).port or 5672) as proxy,
        batch_consumers(_through(rig.amqp_url, proxy.port), rig.store, rig.jwks, prefetch=10),
    ):
        for n in range(1, 11):
            await asyncio.gather(*(rig.bus.send("progress", scan_id, a_progress(n), sequence=n) for scan_id in scans))
            proxy.cut()
        final = {"skyscan_result": {"nside-8": {"data": [1]}}, "is_final": True}
        await asyncio.gather(*(rig.bus.send("result", scan_id, final, sequence=11) for scan_id in scans))
        proxy.cut()
        for scan_id in scans:
            await rig.bus.until(scan_id, lambda scan: scan.sequence == 10 and scan.has_final_result)
    assert await rig.dead.read(0) == []
    async with rig.store.pool.acquire() as connection:
        assert (await verify(connection)).breaks == []


def _through(url: str, port: int) -> str:
    """The same server, through a proxy."""
    place = urlsplit(url)
    return place._replace(netloc=f"{place.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()


async def _waiting(rig: Rig) -> int:
    """Messages that no consumer holds."""
    async with await aio_pika.connect(rig.amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(topology.scanner_queue("progress").name, passive=True)
        return queue.declaration_result.message_count or 0
