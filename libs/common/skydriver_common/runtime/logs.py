"""Logs and metrics of a process.

A log line is a dotted event name and fields: `log.info("scan.launched", attempt=2)`. `service` and `replica` are on every
line; middlewares bind `scan_id`, `command_id` and `correlation_id` around a piece of work. Lines of other libraries go through
the same chain. `warning`: someone may look; `error`: someone must. Bodies are never logged.
"""

import logging
import sys
from typing import Literal, TextIO

import orjson
import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from structlog.typing import EventDict, Processor, WrappedLogger

from skydriver_common.runtime.redaction import redact_event

__all__ = ["Metrics", "configure_logging"]

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

_LEVELS: dict[LogLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def configure_logging(
    *, service: str, replica: str, log_format: LogFormat, log_level: LogLevel, stream: TextIO | None = None
) -> None:
    """Send all logs of this process, ours and other libraries', to `stream` (default: stderr), one line each.

    Other libraries are heard from WARNING on (INFO when our level is debug): their chatter is not in our event names.
    Calling it again replaces what was set up before.
    """
    out = stream if stream is not None else sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _process_identity(service, replica),
        # Plain text: structlog's own renderers show local variables, and those hold tokens.
        structlog.processors.format_exc_info,
        redact_event,
    ]
    renderer = _renderer(log_format, colors=out.isatty())
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[log_level]),
        logger_factory=structlog.PrintLoggerFactory(file=out),
        cache_logger_on_first_use=False,  # a logger made at import must obey what is configured later
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if log_level == "debug" else max(logging.WARNING, _LEVELS[log_level]))


def _process_identity(service: str, replica: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        # Not in a context variable: threads and callbacks of foreign libraries start with an empty context.
        event["service"] = service
        event["replica"] = replica
        return event

    return add


def _renderer(log_format: LogFormat, *, colors: bool) -> Processor:
    if log_format == "console":
        return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    return structlog.processors.JSONRenderer(serializer=_to_json)


def _to_json(event: object, **_: object) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class Metrics:
    """The figures of one process, in a registry of its own (tests run several services in one process).

    A service adds its own collectors to `registry`. Labels have few values: names of commands, events and loops, never ids.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._commands = Counter(
            "skydriver_commands", "Commands handled, by outcome.", ["command", "outcome"], registry=self.registry
        )
        self._command_seconds = Histogram(
            "skydriver_command_seconds",
            "Time from receiving a command to its outcome.",
            ["command"],
            buckets=_SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._events = Counter("skydriver_events_appended", "Events appended to the log.", ["type"], registry=self.registry)
        self._loop_failures = Counter("skydriver_loop_failures", "Failed steps of loops.", ["loop"], registry=self.registry)
        self._clock = Gauge(
            "skydriver_clock_difference_seconds",
            "How far the database's clock is ahead of this machine's.",
            registry=self.registry,
        )
        self._relay_lag = Gauge(
            "skydriver_relay_lag_seconds",
            "Age of the oldest committed event that is not yet published.",
            registry=self.registry,
        )

    def clock_compared(self, ahead_s: float) -> None:
        """The database's clock is so many seconds ahead of this machine's."""
        self._clock.set(ahead_s)

    def command_handled(self, command: str, outcome: str, seconds: float) -> None:
        """Count a command and its duration. outcome: as in docs/developers/settlement.md."""
        self._commands.labels(command, outcome).inc()
        self._command_seconds.labels(command).observe(seconds)

    def events_appended(self, event_type: str, count: int = 1) -> None:
        """Count events that were committed to the log."""
        self._events.labels(event_type).inc(count)

    def loop_failed(self, loop: str) -> None:
        """Count a failed step; fits `run_loop(on_failure=…)`."""
        self._loop_failures.labels(loop).inc()

    def relay_lag(self, seconds: float) -> None:
        """Set the age of the oldest unpublished event; 0 when all are published, NaN while the relay of another replica is active."""
        self._relay_lag.set(seconds)

    def render(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self.registry)
