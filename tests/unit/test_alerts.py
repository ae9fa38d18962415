"""The alert rules: they parse, each fires for what it is about and not for less, and leads to its section of the runbook."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from skydriver_common.model.problem_codes import ProblemCode
from skydriver_common.runtime.metrics import METRICS, MetricType
from tests.support.prometheus import needs_prometheus, promtool
from tests.support.reference_pages import ALERTS, ROOT, alert_rules, anchor, problem_sections

RULES = {rule["alert"]: rule for rule in alert_rules()}
PARTS = ("Meaning", "Impact", "Diagnosis", "Mitigation")
OF_OTHERS = ("rabbitmq_alarms_free_disk_space_watermark", "rabbitmq_alarms_memory_used_watermark")
_SUFFIX = {MetricType.COUNTER: ("_total",), MetricType.HISTOGRAM: ("_count", "_sum", "_bucket"), MetricType.GAUGE: ("",)}
NAMES = {name + suffix for name, metric in METRICS.items() for suffix in _SUFFIX[metric.type]}


CASES: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "SkydriverTargetDown": ({'up{job="skydriver-api"}': "0+0x400"}, {'up{job="skydriver-api"}': "1+0x400"}, "20m"),
    "SkydriverNotReady": (
        {
            'skydriver_ready{job="j",instance="a",check="database"}': "0+0x400",
            'skydriver_ready{job="j",instance="a",check="started"}': "1+0x400",
        },
        {
            'skydriver_ready{job="j",instance="a",check="database"}': "0+0x400",
            'skydriver_ready{job="j",instance="b",check="database"}': "1+0x400",
        },
        "20m",
    ),
    "SkydriverApiErrors": (
        {'skydriver_http_requests_total{code="503"}': "0+2x400", 'skydriver_http_requests_total{code="200"}': "0+10x400"},
        {'skydriver_http_requests_total{code="503"}': "0+1x2 2+0x400", 'skydriver_http_requests_total{code="200"}': "0+1x400"},
        "70m",
    ),
    "SkydriverApiErrorsSlow": (
        {'skydriver_http_requests_total{code="503"}': "0+1x400", 'skydriver_http_requests_total{code="200"}': "0+20x400"},
        {'skydriver_http_requests_total{code="503"}': "0+1x400", 'skydriver_http_requests_total{code="200"}': "0+90x400"},
        "380m",
    ),
    "SkydriverRequestsRefused": (
        {'skydriver_http_requests_refused_total{reason="address"}': "0+1x400"},
        {'skydriver_http_requests_refused_total{reason="auth"}': "0+1x400"},
        "20m",
    ),
    "SkydriverLoopFailures": (
        {'skydriver_loop_failures_total{job="j",loop="relay"}': "0+1x400"},
        {'skydriver_loop_failures_total{job="j",loop="relay"}': "0+0x400"},
        "40m",
    ),
    "SkydriverLoopStalled": (
        {'skydriver_loop_last_success_timestamp_seconds{job="j",loop="relay"}': "0+0x400"},
        {'skydriver_loop_last_success_timestamp_seconds{job="j",loop="relay"}': "0+60x400"},
        "40m",
    ),
    "SkydriverClock": (
        {'skydriver_clock_difference_seconds{job="j",instance="i"}': "-3+0x400"},
        {'skydriver_clock_difference_seconds{job="j",instance="i"}': "1+0x400"},
        "20m",
    ),
    "SkydriverUrgentWaiting": (
        {'skydriver_backlog_oldest_age_seconds{urgency="urgent"}': "0+60x400"},
        {'skydriver_backlog_oldest_age_seconds{urgency="normal"}': "0+60x400"},
        "20m",
    ),
    "SkydriverBacklogStuck": (
        {
            'skydriver_backlog_scans{urgency="normal"}': "3+0x400", 'skydriver_launches_held{reason="cap"}': "0+0x400",
            'skydriver_scan_launch_delay_seconds_count{urgency="normal"}': "5+0x400",
        },
        {
            'skydriver_backlog_scans{urgency="normal"}': "3+0x400", 'skydriver_launches_held{reason="cap"}': "1+0x400",
            'skydriver_scan_launch_delay_seconds_count{urgency="normal"}': "5+0x400",
        },
        "90m",
    ),
    "SkydriverLaunchesHeld": (
        {'skydriver_launches_held{reason="closed"}': "1+0x400", 'skydriver_backlog_scans{urgency="normal"}': "3+0x400"},
        {'skydriver_launches_held{reason="closed"}': "1+0x400", 'skydriver_backlog_scans{urgency="normal"}': "0+0x400"},
        "60m",
    ),
    "SkydriverEwmsAway": ({"skydriver_ewms_breaker_open": "1+0x400"}, {"skydriver_ewms_breaker_open": "0+0x400"}, "30m"),
    "SkydriverEwmsAwayUrgent": (
        {"skydriver_ewms_breaker_open": "1+0x400", 'skydriver_backlog_scans{urgency="urgent"}': "1+0x400"},
        {"skydriver_ewms_breaker_open": "1+0x400", 'skydriver_backlog_scans{urgency="urgent"}': "0+0x400"},
        "30m",
    ),
    "SkydriverWorkersCameBack": (
        {'skydriver_scan_problems{code="workers-came-back"}': "1+0x400"},
        {'skydriver_scan_problems{code="ewms-away"}': "1+0x400"},
        "30m",
    ),
    "SkydriverProblemEverywhere": (
        {'skydriver_scan_problems{code="scanner-silent"}': "6+0x400", 'skydriver_scans{state="a"}': "10+0x400"},
        {'skydriver_scan_problems{code="scanner-silent"}': "4+0x400", 'skydriver_scans{state="a"}': "10+0x400"},
        "30m",
    ),
    "SkydriverReconcileInDoubt": (
        {"skydriver_reconcile_in_doubt": "4+0x400"}, {"skydriver_reconcile_in_doubt": "0+0x400"}, "20m",
    ),
    "SkydriverNobodyWatches": (
        {'skydriver_leader{role="watch",instance="a"}': "0+0x400"},
        {'skydriver_leader{role="watch",instance="a"}': "0+0x400", 'skydriver_leader{role="watch",instance="b"}': "1+0x400"},
        "20m",
    ),
    "SkydriverRelayLag": (
        {"skydriver_relay_lag_seconds": "0+60x400"},
        {'skydriver_relay_lag_seconds{instance="a"}': "NaN+0x400", 'skydriver_relay_lag_seconds{instance="b"}': "0+0x400"},
        "20m",
    ),
    "SkydriverOldTransaction": (
        {"skydriver_database_oldest_transaction_seconds": "0+60x400"},
        {"skydriver_database_oldest_transaction_seconds": "10+0x400"},
        "30m",
    ),
    "SkydriverDatabaseReadOnly": (
        {"skydriver_database_writable": "0+0x400"}, {"skydriver_database_writable": "1+0x400"}, "20m",
    ),
    "SkydriverDatabaseFull": (
        {'skydriver_database_errors_total{class="53"}': "0+1x400"}, {'skydriver_database_errors_total{class="40"}': "0+1x400"}, "20m",
    ),
    "SkydriverConnectionBudget": (
        {'skydriver_database_connections{state="used"}': "90+0x400", 'skydriver_database_connections{state="max"}': "100+0x400"},
        {'skydriver_database_connections{state="used"}': "60+0x400", 'skydriver_database_connections{state="max"}': "100+0x400"},
        "20m",
    ),
    "SkydriverBrokerBlocked": (
        {'skydriver_bus_blocked{connection="publish"}': "1+0x400"}, {'skydriver_bus_blocked{connection="publish"}': "0+0x400"}, "20m",
    ),
    "RabbitmqAlarm": (
        {"rabbitmq_alarms_memory_used_watermark": "1+0x400"}, {"rabbitmq_alarms_memory_used_watermark": "0+0x400"}, "20m",
    ),
    "SkydriverDeadLetters": ({"skydriver_dead_letters": "1+0x400"}, {"skydriver_dead_letters": "0+0x400"}, "20m"),
    "SkydriverQueueGrowing": (
        {'skydriver_queue_messages{queue="q"}': "0+30x400"}, {'skydriver_queue_messages{queue="q"}': "300+0x400"}, "60m",
    ),
    "SkydriverQueueNoConsumer": (
        {'skydriver_queue_messages{queue="q"}': "1+0x400", 'skydriver_queue_consumers{queue="q"}': "0+0x400"},
        {'skydriver_queue_messages{queue="q"}': "1+0x400", 'skydriver_queue_consumers{queue="q"}': "1+0x400"},
        "20m",
    ),
}  # fmt: skip
"""Alert to series for which it fires, series for which it doesn't, and when (a sample a minute)."""


def _sections(page: str) -> dict[str, str]:
    """Anchor to the text below a heading of the second level."""
    parts = re.split(r"^## (.*)$", (ROOT / page).read_text(), flags=re.MULTILINE)[1:]
    return {anchor(heading): text for heading, text in zip(parts[::2], parts[1::2], strict=True)}


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_leads_to_its_section(alert: str) -> None:
    rule = RULES[alert]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    page, _, section = rule["annotations"]["runbook_url"].partition("#")
    assert section in _sections(page)


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_names_metrics_that_there_are(alert: str) -> None:
    used = set(re.findall(r"\b(?:skydriver|rabbitmq)_[a-z_]+", RULES[alert]["expr"]))
    assert used <= NAMES | set(OF_OTHERS)


@pytest.mark.parametrize("page", ["docs/operators/runbook-alerts.md", "docs/operators/runbook-problems.md"])
def test_every_section_of_the_runbook_has_its_four_parts(page: str) -> None:
    for section, text in _sections(page).items():
        assert [part for part in PARTS if f"**{part}.**" not in text] == [], section


def test_no_section_of_the_alerts_is_left_over() -> None:
    used = {rule["annotations"]["runbook_url"].partition("#")[2] for rule in RULES.values()}
    assert set(_sections("docs/operators/runbook-alerts.md")) == used


def test_every_problem_code_has_a_section() -> None:
    assert set(problem_sections()) == {str(code) for code in ProblemCode}


@needs_prometheus
def test_promtool_accepts_the_rules() -> None:
    checked = promtool("check", "rules", str(ROOT / ALERTS), folder=ROOT)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_prometheus
def test_each_alert_fires_for_what_it_is_about_and_not_for_less(tmp_path: Path) -> None:
    """All at once, each on series of its own: one run of promtool."""
    assert set(CASES) == set(RULES)
    tests = [
        case
        for alert, (fires, stays_quiet, when) in CASES.items()
        for case in (_case(alert, fires, when, fires=True), _case(alert, stays_quiet, when, fires=False))
    ]
    file = tmp_path / "tests.json"  # JSON is YAML
    file.write_text(json.dumps({"rule_files": [str(ROOT / ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    ran = promtool("test", "rules", str(file), folder=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def _case(alert: str, series: dict[str, str], when: str, *, fires: bool) -> dict[str, Any]:
    """Whether it fires is asked of the series that Prometheus makes of alerts: labels and texts don't matter here."""
    return {
        "name": f"{alert} {'fires' if fires else 'does not fire'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                "eval_time": when,
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
        ],
    }
