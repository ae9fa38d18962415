"""What the launcher says is read, or each problem named."""

from pathlib import Path

import pytest

from skydriver_scanner import SessionSettings, SettingsError

GOOD = {
    "SKYSCAN_SKYDRIVER_SCAN_ID": "abc1",
    "SKYSCAN_SKYDRIVER_ADDRESS": "https://skydriver.example",
    "SKYSCAN_SKYDRIVER_AUTH": "t.o/k",
}


def test_three_variables_are_enough() -> None:
    settings = SessionSettings.from_env(GOOD)
    assert (settings.scan_id, settings.address, settings.token) == ("abc1", "https://skydriver.example", "t.o/k")
    assert settings.login_url is None
    assert settings.folder.name == "abc1"


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("amqps://bus.example", "amqps://scan-abc1:t.o%2Fk@bus.example?heartbeat=20"),
        ("amqp://bus:5673/a%2Fb?heartbeat=9", "amqp://scan-abc1:t.o%2Fk@bus:5673/a%2Fb?heartbeat=9"),
        ("amqps://me:secret@bus/v?cafile=/x", "amqps://me:secret@bus/v?cafile=/x&heartbeat=20"),
    ],
)
def test_the_token_is_the_login_where_the_address_names_none(url: str, login: str) -> None:
    settings = SessionSettings.from_env({**GOOD, "SKYSCAN_SKYDRIVER_BUS_URL": url, "SKYSCAN_SKYDRIVER_SPOOL_DIR": "/x"})
    assert settings.login_url == login
    assert settings.folder == Path("/x/abc1")


def test_each_problem_is_named_and_no_value() -> None:
    wrong = {
        "SKYSCAN_SKYDRIVER_SCAN_ID": "../etc",
        "SKYSCAN_SKYDRIVER_ADDRESS": "skydriver.example",
        "SKYSCAN_SKYDRIVER_BUS_URL": "redis://s3cr3t@bus",
        "SKYSCAN_SKYDRIVER_SPOOL_MAX_BYTES": "much",
        "SKYSCAN_KILL_SWITCH_CHECK_INTERVAL": "-1",
    }
    with pytest.raises(SettingsError) as caught:
        SessionSettings.from_env(wrong)
    for name in (*wrong, "SKYSCAN_SKYDRIVER_AUTH"):
        assert name in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_no_secret_is_in_the_repr() -> None:
    settings = SessionSettings.from_env({**GOOD, "SKYSCAN_SKYDRIVER_BUS_URL": "amqp://me:s3cr3t@bus"})
    assert "s3cr3t" not in repr(settings)
    assert "t.o/k" not in repr(settings)
