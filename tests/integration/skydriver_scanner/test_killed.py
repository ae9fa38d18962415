"""Scanners with several threads on a slow disk, killed in the midst of a delivery: what they had handed over stands in the log."""

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from skydriver_common.log import blobs
from skydriver_common.model.ids import ScanId
from skydriver_scanner.settings import PREFIX
from tests.integration.skydriver_progress.conftest import Rig, rig  # noqa: F401  (a fixture)
from tests.support.scanner_bus import a_progress, batch_consumers
from tests.support.waiting import until

SCANS, LIVES = 4, 3

_SCANNER = """
import json, os, random, sys, threading, time
from skydriver_scanner import ScannerSession, bus, rest

seed, life, is_last, progress = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True", json.loads(sys.argv[4])
ledger = os.open(sys.argv[5], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
sync, chance = os.fsync, random.Random(seed)

def note(*words):
    os.write(ledger, (json.dumps(words) + "\\n").encode())

def slow_sync(file):
    time.sleep(chance.choice([0, 0, 0.002, 0.02]))
    sync(file)

os.fsync = slow_sync
publish = bus.Bus.publish

async def published(self, packed):
    await publish(self, packed)
    note("confirmed", packed.routing_key.partition(".")[0], packed.headers["producer"], packed.headers["sequence"])

bus.Bus.publish = published
session = ScannerSession.from_env()
note("began", life)

def put(name, is_final, count):
    for n in range(count):
        skymap = {"life": life, "thread": name, "number": n}
        session.put_result({"nside-8": skymap}, is_final=is_final)
        note("taken", "final" if is_final else "partial", life, name, n)
        session.report_progress(**progress)

# final results come from one thread, so that it is known which one is the last; beside it others hand over partial ones
count = 8 if is_last else 1000
threads = [threading.Thread(target=put, args=(name, name == 0 and life > 0, count)) for name in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
session.close()
note("closed", life)
"""


async def _run(scan: dict[str, Any], life: int, chance: random.Random) -> None:
    """One life; the last one ends by itself, the others are killed at some point after their first confirmations."""
    is_last = life == LIVES - 1
    arguments = [str(chance.randrange(2**32)), str(life), str(is_last), json.dumps(a_progress(1)), str(scan["ledger"])]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SCANNER, *arguments, env={**os.environ, **scan["environment"]}
    )
    if is_last:
        assert await process.wait() == 0
        return
    most = _count(scan["ledger"], "confirmed") + chance.randrange(1, 25)

    def has_come_so_far() -> bool:  # a random point of what it does, not of the clock
        assert process.returncode is None
        return _count(scan["ledger"], "confirmed") >= most

    await until(has_come_so_far, f"{most} are confirmed", poll_s=0.005)
    process.kill()
    await process.wait()


def _noted(ledger: Path) -> list[list[Any]]:
    """Whole lines only: a scanner is killed in the midst of them, too."""
    if not ledger.exists():
        return []
    return [json.loads(line) for line in ledger.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _count(ledger: Path, word: str) -> int:
    return sum(line[0] == word for line in _noted(ledger))


async def test_after_kills_in_mid_delivery_the_last_final_result_stands_and_what_was_confirmed_is_in_the_log(
    rig: Rig,  # noqa: F811
    tmp_path: Path,
) -> None:
    chance = random.Random(20261127)
    scans: list[dict[str, Any]] = []
    for _ in range(SCANS):
        scan_id = await rig.store.a_scan()
        environment = {
            f"{PREFIX}SCAN_ID": scan_id, f"{PREFIX}ADDRESS": "http://127.0.0.1:9", f"{PREFIX}AUTH": rig.bus.token(scan_id),
            f"{PREFIX}BUS_URL": rig.amqp_url, f"{PREFIX}SPOOL_DIR": str(tmp_path / "spool"), f"{PREFIX}BUS_PATIENCE_SEC": "600",
        }  # fmt: skip
        scans.append({"scan_id": scan_id, "environment": environment, "ledger": tmp_path / f"{scan_id}.ledger"})
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks, coalesces=False):

        async def lives(scan: dict[str, Any], chance: random.Random) -> None:
            for life in range(LIVES):
                await _run(scan, life, chance)

        await asyncio.gather(*(lives(scan, random.Random(chance.random())) for scan in scans))
        for scan in scans:
            await _is_as_handed_over(rig, scan["scan_id"], _noted(scan["ledger"]))
    assert await rig.dead.read(0) == []


async def _is_as_handed_over(rig: Rig, scan_id: str, noted: list[list[Any]]) -> None:  # noqa: F811
    [*_, last] = [line for line in noted if line[:2] == ["taken", "final"]]
    skymap = json.dumps({"nside-8": dict(zip(("life", "thread", "number"), last[2:], strict=True))}, separators=(",", ":"))
    digest = await blobs.put(rig.store.pool, skymap.encode())
    await rig.bus.until(
        ScanId(scan_id), lambda scan: scan.has_final_result and scan.result is not None and scan.result.digest == digest
    )

    rows = await rig.store.pool.fetch(
        "SELECT command_id, type, convert_from(data, 'UTF8')::jsonb -> 'is_final' = 'true' AS is_final FROM event_log"
        " WHERE scan_id = $1 AND type IN ('scan.progress-reported', 'scan.result-received')",
        scan_id,
    )
    logged = {row["command_id"] for row in rows}
    assert len(rows) == len(logged)  # each once
    finals = {row["command_id"] for row in rows if row["is_final"]}
    confirmed = [(kind, f"{producer}:{sequence}") for word, kind, producer, sequence in _only(noted, "confirmed")]
    until_final = next(n for n, (_, place) in enumerate(confirmed) if place in finals)
    # the one rule by which a confirmed report is passed over here: a partial result is handled after a final one
    passed_over = {place for kind, place in confirmed[until_final:] if kind == "result"} - finals
    assert {place for _, place in confirmed} - logged <= passed_over
    assert until_final > 0


def _only(noted: list[list[Any]], word: str) -> list[list[Any]]:
    return [line for line in noted if line[0] == word]
