"""A short run, and proof that its verifier would have noticed."""

import json
import os
from dataclasses import replace
from pathlib import Path

import aio_pika
import asyncpg
import pytest
from rich.console import Console

from skydriver_common.bus import topology
from skydriver_common.bus.dead_letter import REASON
from tests.chaos.environment import ChaosEnvironment
from tests.chaos.ledger import Ledger, ScanRecord
from tests.chaos.run import Rules, new_seed, run_chaos
from tests.chaos.verifier import Finding, verify

_SEED = "SKYDRIVER_TEST_CHAOS_SEED"


@pytest.mark.timeout(900)
async def test_nothing_is_lost_under_fire(tmp_path: Path) -> None:
    rules = Rules(seed=os.environ.get(_SEED) or new_seed(), scans=40, faults=10, per_second=2.0, long=False)
    noticed: list[Finding] = []

    async def afterwards(field: ChaosEnvironment, ledger: Ledger) -> None:
        await _tamper(field)
        noticed.extend(await verify(field, _with_lies(ledger), quiet_within_s=0))

    report = await run_chaos(rules, tmp_path / "chaos", print, afterwards=afterwards)
    report.show(Console(width=120))
    assert report.wrong == [], f"replay with {_SEED}={rules.seed}: {json.dumps(report.as_json(), indent=1)}"
    assert report.ledger.requests > 300
    assert len(report.hits) > rules.faults / 2
    wrong = {finding.question: len(finding.wrong) for finding in noticed}
    for question, count in {
        "every request answered 200 is there, once": 2,
        "nothing answered 4xx left a trace": 2,
        "every acknowledged report is in the log": 1,
        "every acknowledged result is in the log, the final one stands": 3,
        "every acknowledged deletion is in the log": 1,
    }.items():
        assert wrong[question] == count, (question, wrong)
    assert [finding.question for finding in noticed if not finding.wrong] == ["promises kept in every answer"]


def _with_lies(ledger: Ledger) -> Ledger:
    """The ledger, claiming things that never were: the verifier must find each."""
    stored = next(
        record for record in ledger.scans
        if record.scan_id is not None and record.reports and not record.is_deleted and record.rescan_id is None
    )  # fmt: skip
    others = [record for record in ledger.scans if record is not stored]
    lying = replace(
        stored, event=b"another event", reports=[*stored.reports, "never reported"], results=[*stored.results, "never put"],
        final="never the final one", is_deleted=True, refused_reports=[stored.reports[0]],
    )  # fmt: skip
    invented = ScanRecord("invented", b"{}", scan_id="nowhere")
    return replace(ledger, scans=[*others, lying, invented], refused_keys=[stored.key])


async def _tamper(field: ChaosEnvironment) -> None:
    """A second start, an altered event, an altered view, forgotten work and a unexpected dead letter: the verifier must find each."""
    (starts, *_) = field.work_dir.glob("*/starts")
    with starts.open("a") as lines:
        lines.write("1 twin\n")
    connection = await asyncpg.connect(field.database_url)
    await connection.execute("SET session_replication_role = replica")
    await connection.execute("UPDATE event_log SET actor = 'nobody' WHERE position = (SELECT min(position) FROM event_log)")
    await connection.execute(
        "UPDATE manifests SET priority = priority + 1 WHERE scan_id = (SELECT min(scan_id) FROM manifests)"
    )
    await connection.execute(
        "INSERT INTO due_work (kind, scan_id, due_at, priority, created_at, leased_until)"
        " VALUES ('stop', 'nowhere', now(), 0, now(), now() + interval '1 hour')"
    )
    await connection.close()
    async with await aio_pika.connect(field.amqp_url) as bus:
        channel = await bus.channel()
        await channel.default_exchange.publish(aio_pika.Message(b"?", headers={REASON: "made up"}), topology.DEAD_LETTER_QUEUE)
