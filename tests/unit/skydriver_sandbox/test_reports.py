"""Bodies of the scanner's reports: the shapes of the scanner contract, sections 5 and 10."""

import json
import math
import random
from typing import Any

import pytest

from skydriver_sandbox.events import Metadata, read_event
from skydriver_sandbox.likelihood import reconstruct
from skydriver_sandbox.sample_event import sample_event
from skydriver_sandbox.scanner.pixel_ledger import PixelLedger
from skydriver_sandbox.scanner.progress import Report, manifest_json, predicted_total
from skydriver_sandbox.scanner.progression import read_progression
from skydriver_sandbox.scanner.rest_client import NON_URGENT, PERSISTENT
from skydriver_sandbox.scanner.results import COLUMNS, result_json
from skydriver_sandbox.scanner.statistics import Statistics

EVENT = read_event(sample_event(), is_real=True)
START = 1_709_647_202.0


def _scanned(nside_8: int, *, variations: int = 1) -> tuple[PixelLedger, Statistics]:
    """A scan that has sent all of nside 8 and has this many pixels back, one a second from 100 s after its start."""
    ledger, stats = PixelLedger(read_progression(["8:0", "64:12", "512:24"]), variations, 0.5), Statistics()
    ledger.mark_sent([(8, pixel) for pixel in range(768)], START + 100)
    pixels = random.Random(1).sample(range(768), nside_8)
    for number, pixel in enumerate(pixels):
        for variation in range(variations):
            ledger.accept(reconstruct(EVENT.facts, "splinempe" if variations > 1 else "dummy", 8, pixel, variation))
            stats.add(8, 0.5, START + 100, START + 101 + number)
    return ledger, stats


def _body(ledger: PixelLedger, stats: Statistics, *, now: float, ended_at: float | None = None) -> dict[str, Any]:
    report = Report("scan", "Scanning.", "Next report in 60 s.", 0.5, START, START + 100, now, ended_at)
    body = manifest_json(ledger, stats, EVENT.metadata, report)
    json.dumps(body, allow_nan=False)
    return body


def test_the_first_report_has_no_rate_and_three_parts() -> None:
    ledger, stats = PixelLedger(read_progression(["8:0", "64:12"]), 1, 0.5), Statistics()
    body = _body(ledger, stats, now=START + 5)
    assert body.keys() == {"progress", "event_metadata", "scan_metadata"}
    assert body["progress"].keys() == {
        "summary", "epilogue", "tallies", "processing_stats", "predictive_scanning_threshold", "last_updated", "start", "end",
    }  # fmt: skip
    stats_part = body["progress"]["processing_stats"]
    assert stats_part.keys() == {"start", "runtime"}
    assert stats_part["start"].keys() == {"scanner start"}
    assert stats_part["runtime"] == {"elapsed": "0:00:05"}
    assert (body["progress"]["start"], body["progress"]["end"]) == (int(START), None)
    assert body["scan_metadata"] == {
        "scan_id": "scan", "nside_progression": {"8": 0, "64": 12}, "position_variations": 1
    }  # fmt: skip
    assert body["progress"]["tallies"]["nsides"]["64"]["recos"] == {
        "done": 0, "done est. percent": "N/A", "generated": 0, "initial approximation total": 768,
    }  # fmt: skip


def test_a_report_in_mid_scan_has_rates_and_predictions() -> None:
    body = _body(*_scanned(256), now=START + 400)
    tallies, stats = body["progress"]["tallies"], body["progress"]["processing_stats"]
    assert tallies["overall"]["recos"] == {
        "done": 256, "done est. percent": "256/768 (0.33)", "generated": 768, "initial approximation total": 3072,
    }  # fmt: skip
    assert tallies["overall"]["pixels"]["done est. percent"] == "256/768.0 (0.33)"
    assert stats["rate"].keys() == {"all recos", "nside-8"}
    group = stats["rate"]["nside-8"]
    assert group["worker time"] == {"mean": "0:00:00", "median": "0:00:00", "slowest": "0:00:00", "fastest": "0:00:00"}
    assert group["round-trip time"]["slowest"] == "0:04:16"
    assert group["wall time"].keys() == {"start", "end", "runtime", "mean reco"}
    assert group["wall time"]["mean reco"] == "0:00:01"
    assert stats["runtime"]["startup runtime"] == "0:01:40"
    assert stats["predictions"]["total # of reconstructions"] == 3072
    assert stats["predictions"]["technique"] == "average over the whole run"
    assert list(tallies["est. scan timeline"]) == ["0.00033"]
    assert "end" not in stats


def test_predictions_look_at_the_recent_past_only() -> None:
    stats = Statistics(window_ratio=0.25, window_min=10)
    for number in range(100):
        stats.add(8, 0.1, 0.0, 1000.0 * number if number < 50 else 50_000.0 + number)
    prediction = stats.predict(200, 50_100.0)
    assert prediction.technique == "moving average over the last 25 reconstructions"
    assert prediction.time_left_s == pytest.approx(100 * 26 / 25)


def test_the_timeline_tells_when_each_tenth_was_back() -> None:
    stats = Statistics()
    for number in range(35):
        stats.add(8, 0.1, 0.0, 10.0 + number)
    assert stats.timeline(100, 0.0) == {"0.01000": 10.0, "0.1": 19.0, "0.2": 29.0, "0.3": 39.0}


def test_the_last_report_is_finished_and_predicts_nothing() -> None:
    body = _body(*_scanned(768), now=START + 1000, ended_at=START + 1000)
    stats = body["progress"]["processing_stats"]
    assert stats["finished"] is True
    assert "predictions" not in stats
    assert body["progress"]["end"] == int(START + 1000)


def test_the_predicted_total_grows_with_what_is_sent() -> None:
    ledger, _ = _scanned(0)
    assert predicted_total(ledger) == 3072
    ledger.mark_sent([(64, pixel) for pixel in range(900)], START)
    assert predicted_total(ledger) == 768 + 900 + 1536


def test_a_result_has_sorted_rows_and_the_documented_columns() -> None:
    ledger, _ = _scanned(40)
    entry = result_json(ledger.finished, EVENT.metadata, complete=False)["nside-8"]
    assert entry.keys() == {"columns", "data", "metadata"}
    assert entry["columns"] == COLUMNS == ["index", "llh", "E_in", "E_tot", "X", "Y", "Z", "T"]
    indices = [row[0] for row in entry["data"]]
    assert indices == sorted(indices)
    assert all(type(cell) is float for row in entry["data"] for cell in row[1:])
    assert entry["metadata"] == {"nside": 8, "complete": False, **EVENT.metadata.as_json()}


def test_nan_becomes_skyreaders_text_and_no_result_is_an_empty_object() -> None:
    ledger, _ = _scanned(2, variations=7)
    row = result_json(ledger.finished, EVENT.metadata, complete=True)["nside-8"]["data"][0]
    assert row[2:4] == ["<skyreader.nan>", "<skyreader.nan>"]
    assert result_json({}, EVENT.metadata, complete=False) == {}


def test_metadata_may_have_no_type() -> None:
    metadata = Metadata(1, 2, None, 3.0, is_real_event=False)
    assert metadata.as_json()["event_type"] is None


def test_patience_is_that_of_the_contract() -> None:
    pauses = [PERSISTENT.pause_s(failures) for failures in range(1, 25)]
    assert pauses[:4] == [0.0, 0.6, 1.2, 2.4]
    assert max(pauses) == 120.0
    # "only about 33 min if calls fail fast"
    assert sum(pauses) == pytest.approx(33 * 60, rel=0.1)
    assert (PERSISTENT.timeout_s, PERSISTENT.retries, NON_URGENT.timeout_s, NON_URGENT.retries) == (60, 24, 10, 1)
    assert not math.isnan(NON_URGENT.pause_s(1))
