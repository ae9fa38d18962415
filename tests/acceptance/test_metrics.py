"""The metrics of a running system: what they say after scans, and that no scan has a series of its own."""

import re
import subprocess
import sys

from prometheus_client.parser import text_string_to_metric_families

from skydriver_common.runtime.metrics import METRICS
from tests.acceptance.conftest import Running
from tests.acceptance.rest import request_scan
from tests.support.waiting import wait_until

N_SCANS = 40
LIKE_AN_ID = re.compile(r"[0-9a-f]{8,}")

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _skydriver(system: Running, *words: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "skydriver_cli.app", "metrics", *words, "--data-dir", str(system.data_dir)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def _samples(system: Running) -> Samples:
    """The samples of all services; of a series that several show, the largest."""
    found: Samples = {}
    for text in re.split(r"^# [a-z_]+$", _skydriver(system, "--raw"), flags=re.MULTILINE):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                found[key] = max(found.get(key, sample.value), sample.value)
    return found


def _value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


def test_metrics_tell_of_scans_and_name_none(quiet_system: Running) -> None:
    ids = [request_scan(quiet_system, priority=-100)["scan_id"] for _ in range(N_SCANS)]
    ids.append(request_scan(quiet_system, priority=100)["scan_id"])
    wait_until(lambda: quiet_system.get(f"/scan/{ids[-1]}/status")["scan_complete"], 120, "the urgent scan is complete")
    for scan_id in ids[:-1]:
        assert quiet_system.call("DELETE", f"/scan/{scan_id}").status_code == 200
    wait_until(
        lambda: _value(_samples(quiet_system), "skydriver_database_writable") == 1
        and _value(_samples(quiet_system), "skydriver_queue_consumers", queue="skydriver.scan.request") >= 1,
        90, "the figures of the whole were read",
    )  # fmt: skip
    samples = _samples(quiet_system)
    assert _value(samples, "skydriver_http_requests_total", route="/scan", method="POST", code="200") > N_SCANS
    assert _value(samples, "skydriver_scans_finished_total", outcome="final") >= 1
    assert _value(samples, "skydriver_scans_finished_total", outcome="deleted") >= N_SCANS - 1
    assert _value(samples, "skydriver_scan_launch_delay_seconds_count", urgency="urgent") >= 1
    assert _value(samples, "skydriver_leader", role="relay") == 1
    assert _value(samples, "skydriver_bus_connected", connection="publish") == 1
    assert _value(samples, "skydriver_bus_connected", connection="consume") == 1
    assert _value(samples, "skydriver_ready", check="started") == 1
    assert _value(samples, "skydriver_scanner_messages_total", kind="result", outcome="done") >= 1
    assert _value(samples, "skydriver_database_connections", state="max") > _value(
        samples, "skydriver_database_connections", state="used"
    )
    assert any(name == "skydriver_ewms_requests_total" for name, _ in samples)
    named = {name for name, _ in samples if name.startswith("skydriver_")}
    declared = re.compile("|".join(re.escape(name) for name in METRICS))
    assert [name for name in named if not declared.match(name)] == []
    values = {value for _, labels in samples for _, value in labels}
    assert [value for value in values if LIKE_AN_ID.search(value) or value in ids] == []


def test_the_command_prints_a_table_and_json(quiet_system: Running) -> None:
    assert "skydriver_build_info" in _skydriver(quiet_system, "build")
    assert '"metric": "skydriver_build_info"' in _skydriver(quiet_system, "build_info", "--json")
