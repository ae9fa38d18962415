"""Metrics: each is declared once with a type and a meaning, and no number of scans makes a series of its own."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from skydriver_common.runtime.metrics import METRICS, Metrics, MetricType

Series = set[tuple[str, tuple[tuple[str, str], ...]]]


def series_of(text: str) -> Series:
    """Every series of an exposition: its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_what_it_is(name: str) -> None:
    metric = METRICS[name]
    assert name.startswith("skydriver_")
    assert not name.endswith("_total"), "the client library adds it"
    assert metric.meaning.endswith(".")
    assert metric.services
    if metric.type is MetricType.HISTOGRAM:
        assert name.endswith("_seconds")
    assert not {"scan_id", "correlation_id", "command_id", "id"} & set(metric.labels)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_can_be_made_and_is_made_once(name: str) -> None:
    metrics = Metrics()
    make = {
        MetricType.COUNTER: metrics.counter, MetricType.GAUGE: metrics.gauge, MetricType.HISTOGRAM: metrics.histogram,
    }[METRICS[name].type]  # fmt: skip
    assert make(name) is make(name)


def test_what_is_replaced_leaves_no_old_labels() -> None:
    metrics = Metrics()
    metrics.replace("skydriver_scans", {("PENDING__PRESTARTUP",): 2})
    metrics.replace("skydriver_scans", {("SCAN_HAS_FINAL_RESULT",): 1})
    assert [dict(labels) for name, labels in series_of(metrics.render().decode()) if name == "skydriver_scans"] == [
        {"state": "SCAN_HAS_FINAL_RESULT"}
    ]


def test_a_thousand_scans_leave_the_number_of_series_unchanged() -> None:
    metrics = Metrics()

    def a_scan() -> None:
        metrics.events_appended("scan.requested")
        metrics.command_handled("scan.request", "done", 0.01)
        metrics.scan_ended("final", 60.0)
        metrics.loop_succeeded("launch-0")
        metrics.database_error("40001")
        metrics.message_dead_lettered("skydriver.scan.request", "malformed")
        metrics.kubernetes_request("POST", "jobs", "201")

    a_scan()
    before = series_of(metrics.render().decode())
    for _ in range(1000):
        a_scan()
    assert series_of(metrics.render().decode()) == before
    assert metrics.registry.get_sample_value("skydriver_scans_finished_total", {"outcome": "final"}) == 1001
