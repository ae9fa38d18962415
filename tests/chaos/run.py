"""One run: driver against fault injector, then the verifier. ``python -m tests.chaos.run --help`` (``make chaos``)."""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from rich.console import Console

from tests.chaos.driver import Driver
from tests.chaos.environment import ChaosEnvironment, chaos_environment
from tests.chaos.fault_injector import FaultInjector, plan
from tests.chaos.ledger import Ledger
from tests.chaos.report import Report
from tests.chaos.verifier import verify


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """scans: how many are requested, on average per_second. faults: at random moments of that time.

    long: of every length. only: of this kind alone.
    """

    seed: str
    scans: int
    faults: int
    per_second: float
    long: bool = True
    only: str = ""

    @property
    def duration_s(self) -> float:
        return self.scans / self.per_second


async def nothing(field: ChaosEnvironment, ledger: Ledger) -> None:
    """Nothing more to do."""


async def run_chaos(
    rules: Rules,
    data_dir: Path,
    say: Callable[[str], None],
    *,
    afterwards: Callable[[ChaosEnvironment, Ledger], Awaitable[None]] = nothing,
) -> Report:
    """Start everything, fight, judge, stop everything. afterwards: after the verifier, while everything still runs."""
    began = time.monotonic()
    ledger = Ledger()
    say(f"seed {rules.seed}: {rules.scans} scans, {rules.faults} faults in {rules.duration_s:.0f} s; files in {data_dir}")
    async with chaos_environment(data_dir, has_standby=rules.long) as field, aiohttp.ClientSession() as session:
        say(f"{time.monotonic() - began:.0f} s: the system is up")
        driver = Driver(field, ledger, session, seed=rules.seed)
        injector = FaultInjector(field, session, driver.probe, driver.extra_scan, say)
        faults = plan(rules.seed, rules.faults, rules.duration_s, long=rules.long, only=rules.only)
        async with asyncio.TaskGroup() as group:
            group.create_task(driver.drive(rules.scans, rules.per_second))
            group.create_task(injector.carry_out(faults))
        say(f"{time.monotonic() - began:.0f} s: the run is over, the verifier begins")
        findings = await verify(field, ledger)
        await afterwards(field, ledger)
    return Report(
        seed=rules.seed, seconds=time.monotonic() - began, ledger=ledger, outcomes=injector.outcomes, findings=findings
    )


def main() -> int:
    """The command: exit code 0 when nothing is wrong."""
    parser = argparse.ArgumentParser(prog="tests.chaos.run", description=__doc__)
    parser.add_argument("--scans", type=int, default=2000)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--per-second", type=float, default=4.0, help="scans requested a second, on average")
    parser.add_argument("--seed", default="", help="replay a run; default: a new one, which is printed")
    parser.add_argument("--short", action="store_true", help="without the faults that take half a minute to get over")
    parser.add_argument("--only", default="", metavar="KIND", help="faults of this kind alone, such as 'promote the standby'")
    parser.add_argument("--json", type=Path, help="write the report to this file, too")
    parser.add_argument("--keep", type=Path, help="keep all files of the run in this new folder")
    given = parser.parse_args()
    console = Console(stderr=True)
    rules = Rules(
        seed=given.seed or new_seed(), scans=given.scans, faults=given.faults, per_second=given.per_second, long=not given.short,
        only=given.only,
    )  # fmt: skip
    home = given.keep or Path(tempfile.mkdtemp(prefix="skydriver chaos "))
    report = asyncio.run(run_chaos(rules, home.absolute(), lambda text: console.print(text, highlight=False, markup=False)))
    report.show(Console())
    if given.json:
        given.json.write_text(json.dumps(report.as_json(), indent=1))
    if report.wrong:
        console.print(f"replay with --seed {rules.seed}; logs and data are in {home}", highlight=False)
        return 1
    if not given.keep:
        shutil.rmtree(home, ignore_errors=True)
    return 0


def new_seed() -> str:
    """Short enough for a classifier's value."""
    return str(random.SystemRandom().randrange(1_000_000))


if __name__ == "__main__":
    sys.exit(main())
