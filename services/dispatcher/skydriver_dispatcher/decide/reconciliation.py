"""What the database and the launcher know differently, and what to do about it. Pure."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from skydriver_common.model.ids import ScanId
from skydriver_common.model.stages import ScannerStage

MAX_STARTING = 500
"""So many scans that wait for their container are looked at in one comparison."""
UNSETTLED_RETRY_S = 5.0
"""After a comparison during which one of its scans has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedScan:
    """A launched scan that is neither deleted nor complete, so its scanner server should be running.

    version: of the scan when it was read. stage, code: as of the last ``ScannerStageChanged``.
    """

    scan_id: ScanId
    version: int
    stage: ScannerStage
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Scan ids. missing: should run and have no scanner server. unexpected: run and should not. starting: wait for their container."""

    missing: frozenset[ScanId]
    unexpected: frozenset[ScanId]
    starting: tuple[ScanId, ...]


def compare(expected: Mapping[ScanId, ExpectedScan], found: Mapping[ScanId, bool]) -> Comparison:
    """Compare what should run with what does. found: scan id to whether its scanner server runs; False: its end is not handled yet."""
    running = {scan_id for scan_id, runs in found.items() if runs}
    starting = sorted(
        scan_id for scan_id, scan in expected.items() if scan.stage == ScannerStage.SCHEDULED and scan_id in running
    )
    return Comparison(
        missing=frozenset(expected.keys() - found.keys()),
        unexpected=frozenset(running - expected.keys()),
        starting=tuple(starting[:MAX_STARTING]),
    )


def unknown_since(before: Mapping[ScanId, float], unknown: Set[ScanId], *, now: float) -> dict[ScanId, float]:
    """Return since when each scan has been unknown without a break. before: the same, of the comparison before."""
    return {scan_id: before.get(scan_id, now) for scan_id in unknown}


def unknown_for_long(since: Mapping[ScanId, float], *, now: float, limit_s: float) -> frozenset[ScanId]:
    """Return the scans that have been unknown for ``limit_s`` or more."""
    return frozenset(scan_id for scan_id, began in since.items() if now - began >= limit_s)


def next_comparison_s(waits_s: Iterable[float | None], *, is_settled: bool) -> float | None:
    """Return the seconds after which to compare again; None: as usual.

    waits_s: when another look decides about a large difference, None: there is none. is_settled: no scan changed meanwhile.
    """
    waits = [wait_s for wait_s in waits_s if wait_s is not None]
    return min([*waits, *([] if is_settled else [UNSETTLED_RETRY_S])], default=None)
