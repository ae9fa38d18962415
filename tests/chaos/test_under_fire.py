"""A short fight, and proof that its judge would have noticed."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.chaos.battlefield import Battlefield
from tests.chaos.fight import Rules, fight, new_seed
from tests.chaos.judge import Verdict, judge
from tests.chaos.ledger import Ledger, ScanRecord

_SEED = "SKYDRIVER_TEST_CHAOS_SEED"


@pytest.mark.timeout(280)
async def test_nothing_is_lost_under_fire(tmp_path: Path) -> None:
    rules = Rules(seed=os.environ.get(_SEED) or new_seed(), scans=40, faults=10, per_second=2.0, long=False)
    noticed: list[Verdict] = []

    async def afterwards(field: Battlefield, ledger: Ledger) -> None:
        noticed.extend(await judge(field, _with_lies(ledger)))

    report = await fight(rules, tmp_path / "chaos", print, afterwards=afterwards)
    report.show(Console(width=120))
    assert report.wrong == [], f"replay with {_SEED}={rules.seed}: {json.dumps(report.as_json(), indent=1)}"
    assert report.ledger.requests > 300
    assert len(report.outcomes) == rules.faults
    wrong = {verdict.question: len(verdict.wrong) for verdict in noticed}
    for question, count in {
        "every request answered 200 is there, once": 2,
        "nothing answered 4xx left a trace": 2,
        "every acknowledged report is in the log": 1,
        "every acknowledged result is in the log, the final one stands": 3,
        "every acknowledged deletion is in the log": 1,
    }.items():
        assert wrong[question] == count, (question, wrong)


def _with_lies(ledger: Ledger) -> Ledger:
    """The ledger, claiming things that never were: the judge must find each."""
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
