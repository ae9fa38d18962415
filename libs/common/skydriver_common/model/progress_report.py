"""What a scanner reports of its progress, as it is stored and served. Source: REST contract 5.1.2."""

from typing import Any, TypedDict


class ProcessingStats(TypedDict):
    """rate: how long reconstructions take, empty before the first. finished: the scanner has reconstructed all it wants to."""

    start: dict[str, Any]
    runtime: dict[str, Any]
    rate: dict[str, Any]
    end: str
    finished: bool
    predictions: dict[str, Any]


class ProgressReport(TypedDict):
    """Checked by ``payloads/reports.py``, which fills in the defaults. tallies: free-form."""

    summary: str
    epilogue: str
    tallies: dict[str, Any]
    processing_stats: ProcessingStats
    predictive_scanning_threshold: float
    last_updated: str
    start: int | None
    end: int | None


def has_reconstructed(progress: ProgressReport | None) -> bool:
    """Return whether the report says that pixels were done."""
    return bool(progress and progress["processing_stats"].get("rate"))


def is_finished(progress: ProgressReport | None) -> bool:
    """Return whether the report says that all pixels are done."""
    return bool(progress and progress["processing_stats"]["finished"])
