"""The stand-in's settings: places on the command line, delays and secrets from the environment.

Two sets of delays: `fast` lets a demo finish in seconds, `realistic` has EWMS's own delays (EWMS contract 8, 9, 10).
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path


class BadSettingError(Exception):
    """A setting is missing or wrong; the text names it and never shows it."""


@dataclass(frozen=True)
class Delays:
    """Seconds. launch_s: per taskforce; submit_s: between two rounds of the submitters; eviction_s: after how long a worker without
    work, or one of several, makes room for a workflow that has none."""

    activation_s: float = 0.2
    launch_s: float = 0.02
    submit_s: float = 0.2
    status_s: float = 1.0
    eviction_s: float = 2.0


FAST = Delays()
REALISTIC = Delays(activation_s=15.0, launch_s=1.0, submit_s=60.0, status_s=15.0, eviction_s=60.0)


@dataclass(frozen=True)
class Settings:
    """public_url: without a slash at its end, None until the port is known; page_bytes: where a listing's page ends."""

    port: int
    data_dir: Path
    public_url: str | None
    max_local_workers: int
    delays: Delays
    amqp_url: str
    management_url: str | None
    client_id: str
    client_secret: str
    access_token_lifetime_s: float
    s3_key_id: str
    s3_secret: str
    s3_region: str
    page_bytes: int
    admin_token: str | None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skydriver_sandbox.ewms",
        description="A stand-in for EWMS, its token issuer and an object store. Secrets come by environment (SANDBOX_…).",
    )
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1; 0 takes a free one and says which")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--public-url", help="how others reach this server; default http://127.0.0.1:PORT")
    parser.add_argument("--max-local-workers", type=int, default=2, help="real processes at a time, over all workflows")
    parser.add_argument("--pace", choices=["fast", "realistic"], default="fast")
    return parser


def read_settings(words: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Raises BadSettingError; SystemExit(2) from argparse for a wrong argument."""
    given = _parser().parse_args(words)
    if given.max_local_workers < 0:
        raise BadSettingError("--max-local-workers must not be negative")
    base = REALISTIC if given.pace == "realistic" else FAST
    variables = {
        "activation_s": "SANDBOX_ACTIVATION_INTERVAL_S",
        "launch_s": "SANDBOX_LAUNCH_INTERVAL_S",
        "submit_s": "SANDBOX_SUBMIT_INTERVAL_S",
        "status_s": "SANDBOX_STATUS_INTERVAL_S",
        "eviction_s": "SANDBOX_EVICTION_S",
    }
    delays = replace(base, **{field: _number(environment, name, getattr(base, field)) for field, name in variables.items()})
    return Settings(
        port=given.port,
        data_dir=given.data_dir,
        public_url=given.public_url.rstrip("/") if given.public_url else None,
        max_local_workers=given.max_local_workers,
        delays=delays,
        amqp_url=_required(environment, "SANDBOX_AMQP_URL"),
        management_url=environment.get("SANDBOX_MANAGEMENT_URL") or None,
        client_id=environment.get("SANDBOX_CLIENT_ID") or "skydriver",
        client_secret=_required(environment, "SANDBOX_CLIENT_SECRET"),
        access_token_lifetime_s=_number(environment, "SANDBOX_ACCESS_TOKEN_LIFETIME_S", 3600.0),
        s3_key_id=environment.get("SANDBOX_S3_KEY_ID") or "sandbox",
        s3_secret=_required(environment, "SANDBOX_S3_SECRET"),
        s3_region=environment.get("SANDBOX_S3_REGION") or "us-east-1",
        page_bytes=int(_number(environment, "SANDBOX_PAGE_BYTES", 10 * 1024 * 1024)),
        admin_token=environment.get("SANDBOX_ADMIN_TOKEN") or None,
    )


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise BadSettingError(f"the environment variable {name} is needed")
    return value


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise BadSettingError(f"the environment variable {name} must be a number, not negative")
    return value
