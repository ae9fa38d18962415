"""``skydriver up`` and the settings of services: each reaches who reads it, or is an error or a warning that names it."""

import os
from pathlib import Path
from typing import Any

import pytest

from skydriver_cli.embedded.environments import ServerAddresses, describe_system
from skydriver_cli.embedded.options import Options
from skydriver_cli.embedded.supervision import System
from skydriver_cli.embedded.system import load_signer
from skydriver_cli.embedded.up_settings import _SET_BY_UP, given_settings, without_credentials
from skydriver_cli.errors import CliError
from skydriver_cli.services import SERVICES, setting_names
from skydriver_common.runtime.settings import CLIENT_NAMES, KNOWN_NAMES

EWMS = {
    "SKYDRIVER_EWMS_URL": "https://user:canary@ewms.example.org/v1?x=canary", "SKYDRIVER_EWMS_ISSUER": "https://keycloak.example.org/realms/x",
    "SKYDRIVER_EWMS_CLIENT_ID": "us", "SKYDRIVER_EWMS_CLIENT_SECRET": "canary", "SKYDRIVER_S3_URL": "https://s3.example.org",
    "SKYDRIVER_S3_KEY_ID": "key", "SKYDRIVER_S3_SECRET": "canary",
}  # fmt: skip
PORTS = dict.fromkeys(("http", "ewms", "postgres", *(f"health_{name}" for name in SERVICES)), 1234)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.upper().startswith("SKYDRIVER_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def described(folder: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, **options: Any) -> System:
    """The processes that `up` would start with these variables in its environment."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    chosen = Options(data_dir=folder, **options)
    given = given_settings(os.environ, has_sandbox=chosen.sandbox)
    servers = ServerAddresses(
        given.get("DATABASE_URL") or "postgresql://owner:canary@127.0.0.1:1/skydriver",
        {} if given.get("DATABASE_URL") else dict.fromkeys(SERVICES, "postgresql://one:canary@127.0.0.1:1/skydriver"),
        given.get("AMQP_URL") or "amqp://owner:canary@127.0.0.1:2/", "amqp://127.0.0.1:2/", [],
    )  # fmt: skip
    return describe_system(chosen, PORTS, servers, load_signer(folder), given, print)


def environment_of(system: System, service: str) -> dict[str, str]:
    return next(part.environment for part in system.components if part.name == service)


def test_a_real_ewms_gets_what_the_user_set_and_the_bridges_own_pace(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    more = {
        "SKYDRIVER_EWMS_UNKNOWN_OUTCOME_WAIT_S": "900",
        "SKYDRIVER_WORKER_IMAGE_CATALOG": "/images",
        "SKYDRIVER_INSTANCE": "mine",
    }
    system = described(tmp_path, EWMS | more, environment, sandbox=False)
    bridge = environment_of(system, "ewms_bridge")
    assert {name: bridge[name] for name in EWMS | more} == EWMS | more
    assert not {"SKYDRIVER_WORKFORCE_INTERVAL_S", "SKYDRIVER_QUEUE_ACTIVATION_POLL_S"} & bridge.keys()
    assert [part.name for part in system.components] == list(SERVICES)
    assert "SKYDRIVER_EWMS_CLIENT_SECRET" not in environment_of(system, "api")


def test_installations_without_a_name_differ(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    systems = [described(tmp_path / name, EWMS, environment, sandbox=False) for name in ("a", "b", "a")]
    first, other, again = (environment_of(system, "ewms_bridge")["SKYDRIVER_INSTANCE"] for system in systems)
    assert first == again != other


def test_partners_are_shown_without_secrets(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    more = {"SKYDRIVER_DATABASE_URL": "postgresql://u:canary@one:5432,two:5432/sky?sslpassword=canary"}
    addresses = described(tmp_path, EWMS | more, environment, sandbox=False).addresses
    assert addresses["EWMS"] == "https://ewms.example.org/v1 (SKYDRIVER_EWMS_URL)"
    assert addresses["database"] == "postgresql://one:5432,two:5432/sky (SKYDRIVER_DATABASE_URL)"
    assert addresses["broker"] == "amqp://127.0.0.1:2 (embedded)"
    assert addresses["object store"] == "https://s3.example.org (SKYDRIVER_S3_URL)"
    assert "canary" not in repr(addresses)


def test_with_the_stand_in_nothing_has_to_be_set(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    system = described(tmp_path, {"SKYDRIVER_EWMS_UNKNOWN_OUTCOME_WAIT_S": "7"}, environment)
    assert system.addresses["EWMS"] == "http://127.0.0.1:1234 (stand-in)"
    bridge = environment_of(system, "ewms_bridge")
    assert (bridge["SKYDRIVER_EWMS_UNKNOWN_OUTCOME_WAIT_S"], bridge["SKYDRIVER_INSTANCE"]) == ("7", "local")
    sandbox = environment_of(system, "sandbox")
    assert bridge["SKYDRIVER_EWMS_CLIENT_SECRET"] == sandbox["SANDBOX_CLIENT_SECRET"]
    assert not any(name.startswith("SKYDRIVER_") for name in sandbox)


@pytest.mark.parametrize("name", sorted(KNOWN_NAMES - CLIENT_NAMES))
def test_every_setting_reaches_all_who_read_it_or_is_refused_by_name(
    tmp_path: Path, environment: pytest.MonkeyPatch, name: str
) -> None:
    value = "postgresql://x" if name == "SKYDRIVER_DATABASE_URL" else "amqp://x" if name == "SKYDRIVER_AMQP_URL" else "12"
    environ = EWMS | {name: value}
    if name.removeprefix("SKYDRIVER_") in _SET_BY_UP:
        with pytest.raises(CliError, match=rf"^{name}: can't be set for `up`: "):
            given_settings(environ, has_sandbox=False)
        return
    system = described(tmp_path, environ, environment, sandbox=False)
    readers = [service for service, names in setting_names().items() if name in names]
    assert readers
    assert {environment_of(system, service)[name] for service in readers} == {value}


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(CliError) as refused:
        given_settings(
            {"SKYDRIVER_EWMS_URL": "https://e", "SKYDRIVER_HTTP_PORT": "1", "SKYDRIVER_S3_URL": "x"}, has_sandbox=False
        )
    assert [text.partition(":")[0].removeprefix("SKYDRIVER_") for text in refused.value.what.split("; ")][:1] == ["HTTP_PORT"]
    for name in ("EWMS_ISSUER", "EWMS_CLIENT_ID", "EWMS_CLIENT_SECRET", "S3_KEY_ID", "S3_SECRET"):
        assert f"SKYDRIVER_{name}: required with SKYDRIVER_EWMS_URL, but not set" in refused.value.what
    assert "SKYDRIVER_S3_URL" not in refused.value.what


@pytest.mark.parametrize("has_sandbox", [True, False])
def test_credentials_without_an_ewms_are_no_use(has_sandbox: bool) -> None:
    with pytest.raises(CliError, match="SKYDRIVER_EWMS_CLIENT_ID: "):
        given_settings({"SKYDRIVER_EWMS_CLIENT_ID": "us"}, has_sandbox=has_sandbox)


def test_a_name_that_nobody_knows_is_a_warning_with_the_nearest_one() -> None:
    environ = {"SKYDRIVER_EWMS_ULR": "x", "SKYDRIVER_TEST_X": "y", "SKYDRIVER_URL": "z", "SKYDRIVER_API_SERVICE_HOST": "h"}
    given = given_settings(environ, has_sandbox=True)
    assert given.warnings == ("SKYDRIVER_EWMS_ULR: unknown setting, ignored; did you mean SKYDRIVER_EWMS_URL?",)
    assert not any(given.by_service.values())


def test_an_empty_variable_counts_as_not_set_and_our_own_values_may_be_repeated() -> None:
    given = given_settings(
        {"SKYDRIVER_HTTP_PORT": "", "SKYDRIVER_LAUNCHER": "local", "skydriver_log_level": "debug"}, has_sandbox=True
    )
    assert given.get("LOG_LEVEL") == "debug"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://u:p%40@h:5672/%2F", "amqp://h:5672/%2F"),
        ("http://h/", "http://h"),
        ("http://h?token=x", "http://h"),
        ("x", "x"),
    ],
)
def test_credentials_are_not_shown(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
