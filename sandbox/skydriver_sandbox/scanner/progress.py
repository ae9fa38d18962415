"""The body of `PATCH /scan/{id}/manifest`: progress, event metadata, scan metadata. Source: scanner contract 5.

Texts are for people: times are naive local time, durations Python's own. The shapes are those the old server stored.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from skydriver_sandbox.events import Metadata
from skydriver_sandbox.scanner.pixel_ledger import PixelLedger
from skydriver_sandbox.scanner.statistics import Group, Statistics, summarise


@dataclass(frozen=True)
class Report:
    """What a report says besides the numbers. ended_at: Unix seconds, set in the last report only."""

    scan_id: str
    summary: str
    epilogue: str
    threshold: float
    started_at: float
    first_round_at: float | None
    now: float
    ended_at: float | None = None


def moment(at: float) -> str:
    # Naive local time on purpose: it is what scanners write, and the field is a text for people.
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")  # noqa: DTZ006


def span(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def _done_of(done: float, generated: float) -> str:
    return f"{done}/{generated} ({done / generated:.2f})" if generated else "N/A"


def _tally(done: int, generated: float, estimate: float) -> dict[str, Any]:
    return {
        "done": done,
        "done est. percent": _done_of(done, generated),
        "generated": generated,
        "initial approximation total": estimate,
    }


def _tallies(ledger: PixelLedger, numbers: Iterable[tuple[int, int, int, int]]) -> dict[str, Any]:
    """numbers: per nside (reconstructions done, pixels done, reconstructions sent, reconstructions estimated)."""
    recos_done, pixels_done, sent, estimate = (sum(column) for column in zip(*numbers, strict=True))
    return {
        "recos": _tally(recos_done, sent, estimate),
        "pixels": _tally(pixels_done, sent / ledger.variations, estimate / ledger.variations),
    }


def predicted_total(ledger: PixelLedger) -> int:
    """Reconstructions the whole scan will need, as far as can be told now."""
    estimates = ledger.progression.estimates(ledger.variations)
    known = sum(ledger.n_sent(nside) or estimate for nside, estimate in estimates.items())
    return max(known, sum(estimates.values()))


def _rates(group: Group) -> dict[str, Any]:
    def table(values: list[float]) -> dict[str, str]:
        found = summarise(values)
        return {
            "mean": span(found.mean),
            "median": span(found.median),
            "slowest": span(found.slowest),
            "fastest": span(found.fastest),
        }

    wall = max(0.0, group.last_arrival_at - group.first_sent_at)
    return {
        "worker time": table(group.worker_s),
        "round-trip time": table(group.round_trip_s),
        "wall time": {
            "start": moment(group.first_sent_at),
            "end": moment(group.last_arrival_at),
            "runtime": span(wall),
            "mean reco": span(wall / len(group.worker_s)),
        },
    }


def _processing_stats(ledger: PixelLedger, stats: Statistics, report: Report) -> dict[str, Any]:
    start = {"scanner start": moment(report.started_at)}
    runtime = {"elapsed": span(report.now - report.started_at)}
    found: dict[str, Any] = {"start": start, "runtime": runtime}
    if not stats.arrivals or report.first_round_at is None:
        return found
    first_worker = stats.first_worker_start_at
    start["reco start (on server)"] = moment(report.first_round_at)
    start["reco start (on first worker)"] = moment(first_worker)
    runtime["startup runtime"] = span(report.first_round_at - report.started_at)
    runtime["reco runtime (on server)"] = span(report.now - report.first_round_at)
    runtime["reco start delay (on first worker)"] = span(max(0.0, first_worker - report.first_round_at))
    # Its presence means that some pixels are back; SkyDriver derives the scan's state from it.
    found["rate"] = {
        "all recos": _rates(stats.all),
        **{f"nside-{nside}": _rates(stats.by_nside[nside]) for nside in ledger.progression.nsides if nside in stats.by_nside},
    }
    if report.ended_at is not None:
        return found | {"end": moment(report.ended_at), "finished": True}
    total = predicted_total(ledger)
    prediction = stats.predict(total, report.now)
    found["predictions"] = {
        "time left": span(prediction.time_left_s),
        "total runtime at finish": span(report.now - report.started_at + prediction.time_left_s),
        "total # of reconstructions": total,
        "end": moment(report.now + prediction.time_left_s),
        "technique": prediction.technique,
    }
    return found


def manifest_json(ledger: PixelLedger, stats: Statistics, metadata: Metadata, report: Report) -> dict[str, Any]:
    """All three parts, as every report carries them."""
    estimates = ledger.progression.estimates(ledger.variations)
    numbers = {
        nside: (ledger.n_received(nside), len(ledger.finished.get(nside, {})), ledger.n_sent(nside), estimates[nside])
        for nside in ledger.progression.nsides
    }
    timeline = stats.timeline(predicted_total(ledger), report.started_at)
    return {
        "progress": {
            "summary": report.summary,
            "epilogue": report.epilogue,
            "tallies": {
                "nsides": {str(nside): _tallies(ledger, [row]) for nside, row in numbers.items()},
                "overall": _tallies(ledger, numbers.values()),
                "est. scan timeline": {share: span(seconds) for share, seconds in timeline.items()},
            },
            "processing_stats": _processing_stats(ledger, stats, report),
            "predictive_scanning_threshold": report.threshold,
            "last_updated": moment(report.now),
            "start": int(report.started_at),
            "end": None if report.ended_at is None else int(report.ended_at),
        },
        "event_metadata": metadata.as_json(),
        "scan_metadata": {
            "scan_id": report.scan_id,
            "nside_progression": {str(step.nside): step.extension for step in ledger.progression.steps},
            "position_variations": ledger.variations,
        },
    }
