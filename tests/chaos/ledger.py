"""What was asked and what was answered: the driver writes it, the verifier reads it."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class ScanRecord:
    """One scan as its user and its scanner saw it. Only what was acknowledged is listed.

    key: in the scan's classifiers, and the Idempotency-Key. event: the i3 event as it was posted.
    reports, results: marks of acknowledged reports and partial skymaps, final: of the last skymap.
    on_the_bus: its scanner reported through the client library: acknowledged are the final skymap and the last report that were
    handed over before it was closed well. Of the reports before, newer ones may have taken the place; a partial skymap that is
    overtaken by the final one, over another way or replica, is not stored (REST contract 4.12).
    """

    key: str
    event: bytes
    scan_id: str | None = None
    reports: list[str] = field(default_factory=list)
    refused_reports: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    final: str | None = None
    on_the_bus: bool = False
    is_deleted: bool = False
    rescan_id: str | None = None
    rescan_is_deleted: bool = False


@dataclass(slots=True)
class Ledger:
    """Everything of one run."""

    scans: list[ScanRecord] = field(default_factory=list)
    refused_keys: list[str] = field(default_factory=list)
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(kind of request, status or what happened instead) to how often."""
    slowest_503_s: float = 0.0
    complaints: list[str] = field(default_factory=list)
    """Answers that break a promise at once: a 500, a 503 without Retry-After, another answer to the same key."""

    def complain(self, text: str) -> None:
        """Note a broken promise."""
        self.complaints.append(text[:500])

    def unanswered(self, kind: str) -> int:
        """How many requests of a kind got a 503 or no answer."""
        return sum(
            count for (asked, what), count in self.answers.items() if asked == kind and (what == "503" or not what.isdigit())
        )

    @property
    def requests(self) -> int:
        return sum(self.answers.values())
