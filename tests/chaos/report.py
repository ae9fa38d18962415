"""The report of one run: a table to read, JSON to keep."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.fault_injector import Outcome
from tests.chaos.ledger import Ledger
from tests.chaos.verifier import Finding

_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """seconds: of the whole run, start and findings included."""

    seed: str
    seconds: float
    ledger: Ledger
    outcomes: list[Outcome]
    findings: list[Finding]

    @property
    def hits(self) -> list[Outcome]:
        """Of the faults, those that found their victim."""
        return [outcome for outcome in self.outcomes if outcome.hit]

    @property
    def lost(self) -> int:
        """Acknowledged things that are not there."""
        return sum(len(finding.wrong) for finding in self.findings if finding.is_loss)

    @property
    def wrong(self) -> list[str]:
        """Everything that must not be."""
        unrecovered = [f"{outcome.fault}: {outcome.note}" for outcome in self.hits if outcome.recovery_s is None]
        return unrecovered + [f"{finding.question}: no, {text}" for finding in self.findings for text in finding.wrong]

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON-native data. Times in seconds."""
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "scans": len(self.ledger.scans),
            "scans_answered_200": sum(record.scan_id is not None for record in self.ledger.scans),
            "requests": self.ledger.requests,
            "answers": {f"{kind}: {what}": count for (kind, what), count in sorted(self.ledger.answers.items())},
            "slowest_503_s": round(self.ledger.slowest_503_s, 2),
            "faults": len(self.hits),
            "faults_without_a_victim": len(self.outcomes) - len(self.hits),
            "faults_by_kind": [
                {"fault": kind, "count": len(times), "p50_s": percentile(times, 50), "p95_s": percentile(times, 95)}
                for kind, times in sorted(self.recoveries().items())
            ],
            "recovery_p50_s": percentile(self._times(), 50),
            "recovery_p95_s": percentile(self._times(), 95),
            "lost": self.lost,
            "checks": [
                {"question": finding.question, "looked_at": finding.looked_at, "wrong": finding.wrong, "note": finding.note}
                for finding in self.findings
            ],
            "wrong": self.wrong,
        }

    def recoveries(self) -> dict[str, list[float]]:
        """Kind of fault, and its victim's kind, to the recovery times in seconds."""
        found: dict[str, list[float]] = {}
        for outcome in self.hits:
            victim = "" if outcome.fault.kind == "kill a scanner" else f" {outcome.fault.victim.partition('-')[0]}"
            found.setdefault(outcome.fault.kind + victim, [])
            if outcome.recovery_s is not None:
                found[outcome.fault.kind + victim].append(outcome.recovery_s)
        return found

    def _times(self) -> list[float]:
        return [outcome.recovery_s for outcome in self.hits if outcome.recovery_s is not None]

    def show(self, console: Console) -> None:
        """Print it."""
        faults = Table("fault", "count", "recovery p50", "p95", title=f"faults (seed {self.seed})")
        for kind, times in sorted(self.recoveries().items()):
            faults.add_row(kind, str(len(times)), f"{percentile(times, 50):.1f} s", f"{percentile(times, 95):.1f} s")
        times = self._times()
        faults.add_section()
        faults.add_row("all", str(len(self.hits)), f"{percentile(times, 50):.1f} s", f"{percentile(times, 95):.1f} s")
        console.print(faults)
        answers = Table("request", "answers", title=f"{self.ledger.requests} requests")
        by_kind: dict[str, Counter[str]] = {}
        for (kind, what), count in self.ledger.answers.items():
            by_kind.setdefault(kind, Counter())[what] += count
        for kind, counts in sorted(by_kind.items()):
            answers.add_row(kind, ", ".join(f"{count} × {what}" for what, count in sorted(counts.items())))
        console.print(answers)
        checks = Table("", "question", "looked at", "wrong", title="findings")
        for finding in self.findings:
            mark = "[red]✗[/red]" if finding.wrong else "[green]✓[/green]"
            checks.add_row(mark, finding.question, str(finding.looked_at), str(len(finding.wrong)))
            if finding.note:
                checks.add_row("", f"[dim]{finding.note}[/dim]", "", "")
        console.print(checks)
        for text in self.wrong[:_SHOWN]:
            console.print(f"[red]✗[/red] {text}", soft_wrap=True, highlight=False)
        if len(self.wrong) > _SHOWN:
            console.print(f"… and {len(self.wrong) - _SHOWN} more, see the JSON report")
        answered = sum(record.scan_id is not None for record in self.ledger.scans)
        console.print(
            f"[bold]{answered} scans, {self.ledger.requests} requests, {len(self.hits)} faults, lost = {self.lost}[/bold]"
            f" (slowest 503: {self.ledger.slowest_503_s:.1f} s; {self.seconds:.0f} s in all; seed {self.seed})"
        )


def percentile(values: list[float], percent: float) -> float:
    """Nearest rank; 0 for no values."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return round(ranked[min(len(ranked) - 1, max(0, math.ceil(len(ranked) * percent / 100) - 1))], 2)
