"""A scanner server's command line and environment. Source: scanner contract 1; REST contract 9.3."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skydriver_sandbox.scanner.progression import (
    Progression,
    ScanRefusedError,
    read_progression,
    read_threshold,
    variations_of,
)

DEATHS = ("before-final-result", "before-last-progress")


@dataclass(frozen=True)
class Options:
    """One scanner's order. Paths are files, seconds are floats; token, bus_url and queue file stay out of logs.

    bus_url: empty = report by HTTP calls alone, as scanners always did.
    die: where this scanner kills itself, once per scan; empty for nowhere.
    """

    reco_algo: str
    variations: int
    progression: Progression
    is_real_event: bool
    threshold: float
    startup_json: Path
    cache_dir: Path
    output_dir: Path | None
    event_file: Path | None
    scan_id: str
    address: str
    token: str
    bus_url: str
    spool_dir: Path
    ewms_json: Path
    ewms_json_timeout_s: float
    upload_json: Path | None
    progress_interval_s: float
    result_interval_s: float
    kill_switch_interval_s: float
    worker_poll_s: float
    mq_timeout_s: float
    mq_prefetch: int
    resend_after_s: float
    window_ratio: float
    window_min: int
    log_level: str
    die: str


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skydriver_sandbox.scanner", description="A stand-in for the Skymap Scanner's server."
    )
    parser.add_argument("--reco-algo", required=True)
    parser.add_argument("--nsides", nargs="*", required=True, metavar="NSIDE:EXTENSION")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--real-event", action="store_true")
    kind.add_argument("--simulated-event", action="store_true")
    parser.add_argument("--predictive-scanning-threshold", type=float, default=1.0)
    parser.add_argument("--client-startup-json", type=Path, required=True, help="written for the workers")
    parser.add_argument("--cache-dir", type=Path, required=True, help="where a restarted scanner finds its journal")
    parser.add_argument("--output-dir", type=Path, help="where the final result goes as a file; needed without SkyDriver")
    parser.add_argument("--gcd-dir", type=Path, help="must exist; not used here")
    parser.add_argument("--event-file", type=Path, help="the event, when there is no SkyDriver to ask")
    return parser


def read_options(words: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Raises ScanRefusedError for what the scanner refuses; SystemExit(2) from argparse for an unknown argument."""
    given = _parser().parse_args(words)
    progression = read_progression(given.nsides)
    address = environment.get("SKYSCAN_SKYDRIVER_ADDRESS", "")
    if not address and (given.output_dir is None or given.event_file is None):
        raise ScanRefusedError("without SKYSCAN_SKYDRIVER_ADDRESS, --output-dir and --event-file are needed")
    if given.gcd_dir is not None and not given.gcd_dir.is_dir():
        raise ScanRefusedError("--gcd-dir does not exist")
    upload = environment.get("SKYSCAN_STARTUP_UPLOAD_JSON", "")
    return Options(
        reco_algo=given.reco_algo,
        variations=variations_of(given.reco_algo),
        progression=progression,
        is_real_event=given.real_event,
        threshold=read_threshold(given.predictive_scanning_threshold),
        startup_json=given.client_startup_json,
        cache_dir=given.cache_dir,
        output_dir=given.output_dir,
        event_file=given.event_file,
        scan_id=_required(environment, "SKYSCAN_SKYDRIVER_SCAN_ID"),
        address=address,
        token=environment.get("SKYSCAN_SKYDRIVER_AUTH", ""),
        bus_url=environment.get("SKYSCAN_SKYDRIVER_BUS_URL", ""),
        spool_dir=Path(environment.get("SKYSCAN_SKYDRIVER_SPOOL_DIR", "") or given.cache_dir / "spool"),
        ewms_json=Path(_required(environment, "SKYSCAN_EWMS_JSON")),
        ewms_json_timeout_s=_positive(environment, "SKYSCAN_EWMS_JSON_TIMEOUT_SEC", 3600),
        upload_json=Path(upload) if upload else None,
        progress_interval_s=_positive(environment, "SKYSCAN_PROGRESS_INTERVAL_SEC", 60),
        result_interval_s=_positive(environment, "SKYSCAN_RESULT_INTERVAL_SEC", 120),
        kill_switch_interval_s=_positive(environment, "SKYSCAN_KILL_SWITCH_CHECK_INTERVAL", 300),
        worker_poll_s=_positive(environment, "SANDBOX_SCANNER_WORKER_POLL_S", 0.5),
        mq_timeout_s=_positive(environment, "SKYSCAN_MQ_TIMEOUT_FROM_CLIENTS", 7200),
        mq_prefetch=int(_positive(environment, "SKYSCAN_MQ_PREFETCH_FROM_CLIENTS", 300)),
        resend_after_s=_positive(environment, "SANDBOX_SCANNER_RESEND_AFTER_S", 120),
        window_ratio=_positive(environment, "SKYSCAN_PROGRESS_RUNTIME_PREDICTION_WINDOW_RATIO", 0.25),
        window_min=int(_positive(environment, "SKYSCAN_PROGRESS_RUNTIME_PREDICTION_WINDOW_MIN", 400)),
        log_level=environment.get("SKYSCAN_LOG", "INFO").upper(),
        die=_choice(environment, "SANDBOX_SCANNER_DIE", ("", *DEATHS)),
    )


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise ScanRefusedError(f"the environment variable {name} is needed")
    return value


def _positive(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ScanRefusedError(f"the environment variable {name} must be a number above 0")
    return value


def _choice(environment: Mapping[str, str], name: str, allowed: Sequence[str]) -> str:
    value = environment.get(name, "")
    if value not in allowed:
        raise ScanRefusedError(f"the environment variable {name} must be one of {', '.join(filter(None, allowed))}")
    return value
