"""The configuration of a worker: its queues, its download, its pilot settings. Passed as one JSON environment variable."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from skydriver_sandbox.queues import BadProfileError, QueueProfile, read_profile

JOB_VARIABLE = "SANDBOX_WORKER_JOB"
MEAN_VARIABLE = "SANDBOX_RECO_MEAN_S"
JITTER_VARIABLE = "SANDBOX_RECO_JITTER"
PREFETCH_VARIABLE = "SANDBOX_WORKER_PREFETCH"
DEFAULT_MEAN_S = 0.002
DEFAULT_JITTER = 0.5
DEFAULT_PREFETCH = 8

_URL = re.compile(r"https?://[^\s'\"]+")


class BadJobError(Exception):
    """The job cannot be done as described; the text says which setting is wrong."""


@dataclass(frozen=True)
class Faults:
    """Misbehaviour on request: chances per message (0 … 1), and a delay before anything happens."""

    die: float = 0.0
    hang: float = 0.0
    fail: float = 0.0
    no_output: float = 0.0
    double: float = 0.0
    nan: float = 0.0
    unknown_pixel: float = 0.0
    start_delay_s: float = 0.0


@dataclass(frozen=True)
class PilotSettings:
    """The pilot's `EWMS_PILOT_…` settings that mean something here; seconds. Source: EWMS contract 11."""

    idle_timeout_s: float = 1.0
    first_message_timeout_s: float = 1.0
    task_timeout_s: float | None = None
    init_timeout_s: float = 1800.0
    stop_on_task_error: bool = True
    quarantine_s: float = 0.0
    prefetch: int = DEFAULT_PREFETCH


@dataclass(frozen=True)
class Job:
    """One worker's order. report_url and report_token: where the pool hears of its status; pids: see `processes`."""

    report_url: str
    report_token: str
    parent_pid: int
    init_args: str
    queue_in: QueueProfile
    queue_out: QueueProfile
    pilot: PilotSettings
    faults: Faults = field(default_factory=Faults)
    mean_s: float = DEFAULT_MEAN_S
    jitter: float = DEFAULT_JITTER

    def startup_url(self) -> str | None:
        """The first address in the init container's arguments: where `startup.json` lies."""
        found = _URL.search(self.init_args)
        return found.group() if found else None


def read_job(environment: Mapping[str, str]) -> Job:
    """Raises BadJobError, naming what is missing or wrong; never shows values: some are secret."""
    try:
        given = json.loads(environment[JOB_VARIABLE])
        task_environment = given["task_env"]
        return Job(
            report_url=str(given["report_url"]),
            report_token=str(given["report_token"]),
            parent_pid=int(given["parent_pid"]),
            init_args=str(given["init_args"]),
            queue_in=read_profile("queue_in", given["queue_in"]),
            queue_out=read_profile("queue_out", given["queue_out"]),
            pilot=read_pilot(given["pilot_env"], default_prefetch=_whole(environment, PREFETCH_VARIABLE, DEFAULT_PREFETCH)),
            faults=Faults(**given["faults"]),
            # A workflow may slow down its own scan; the installation's setting is the default.
            mean_s=_seconds(task_environment, MEAN_VARIABLE, _seconds(environment, MEAN_VARIABLE, DEFAULT_MEAN_S)),
            jitter=min(
                1.0, _seconds(task_environment, JITTER_VARIABLE, _seconds(environment, JITTER_VARIABLE, DEFAULT_JITTER))
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadJobError(f"{JOB_VARIABLE} is incomplete: {type(error).__name__}") from error
    except BadProfileError as error:
        raise BadJobError(str(error)) from error


def read_pilot(settings: Mapping[str, Any], *, default_prefetch: int = DEFAULT_PREFETCH) -> PilotSettings:
    """From `pilot_config.environment`. Values may be texts or numbers; unknown names mean nothing here."""
    idle = _seconds(settings, "EWMS_PILOT_TIMEOUT_QUEUE_INCOMING", 1.0)
    task_timeout = _seconds(settings, "EWMS_PILOT_TASK_TIMEOUT", 0.0)
    return PilotSettings(
        idle_timeout_s=idle,
        first_message_timeout_s=_seconds(settings, "EWMS_PILOT_TIMEOUT_QUEUE_WAIT_FOR_FIRST_MESSAGE", idle),
        task_timeout_s=task_timeout or None,
        init_timeout_s=_seconds(settings, "EWMS_PILOT_INIT_TIMEOUT", 1800.0),
        stop_on_task_error=_flag(settings, "EWMS_PILOT_STOP_LISTENING_ON_TASK_ERROR", default=True),
        quarantine_s=_seconds(settings, "EWMS_PILOT_QUARANTINE_TIME", 0.0),
        prefetch=max(1, _whole(settings, "EWMS_PILOT_PREFETCH", default_prefetch)),
    )


def _seconds(settings: Mapping[str, Any], name: str, default: float) -> float:
    text = str(settings.get(name, "")).strip()
    try:
        return max(0.0, float(text)) if text else default
    except ValueError as error:
        raise BadJobError(f"{name} is not a number of seconds") from error


def _whole(settings: Mapping[str, Any], name: str, default: int) -> int:
    text = str(settings.get(name, "")).strip()
    try:
        return int(text) if text else default
    except ValueError as error:
        raise BadJobError(f"{name} is not a whole number") from error


def _flag(settings: Mapping[str, Any], name: str, *, default: bool) -> bool:
    text = str(settings.get(name, "")).strip().lower()
    return text in {"1", "true", "yes", "on"} if text else default
