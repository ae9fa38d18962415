"""Registry of metrics: what each service's ``/metrics`` can show, and the figures of one process.

To add a metric: a line in ``METRICS``, then `Metrics.counter`, `Metrics.histogram`, `Metrics.gauge` or `Metrics.show` where the figure
arises. Labels have few values: names of commands, events and loops, never ids, since a label set stays for the life of the process.
"""

import math
import time
from collections.abc import Callable, Mapping
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
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each counter and histogram, which nobody asks for

ALL_SERVICES = ("api", "dispatcher", "ewms_bridge", "progress")
_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_DELAY_BUCKETS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
_SCAN_BUCKETS = (60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0, 86_400.0)


class MetricType(StrEnum):
    """The types of Prometheus that we use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. name: of a counter without the suffix ``_total``. services: whose ``/metrics`` shows it.

    is_of_whole: it tells the same on each replica, so it is read by ``max by``. buckets: of a histogram, seconds.
    """

    name: str
    type: MetricType
    meaning: str
    labels: tuple[str, ...] = ()
    services: tuple[str, ...] = ALL_SERVICES
    is_of_whole: bool = False
    buckets: tuple[float, ...] = _SECONDS_BUCKETS


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
    Metric(
        "skydriver_http_requests",
        MetricType.COUNTER,
        "Requests answered. route: its path with the names of its parts; code: 499 when the client had gone.",
        ("route", "method", "code"),
        ("api",),
    ),
    Metric(
        "skydriver_http_request_duration_seconds",
        MetricType.HISTOGRAM,
        "Time from a request's head to the end of its answer; streams of events are left out.",
        ("route", "method"),
        ("api",),
    ),
    Metric(
        "skydriver_http_requests_in_flight",
        MetricType.GAUGE,
        "Requests being processed; stream: open streams of events among them.",
        ("kind",),
        ("api",),
    ),
    Metric(
        "skydriver_command_reply_timeouts",
        MetricType.COUNTER,
        "Commands whose reply did not come in time.",
        ("command",),
        ("api",),
    ),
    Metric(
        "skydriver_relay_unpublished_events",
        MetricType.GAUGE,
        "Committed events that the relay has not published yet, at most 10,000.",
        (),
        ("progress",),
        is_of_whole=True,
    ),
    Metric("skydriver_leader", MetricType.GAUGE, "1 while this process has the role that only one process has.", ("role",)),
    Metric("skydriver_bus_connected", MetricType.GAUGE, "1 while the connection to the broker is open.", ("connection",)),
    Metric(
        "skydriver_bus_blocked",
        MetricType.GAUGE,
        "1 while the broker takes no messages on the connection, for lack of memory or disk.",
        ("connection",),
    ),
    Metric(
        "skydriver_bus_writable",
        MetricType.GAUGE,
        "1 when the broker has confirmed the last message by which that is tried, 0 when it took or confirmed none.",
    ),
    Metric("skydriver_bus_reconnects", MetricType.COUNTER, "Connections to the broker that came back.", ("connection",)),
    Metric(
        "skydriver_bus_publish_duration_seconds",
        MetricType.HISTOGRAM,
        "Time until the broker has confirmed a command, or a batch of events.",
        ("exchange",),
    ),
    Metric(
        "skydriver_queue_messages",
        MetricType.GAUGE,
        "Messages that wait in a queue of the services.",
        ("queue",),
        ("progress",),
        is_of_whole=True,
    ),
    Metric(
        "skydriver_queue_consumers",
        MetricType.GAUGE,
        "Consumers of a queue of the services.",
        ("queue",),
        ("progress",),
        is_of_whole=True,
    ),
    Metric(
        "skydriver_dead_letters",
        MetricType.GAUGE,
        "Dead letters that wait for an operator.",
        (),
        ("progress",),
        is_of_whole=True,
    ),
    Metric(
        "skydriver_messages_dead_lettered",
        MetricType.COUNTER,
        "Messages that became dead letters. queue: where they came from.",
        ("queue", "reason"),
        ("dispatcher", "ewms_bridge", "progress"),
    ),
    Metric(
        "skydriver_scanner_messages",
        MetricType.COUNTER,
        "Messages of scanners on the bus, by outcome.",
        ("kind", "outcome"),
        ("progress",),
    ),
    Metric(
        "skydriver_database_pool_connections",
        MetricType.GAUGE,
        "Connections of a pool: idle, used, and the most it may have.",
        ("pool", "state"),
    ),
    Metric(
        "skydriver_database_pool_wait_seconds", MetricType.HISTOGRAM, "Time until a connection of the pool was free.", ("pool",)
    ),
    Metric(
        "skydriver_database_errors",
        MetricType.COUNTER,
        "Errors of statements. class: the first two characters of the SQLSTATE; 08: no connection.",
        ("class",),
    ),
    Metric(
        "skydriver_database_writable",
        MetricType.GAUGE,
        "1 when the last write that was tried reached the disk, 0 when the database refused it or did not respond.",
    ),
    Metric(
        "skydriver_database_oldest_transaction_seconds",
        MetricType.GAUGE,
        "Age of the oldest open transaction that has written, which holds the relay back. Other users' are seen with pg_read_all_stats.",
        (),
        ("progress",),
        is_of_whole=True,
    ),
    Metric(
        "skydriver_database_connections",
        MetricType.GAUGE,
        "Connections of all clients to the database server: used, and the most it takes.",
        ("state",),
        ("progress",),
        is_of_whole=True,
    ),
    Metric(
        "skydriver_database_table_bytes",
        MetricType.GAUGE,
        "Size of a table with its indexes.",
        ("table",),
        ("progress",),
        is_of_whole=True,
    ),
    Metric(
        "skydriver_scans",
        MetricType.GAUGE,
        "Scans that have not ended.",
        ("state",),
        ("progress",),
        is_of_whole=True,
    ),
    Metric(
        "skydriver_backlog_scans",
        MetricType.GAUGE,
        "Scans that wait to be launched.",
        ("urgency",),
        ("progress",),
        is_of_whole=True,
    ),
    Metric(
        "skydriver_backlog_oldest_age_seconds",
        MetricType.GAUGE,
        "How long the oldest of the waiting scans has waited; 0 when none waits.",
        ("urgency",),
        ("progress",),
        is_of_whole=True,
    ),
    Metric(
        "skydriver_launches_held",
        MetricType.GAUGE,
        "1 while scans that are not urgent are held back: by a cap of 0 (closed), a cap that is reached (cap), a pause after a launch "
        "was refused (pause), or for lack of room in the cluster (no-room).",
        ("reason",),
        ("dispatcher",),
        is_of_whole=True,
    ),
    Metric(
        "skydriver_scan_launch_delay_seconds",
        MetricType.HISTOGRAM,
        "Time from the request to the start of the scanner server.",
        ("urgency",),
        ("dispatcher",),
        buckets=_DELAY_BUCKETS,
    ),
    Metric(
        "skydriver_scans_finished",
        MetricType.COUNTER,
        "Scans that have ended: final (with the final result), deleted, failed, abandoned.",
        ("outcome",),
        ("dispatcher", "progress"),
    ),
    Metric(
        "skydriver_scan_duration_seconds",
        MetricType.HISTOGRAM,
        "Time from a scan's request to its end.",
        ("outcome",),
        ("dispatcher", "progress"),
        buckets=_SCAN_BUCKETS,
    ),
    Metric(
        "skydriver_scan_problems",
        MetricType.GAUGE,
        "Scans that show a problem; those that have ended only for workers-came-back.",
        ("code",),
        ("progress",),
        is_of_whole=True,
    ),
    Metric(
        "skydriver_due_work", MetricType.GAUGE, "Pieces of due work, also of later.", ("kind",), ("progress",), is_of_whole=True
    ),
    Metric(
        "skydriver_due_work_overdue_seconds",
        MetricType.GAUGE,
        "How long the oldest piece has been due that nobody has taken; 0 when there is none.",
        ("kind",),
        ("progress",),
        is_of_whole=True,
    ),
    Metric(
        "skydriver_ewms_requests",
        MetricType.COUNTER,
        "Calls to EWMS. outcome: the status, as in 2xx, not-sent, or no-answer.",
        ("call", "outcome"),
        ("ewms_bridge",),
    ),
    Metric(
        "skydriver_ewms_request_duration_seconds",
        MetricType.HISTOGRAM,
        "Time of a call to EWMS.",
        ("call",),
        ("ewms_bridge",),
    ),
    Metric(
        "skydriver_ewms_breaker_open",
        MetricType.GAUGE,
        "1 while EWMS counts as unavailable, and only one call at a time asks whether it is back.",
        (),
        ("ewms_bridge",),
        is_of_whole=True,
    ),
    Metric(
        "skydriver_ewms_oldest_knowledge_seconds",
        MetricType.GAUGE,
        "How old the oldest worker count is of those that are refreshed.",
        (),
        ("ewms_bridge",),
        is_of_whole=True,
    ),
    Metric(
        "skydriver_kubernetes_requests",
        MetricType.COUNTER,
        "Requests to the Kubernetes API. code: the status, or none.",
        ("verb", "resource", "code"),
        ("dispatcher", "ewms_bridge"),
    ),
    Metric(
        "skydriver_loop_last_success_timestamp_seconds",
        MetricType.GAUGE,
        "When the loop last took a step without an error, Unix seconds.",
        ("loop",),
    ),
    Metric("skydriver_ready", MetricType.GAUGE, "1 while this condition of /readyz holds; asked at each scrape.", ("check",)),
    Metric(
        "skydriver_event_loop_delay_seconds",
        MetricType.HISTOGRAM,
        "How late the event loop called back what was due; it is asked twice a second.",
    ),
    Metric(
        "skydriver_build_info",
        MetricType.GAUGE,
        "Always 1. schema: the newest migration that this release knows.",
        ("version", "schema"),
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _DECLARED}
"""Every metric by its name, beside ``process_*`` and ``python_*`` of the client library."""


class Metrics:
    """The figures of one process, in a registry of its own (tests run several services in one process)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._of_name: dict[str, Counter | Gauge | Histogram] = {}
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._commands = self.counter("skydriver_commands")
        self._durations = [self.histogram(f"skydriver_command_{name}seconds") for name in ("duration_", "")]
        self._events = self.counter("skydriver_events_appended")
        self._loop_failures = self.counter("skydriver_loop_failures")
        self._loop_successes = self.gauge("skydriver_loop_last_success_timestamp_seconds")
        self._clock = self.gauge("skydriver_clock_difference_seconds")
        self._relay_lag = self.gauge("skydriver_relay_lag_seconds")

    def counter(self, name: str) -> Counter:
        """Return the counter of this declared name."""
        metric = METRICS[name]
        made = self._of_name.get(name)
        if made is None:
            made = self._of_name[name] = Counter(metric.name, metric.meaning, metric.labels, registry=self.registry)
        assert isinstance(made, Counter)
        return made

    def histogram(self, name: str) -> Histogram:
        """Return the histogram of this declared name, of seconds."""
        metric = METRICS[name]
        made = self._of_name.get(name)
        if made is None:
            made = self._of_name[name] = Histogram(
                metric.name, metric.meaning, metric.labels, buckets=metric.buckets, registry=self.registry
            )
        assert isinstance(made, Histogram)
        return made

    def gauge(self, name: str) -> Gauge:
        """Return the gauge of this declared name."""
        metric = METRICS[name]
        made = self._of_name.get(name)
        if made is None:
            made = self._of_name[name] = Gauge(metric.name, metric.meaning, metric.labels, registry=self.registry)
        assert isinstance(made, Gauge)
        return made

    def show(self, name: str, figure: Callable[[], float], *labels: str) -> None:
        """Show this figure, read at each scrape, as the gauge of this declared name, with these values of its labels."""
        gauge = self.gauge(name)
        (gauge.labels(*labels) if labels else gauge).set_function(figure)

    def replace(self, name: str, figures: Mapping[tuple[str, ...], float]) -> None:
        """Show these figures, by the values of the labels, and no others as the gauge of this declared name."""
        gauge = self.gauge(name)
        gauge.clear()
        for labels, figure in figures.items():
            gauge.labels(*labels).set(figure)

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

    def scan_ended(self, outcome: str, seconds: float) -> None:
        """Count a scan that has ended. outcome: final, deleted, failed or abandoned. seconds: since its request."""
        self.counter("skydriver_scans_finished").labels(outcome).inc()
        self.histogram("skydriver_scan_duration_seconds").labels(outcome).observe(max(0.0, seconds))

    def message_dead_lettered(self, queue: str, reason: str) -> None:
        """Count a dead letter. reason: its code."""
        self.counter("skydriver_messages_dead_lettered").labels(queue, reason).inc()

    def loop_failed(self, loop: str) -> None:
        """Count a failed step; fits `run_loop(on_failure=…)`."""
        self._loop_failures.labels(loop).inc()

    def loop_succeeded(self, loop: str) -> None:
        """Note that a step has succeeded just now; fits `run_loop(on_success=…)`."""
        self._loop_successes.labels(loop).set(time.time())

    def relay_lag(self, seconds: float) -> None:
        """Set the age of the oldest unpublished event; 0 when all are published, NaN while the relay of another replica is active."""
        self._relay_lag.set(seconds)
        self.gauge("skydriver_leader").labels("relay").set(0 if math.isnan(seconds) else 1)

    def database_error(self, sqlstate: str) -> None:
        """Count an error of the database. sqlstate: five characters, ``08000`` for a connection that could not be had."""
        self.counter("skydriver_database_errors").labels(sqlstate[:2]).inc()

    def kubernetes_request(self, verb: str, resource: str, code: str) -> None:
        """Count a request to the Kubernetes API; fits `open_client(on_request=…)`."""
        self.counter("skydriver_kubernetes_requests").labels(verb, resource, code).inc()

    def ready(self, checks: Mapping[str, bool]) -> None:
        """Set which conditions of readiness hold."""
        self.replace("skydriver_ready", {(name,): float(holds) for name, holds in checks.items()})

    def render(self) -> bytes:
        """Return the text format that Prometheus scrapes."""
        return generate_latest(self.registry)
