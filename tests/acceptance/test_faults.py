"""Faults made on a running system: each shows its cause by name in status, readiness and metrics, and clears by itself."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from skydriver_common import process_identity
from tests.acceptance.conftest import Running, start, stop
from tests.acceptance.rest import request_scan
from tests.acceptance.test_broker_permissions import _control
from tests.support.waiting import wait_until

LIMIT_S = 150
"""Only ends a test: causes are to be seen within a minute on a machine that has nothing else to do."""

Fault = Callable[[Running], AbstractContextManager[None]]


@dataclass(frozen=True)
class Case:
    """A fault, and where it must be seen.

    problem: in the status of a scan that waits. metric: name, labels and value. not_ready: service to the check that fails.
    silent: the service that `skydriver status` must say does not respond.
    """

    make: Fault
    problem: str | None = None
    metric: tuple[str, dict[str, str], float] | None = None
    not_ready: dict[str, str] = field(default_factory=dict)
    silent: str | None = None


def _run(system: Running, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "skydriver_cli.app", *words, "--data-dir", str(system.data_dir)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@contextmanager
def _nothing_is_launched(system: Running) -> Iterator[None]:
    assert _run(system, "throttle", "set", "--max-running", "0").returncode == 0
    try:
        yield
    finally:
        assert _run(system, "throttle", "reset").returncode == 0


def _frozen(name: str) -> Fault:
    @contextmanager
    def freeze(system: Running) -> Iterator[None]:
        who = process_identity.read(system.data_dir / "run" / f"{name}.pid.json")
        assert who is not None
        os.kill(who.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(who.pid, signal.SIGCONT)

    return freeze


@contextmanager
def _broker_in_alarm(system: Running) -> Iterator[None]:
    ports = json.loads((system.data_dir / "ports.json").read_text())
    home = system.data_dir / "rabbitmq"
    environment = {**os.environ, "HOME": str(home), "ERL_EPMD_PORT": str(ports["epmd"])}

    def limit(kind: str, value: str) -> None:
        command = _control(home, ports, "set_vm_memory_high_watermark", kind, value)
        done = subprocess.run(command, capture_output=True, timeout=120, env=environment, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    limit("absolute", "1")
    try:
        yield
    finally:
        limit("absolute", "2000MB")


@contextmanager
def _read_only_database(system: Running) -> Iterator[None]:
    with psycopg.connect(system.connection["database_url"], autocommit=True) as owner:
        owner.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        owner.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            owner.execute("ALTER SYSTEM RESET default_transaction_read_only")
            owner.execute("SELECT pg_reload_conf()")


CASES = {
    "throttle closed": Case(
        _nothing_is_launched, problem="launches-held", metric=("skydriver_launches_held", {"reason": "closed"}, 1.0)
    ),
    "bridge stands still": Case(_frozen("ewms_bridge"), problem="ewms-bridge-away", silent="ewms_bridge"),
    "dispatcher stands still": Case(_frozen("dispatcher"), silent="dispatcher"),
    "progress stands still": Case(_frozen("progress"), silent="progress"),
    "broker takes no messages": Case(
        _broker_in_alarm, metric=("skydriver_bus_writable", {}, 0.0),
        not_ready={"api": "bus-blocked", "dispatcher": "bus-blocked"},
    ),
    "database is read-only": Case(
        _read_only_database, metric=("skydriver_database_writable", {}, 0.0), not_ready={"dispatcher": "database-writes"}
    ),
}  # fmt: skip


QUICK = ("throttle closed", "bridge stands still")
"""Those that every run makes; `make test-faults` makes all."""
CHOSEN = list(CASES) if os.environ.get("SKYDRIVER_TEST_FAULTS") else [name for name in CASES if name in QUICK]


@pytest.fixture(scope="module")
def faulty_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    """A system that is ill-treated, and a scan in it that waits for its turn."""
    running = start(tmp_path_factory.mktemp("faulty"), SKYDRIVER_LAUNCH_INTERVAL_S="86400")
    request_scan(running, priority=0, nsides={"64": 0}, max_pixel_reco_time=60)  # takes the interval's place
    wait_until(lambda: running.get("/scans/backlog")["entries"] == [], 60, "the first scan is launched")
    yield running, request_scan(running, priority=0)["scan_id"]
    stop(running)


def _problems(system: Running, scan_id: str) -> list[str]:
    try:
        return [problem["code"] for problem in system.get(f"/scan/{scan_id}/status")["problems"]]
    except (requests.RequestException, AssertionError):
        return []


def _parts(system: Running) -> dict[str, Any]:
    told = _run(system, "status", "--json")
    return {part["name"]: part for part in json.loads(told.stdout)["parts"]} if told.returncode == 0 else {}


def _metrics(system: Running) -> dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]:
    found: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}
    for text in re.split(r"^# [a-z_]+$", _run(system, "metrics", "--raw").stdout, flags=re.MULTILINE):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault((sample.name, tuple(sorted(sample.labels.items()))), []).append(sample.value)
    return found


@dataclass
class _Look:
    """What is to be seen of a fault, at one moment."""

    system: Running
    scan_id: str
    case: Case

    def seen(self) -> list[bool]:
        case, parts, found = self.case, _parts(self.system), []
        if case.problem is not None:
            found.append(_problems(self.system, self.scan_id)[:1] == [case.problem])
        found += [check in parts.get(name, {}).get("not_ready", ()) for name, check in case.not_ready.items()]
        if case.silent is not None:
            found.append(parts.get(case.silent, {}).get("state") == "does not respond")
        if case.metric is not None:
            name, labels, value = case.metric
            found.append(value in _metrics(self.system).get((name, tuple(sorted(labels.items()))), ()))
        return found


@pytest.mark.parametrize("name", CHOSEN)
def test_a_fault_is_seen_by_name_and_clears_by_itself(faulty_system: tuple[Running, str], name: str) -> None:
    system, scan_id = faulty_system
    look = _Look(system, scan_id, CASES[name])
    wait_until(lambda: _parts(system) != {} and not any(look.seen()), LIMIT_S, f"before: nothing of {name}")
    with look.case.make(system):
        wait_until(lambda: all(look.seen()), LIMIT_S, f"{name} is seen everywhere")
    wait_until(lambda: not any(look.seen()), LIMIT_S, f"{name} has cleared")
    wait_until(lambda: all(part["state"] == "is ready" for part in _parts(system).values()), LIMIT_S, "all is well again")
