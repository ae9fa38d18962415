"""A dispatcher that can't work as configured says why, one line per problem, and does not start."""

import os
from pathlib import Path

import pytest

from skydriver_common.model.scanner_variables import refusal
from skydriver_common.runtime.settings import BadSettings
from skydriver_dispatcher.settings import DispatcherSettings
from skydriver_ewms_bridge.settings import BridgeSettings

COMMON = {
    "DATABASE_URL": "postgresql://u:p@localhost/x", "AMQP_URL": "amqp://u:p@localhost/", "PUBLIC_URL": "https://skydriver",
    "SCAN_TOKEN_KEY_FILE": "/key.pem",
}  # fmt: skip
KUBERNETES = COMMON | {
    "LAUNCHER": "kubernetes", "INSTANCE": "skydriver-prod", "KUBERNETES_NAMESPACE": "scans", "UPLOAD_IMAGE": "reg.example/skydriver:2",
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SKYDRIVER_")]:
        monkeypatch.delenv(name)


def read(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> DispatcherSettings:
    for name, value in values.items():
        monkeypatch.setenv(f"SKYDRIVER_{name}", value)
    return DispatcherSettings.read()


def problems(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> set[str]:
    with pytest.raises(BadSettings) as bad:
        read(monkeypatch, values)
    return {problem.partition(":")[0].removeprefix("SKYDRIVER_") for problem in bad.value.problems}


def test_what_each_launcher_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, COMMON) == {"WORK_DIR"}
    assert problems(monkeypatch, {"LAUNCHER": "kubernetes"}) == {"INSTANCE", "KUBERNETES_NAMESPACE", "UPLOAD_IMAGE"}
    settings = read(monkeypatch, KUBERNETES)
    assert settings.work_dir is None
    monkeypatch.setenv("SKYDRIVER_LAUNCHER", "local")
    monkeypatch.setenv("SKYDRIVER_WORK_DIR", "/work")
    assert DispatcherSettings.read().work_dir == Path("/work")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LAUNCHER", "docker"), ("INSTANCE", "two words"), ("INSTANCE", "-x"), ("INSTANCE", "x" * 64), ("PUBLIC_URL", "skydriver"),
        ("KUBERNETES_NAMESPACE", "Scans"), ("UPLOAD_IMAGE", "an image"), ("SCANNER_IMAGE", "$(x)"), ("SCANNER_USER_ID", "0"),
        ("SCANNER_MAX_RUNTIME_S", "0"), ("SCANNER_MAX_RUNTIME_S", "2592001"), ("SCANNER_JOB_TTL_S", "0"), ("MAX_RUNNING_SCANS", "-1"),
        ("MAX_CONCURRENT_LAUNCHES", "0"), ("KUBERNETES_TIMEOUT_S", "0"), ("KUBERNETES_LEASE_S", "0"), ("SCANNER_NODE_SELECTOR", "pool"),
        ("SCANNER_NODE_SELECTOR", '{"a b": "c"}'), ("SCANNER_TOPOLOGY_KEY", "a b"), ("SCANNER_PRIORITY_CLASS", "A B"),
        ("LAUNCH_INTERVAL_S", "-1"), ("SCANNER_BUS_URL", "amqp://user:password@bus/"),
        ("SCANNER_PROGRESS_INTERVAL_S", "1.5"), ("SCANNER_MQ_TIMEOUT_S", "0"), ("SCANNER_LOG", "loud"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert problems(monkeypatch, KUBERNETES | {name: value}) == {name}


def test_seconds_reach_scanners_as_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(
        monkeypatch,
        KUBERNETES | {"SCANNER_MQ_TIMEOUT_S": "3600", "SCANNER_RESULT_INTERVAL_S": "12345678", "SCANNER_LOG": "debug"},
    )
    given = {name: value for name, value in settings.forwarded.items() if value is not None}
    assert given == {"SKYSCAN_MQ_TIMEOUT_FROM_CLIENTS": 3600, "SKYSCAN_RESULT_INTERVAL_SEC": 12_345_678, "SKYSCAN_LOG": "DEBUG"}
    assert all(refusal(name, value) is None for name, value in given.items())


def test_all_problems_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems(
        monkeypatch,
        KUBERNETES
        | {
            "INSTANCE": "a b",
            "SCANNER_USER_ID": "0",
        },
    )
    assert found == {"INSTANCE", "SCANNER_USER_ID"}


def test_what_each_way_of_handing_over_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {
        "EWMS_URL": "x", "EWMS_ISSUER": "x", "EWMS_CLIENT_ID": "x", "EWMS_CLIENT_SECRET": "x", "INSTANCE": "x", "S3_URL": "x",
        "S3_KEY_ID": "x", "S3_SECRET": "x", "S3_BUCKET": "x",
    }  # fmt: skip
    for name, value in (COMMON | needed).items():
        monkeypatch.setenv(f"SKYDRIVER_{name}", value)
    for how, missing in (("files", "WORK_DIR"), ("secrets", "KUBERNETES_NAMESPACE")):
        monkeypatch.setenv("SKYDRIVER_CREDENTIAL_DELIVERY", how)
        with pytest.raises(BadSettings) as bad:
            BridgeSettings.read()
        assert bad.value.problems == (f"SKYDRIVER_{missing}: is not set (SKYDRIVER_CREDENTIAL_DELIVERY is {how})",)


@pytest.mark.parametrize("value", ["inf", "nan", "-1", "1e12"])
def test_an_interval_that_no_moment_can_be_moved_by_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert problems(monkeypatch, KUBERNETES | {"LAUNCH_INTERVAL_S": value}) == {"LAUNCH_INTERVAL_S"}
