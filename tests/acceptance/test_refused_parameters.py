"""What the gateway refuses of a scan's parameters, and what the scanner refuses with its own reason in the scan's status."""

from typing import Any

import pytest

from tests.acceptance.conftest import Running, sample_event, scan_request
from tests.support.waiting import wait_until


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"predictive_scanning_threshold": 0.1}, "predictive_scanning_threshold: must be greater than 0.1 and at most 1.0"),
        ({"reco_algo": "--help"}, "reco_algo: must not start with '-'"),
        (
            {"scanner_server_env": {"BROWSER": "sh -c id"}},
            "scanner_server_env.BROWSER: names a program to run; SKYDRIVER_USER_ENV_ALLOW",
        ),
        ({"scanner_server_env": {"TMPDIR": "/etc"}}, "scanner_server_env.TMPDIR: reserved name; choose another"),
        ({"scanner_server_env": {"SKYSCAN_LOG": "LOUD"}}, "scanner_server_env.SKYSCAN_LOG: must be one of DEBUG, INFO"),
    ],
)
def test_what_would_kill_a_scanner_is_refused_at_once(system: Running, changes: dict[str, Any], reason: str) -> None:
    answer = system.call("POST", "/scan", body=scan_request(sample_event(), **changes))
    assert answer.status_code == 400
    assert reason in answer.text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nsides": {"7": 0}}, "last line of its log: scan refused: nside progression: 7 is not a power of two"),
        ({"reco_algo": "magic"}, "last line of its log: scan refused: unknown reconstruction 'magic'"),
    ],
)
def test_what_the_scanner_refuses_shows_its_own_reason(system: Running, changes: dict[str, Any], reason: str) -> None:
    answer = system.call("POST", "/scan", body=scan_request(sample_event(), **changes))
    assert answer.status_code == 200, answer.text
    scan_id = answer.json()["scan_id"]

    def problems() -> dict[str, str]:
        return {each["code"]: each["text"] for each in system.get(f"/scan/{scan_id}/status")["problems"]}

    wait_until(lambda: "scanner-failed" in problems(), 60, "the scanner refuses its parameters")
    assert reason in problems()["scanner-failed"]
