"""Registry of metrics: what each service's ``/metrics`` can show, and the figures of one process.

To add a metric: a line in ``METRICS``, then `Metrics.counter`, `Metrics.histogram` or `Metrics.show` where the figure arises.
Labels have few values: names of commands, events and loops, never ids.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

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

ALL_SERVICES = ("api", "dispatcher", "ewms_bridge", "progress")
_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class MetricType(StrEnum):
    """The types of Prometheus that we use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. name: of a counter without the suffix ``_total``. services: whose ``/metrics`` shows it."""

    name: str
    type: MetricType
    meaning: str
    labels: tuple[str, ...] = ()
    services: tuple[str, ...] = ALL_SERVICES


_DECLARED = (
    Metric("skydriver_commands", MetricType.COUNTER, "Messages handled, by outcome.", ("command", "outcome")),
    Metric(
        "skydriver_command_duration_seconds",
        MetricType.HISTOGRAM,
        "Time from receiving a message to its outcome.",
        ("command",),
    ),
    Metric(
        "skydriver_command_seconds",
        MetricType.HISTOGRAM,
        "Old name of skydriver_command_duration_seconds, for one more release.",
        ("command",),
    ),
    Metric("skydriver_events_appended", MetricType.COUNTER, "Events appended to the log.", ("type",)),
    Metric("skydriver_loop_failures", MetricType.COUNTER, "Failed steps of loops.", ("loop",)),
    Metric("skydriver_clock_difference_seconds", MetricType.GAUGE, "How far the database's clock is ahead of this machine's."),
    Metric(
        "skydriver_relay_lag_seconds",
        MetricType.GAUGE,
        "Age of the oldest committed event that is not published yet; NaN while the relay of another replica is active.",
    ),
    Metric(
        "skydriver_http_client_faults",
        MetricType.COUNTER,
        "Client errors in HTTP itself, such as closing the connection early.",
        ("kind",),
        ("api",),
    ),
    Metric(
        "skydriver_http_requests_refused",
        MetricType.COUNTER,
        "Requests refused before they were processed.",
        ("reason",),
        ("api",),
    ),
    Metric("skydriver_http_connections", MetricType.GAUGE, "Open connections of clients.", (), ("api",)),
    Metric("skydriver_live_streams", MetricType.GAUGE, "Open live streams of events.", (), ("api",)),
    Metric(
        "skydriver_watch_leads", MetricType.GAUGE, "1 while this process watches the Kubernetes cluster.", (), ("dispatcher",)
    ),
    Metric(
        "skydriver_reconcile_in_doubt",
        MetricType.GAUGE,
        "Scans left alone because too many differ between the database and the Kubernetes cluster.",
        (),
        ("dispatcher",),
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _DECLARED}
"""Every metric by its name, beside ``process_*`` and ``python_*`` of the client library."""


class Metrics:
    """The figures of one process, in a registry of its own (tests run several services in one process)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._commands = self.counter("skydriver_commands")
        self._durations = [self.histogram(f"skydriver_command_{name}seconds") for name in ("duration_", "")]
        self._events = self.counter("skydriver_events_appended")
        self._loop_failures = self.counter("skydriver_loop_failures")
        self._clock = self._gauge("skydriver_clock_difference_seconds")
        self._relay_lag = self._gauge("skydriver_relay_lag_seconds")

    def counter(self, name: str) -> Counter:
        """Return a new counter of this declared name."""
        metric = METRICS[name]
        return Counter(metric.name, metric.meaning, metric.labels, registry=self.registry)

    def histogram(self, name: str) -> Histogram:
        """Return a new histogram of this declared name, of seconds."""
        metric = METRICS[name]
        return Histogram(metric.name, metric.meaning, metric.labels, buckets=_SECONDS_BUCKETS, registry=self.registry)

    def show(self, name: str, figure: Callable[[], float]) -> None:
        """Show this figure, read at each scrape, as the gauge of this declared name."""
        self._gauge(name).set_function(figure)

    def _gauge(self, name: str) -> Gauge:
        metric = METRICS[name]
        return Gauge(metric.name, metric.meaning, metric.labels, registry=self.registry)

    def clock_compared(self, ahead_s: float) -> None:
        """Set how many seconds the database's clock is ahead of this machine's."""
        self._clock.set(ahead_s)

    def command_handled(self, command: str, outcome: str, seconds: float) -> None:
        """Count a message and its duration.

        command: its key, or the queue of a report. outcome: as in docs/developers/settlement.md.
        """
        self._commands.labels(command, outcome).inc()
        for duration in self._durations:
            duration.labels(command).observe(seconds)

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
        """Return the text format that Prometheus scrapes."""
        return generate_latest(self.registry)
