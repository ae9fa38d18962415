"""Settings: what a good and a bad environment give, and that no value is ever repeated."""

import importlib
import os
from pathlib import Path
from typing import get_args

import pytest
from pydantic import Field, SecretStr, ValidationError

from skydriver_common.runtime.settings import KNOWN_NAMES, BadSettings, ServiceSettings

DATABASE = "postgresql://skydriver:canary-password@localhost/skydriver"
AMQP = "amqp://skydriver:canary-password@localhost/%2F"


class ExampleSettings(ServiceSettings):
    clusters: dict[str, int | None] = Field(default_factory=dict)
    attempts: int = 3
    s3_secret: SecretStr = SecretStr("")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.upper().startswith("SKYDRIVER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SKYDRIVER_DATABASE_URL", DATABASE)
    monkeypatch.setenv("SKYDRIVER_AMQP_URL", AMQP)
    return monkeypatch


def problems() -> tuple[str, ...]:
    with pytest.raises(BadSettings) as caught:
        ExampleSettings.read()
    return caught.value.problems


def test_the_environment_gives_the_values_and_the_rest_are_defaults(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SKYDRIVER_CLUSTERS", '{"osg": 100, "local": null}')
    environment.setenv("SKYDRIVER_LOG_LEVEL", "WARNING")
    settings = ExampleSettings.load()
    assert settings.database_url.get_secret_value() == DATABASE
    assert settings.clusters == {"osg": 100, "local": None}
    assert (settings.attempts, settings.health_host, settings.health_port) == (3, "127.0.0.1", 0)
    assert (settings.log_level, settings.log_format) == ("warning", "json")


def test_settings_cannot_be_changed_and_do_not_show_their_secrets() -> None:
    settings = ExampleSettings.load()
    with pytest.raises(ValidationError, match="frozen"):
        settings.attempts = 4
    assert "canary" not in repr(settings) + str(settings)


def test_an_empty_variable_counts_as_not_set(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SKYDRIVER_ATTEMPTS", "")
    environment.setenv("SKYDRIVER_AMQP_URL", "")
    assert problems() == ("SKYDRIVER_AMQP_URL: required but not set",)


def test_all_problems_are_reported_together_each_with_its_name_first(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("SKYDRIVER_AMQP_URL")
    environment.setenv("SKYDRIVER_DATABASE_URL", "mysql://root:canary-password@localhost/x")
    environment.setenv("SKYDRIVER_ATTEMPTS", "canary-many")
    environment.setenv("SKYDRIVER_CLUSTERS", '{"osg": "canary"}')
    environment.setenv("SKYDRIVER_HEALTH_PORT", "70000")
    environment.setenv("SKYDRIVER_LOG_FORMAT", "canary")
    found = problems()
    assert [line.partition(":")[0].removeprefix("SKYDRIVER_") for line in found] == [
        "DATABASE_URL",
        "AMQP_URL",
        "HEALTH_PORT",
        "LOG_FORMAT",
        "CLUSTERS",
        "ATTEMPTS",
    ]
    assert found[0] == "SKYDRIVER_DATABASE_URL: must be a URL that begins with postgresql:// or postgres://"
    assert found[4] == ("SKYDRIVER_CLUSTERS: at osg: Input should be a valid integer, unable to parse string as an integer")
    assert "canary" not in "\n".join(found)


@pytest.mark.parametrize("text", ["{canary", "[1, 2]", "canary", '"canary"'])
def test_broken_json_is_one_readable_line(environment: pytest.MonkeyPatch, text: str) -> None:
    environment.setenv("SKYDRIVER_CLUSTERS", text)
    assert problems() == ("SKYDRIVER_CLUSTERS: Input should be a valid dictionary",)


@pytest.mark.parametrize("value", ["localhost", "postgresql", "://", "http://x", "xpostgresql://x"])
def test_a_database_url_of_another_kind_is_refused(environment: pytest.MonkeyPatch, value: str) -> None:
    environment.setenv("SKYDRIVER_DATABASE_URL", value)
    assert len(problems()) == 1


def test_names_of_other_services_clients_and_tests_are_accepted(environment: pytest.MonkeyPatch) -> None:
    for name in (
        "SKYDRIVER_EWMS_URL",
        "SKYDRIVER_TOKEN",
        "SKYDRIVER_DATA_DIR",
        "SKYDRIVER_TEST_ANYTHING",
        "SKYDRIVER_MAX_LAUNCH_ATTEMPTS",
    ):
        environment.setenv(name, "x")
    assert ExampleSettings.load().attempts == 3


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("SKYDRIVER_HTTP_PROT", "SKYDRIVER_HTTP_PORT"),
        ("skydriver_ewms_ulr", "SKYDRIVER_EWMS_URL"),
        ("SKYDRIVER_COFFEE_STRENGTH_PERCENT", None),
        ("SKYDRIVER_", None),
    ],
)
def test_an_unknown_name_is_a_warning_with_the_nearest_known_one(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, suggested: str | None
) -> None:
    environment.setenv(name, "canary")
    ExampleSettings.load()
    hint = f"; did you mean {suggested}?" if suggested else ""
    assert capsys.readouterr().err == f"{name}: unknown setting, ignored{hint}\n"


class RenamedSettings(ServiceSettings):
    max_launch_attempts: int = 5


def test_an_old_name_works_and_is_named_in_a_warning(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("SKYDRIVER_MAX_ATTEMPTS", "7")
    assert RenamedSettings.load().max_launch_attempts == 7
    assert capsys.readouterr().err.startswith("SKYDRIVER_MAX_ATTEMPTS: the old name of SKYDRIVER_MAX_LAUNCH_ATTEMPTS; it works")


def test_an_old_and_a_new_name_may_not_disagree(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SKYDRIVER_MAX_ATTEMPTS", "7")
    environment.setenv("SKYDRIVER_MAX_LAUNCH_ATTEMPTS", "7")
    assert RenamedSettings.read().max_launch_attempts == 7
    environment.setenv("SKYDRIVER_MAX_LAUNCH_ATTEMPTS", "8")
    with pytest.raises(
        BadSettings, match="SKYDRIVER_MAX_ATTEMPTS: the old name of SKYDRIVER_MAX_LAUNCH_ATTEMPTS, which has another"
    ):
        RenamedSettings.read()


def test_names_of_other_services_and_their_old_names_are_no_warning(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("SKYDRIVER_HAND_OVER", "SKYDRIVER_CREDENTIAL_DELIVERY", "SKYDRIVER_EWMS_URL"):
        environment.setenv(name, "x")
    ExampleSettings.load()
    assert capsys.readouterr().err == ""


def test_names_that_kubernetes_adds_for_a_service_are_accepted(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR"):
        environment.setenv(f"SKYDRIVER_API_{name}", "tcp://10.0.0.1:80")
    ExampleSettings.load()
    assert capsys.readouterr().err == ""
    environment.setenv("SKYDRIVER_OTHER_PORT", "80")
    ExampleSettings.load()
    assert capsys.readouterr().err.startswith("SKYDRIVER_OTHER_PORT: unknown setting")


def test_a_bad_start_prints_the_problems_and_exits_with_code_2(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.delenv("SKYDRIVER_AMQP_URL")
    environment.setenv("SKYDRIVER_ATTEMPTS", "canary")
    with pytest.raises(SystemExit) as caught:
        ExampleSettings.load()
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "SKYDRIVER_AMQP_URL: required but not set",
        "SKYDRIVER_ATTEMPTS: Input should be a valid integer, unable to parse string as an integer",
    ]


SERVICES = Path(__file__).parents[3] / "services"


@pytest.mark.parametrize("module", [".".join(path.parts[-2:])[:-3] for path in sorted(SERVICES.glob("*/*/settings.py"))])
def test_the_table_of_known_names_lists_every_field_of_every_service(module: str) -> None:
    """Otherwise the other services would refuse a shared environment that sets it."""
    classes = [
        found
        for found in vars(importlib.import_module(module)).values()
        if isinstance(found, type) and issubclass(found, ServiceSettings)
    ]
    assert any(found is not ServiceSettings for found in classes)
    assert {name for found in classes for name in found.names()} <= KNOWN_NAMES


@pytest.mark.parametrize("module", [".".join(path.parts[-2:])[:-3] for path in sorted(SERVICES.glob("*/*/settings.py"))])
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e300"])
def test_no_number_may_be_infinite_or_absurdly_large(environment: pytest.MonkeyPatch, module: str, value: str) -> None:
    [settings] = [
        found
        for found in vars(importlib.import_module(module)).values()
        if isinstance(found, type) and issubclass(found, ServiceSettings) and found is not ServiceSettings
    ]
    numbers = {
        name for name, field in settings.model_fields.items() if {int, float} & {field.annotation, *get_args(field.annotation)}
    }
    assert numbers
    for name in numbers:
        environment.setenv(f"SKYDRIVER_{name.upper()}", value)
    with pytest.raises(BadSettings) as caught:
        settings.read()
    refused = {problem.partition(":")[0].removeprefix("SKYDRIVER_").lower() for problem in caught.value.problems}
    assert numbers <= refused
