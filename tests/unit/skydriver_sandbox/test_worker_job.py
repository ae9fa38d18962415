"""What a worker is told, and the pilot settings in it."""

import json
from typing import Any

import pytest

from skydriver_sandbox.worker.job import JOB_VARIABLE, BadJobError, PilotSettings, read_job, read_pilot

QUEUE = {"name": "q", "auth_token": "secret", "broker_type": "rabbitmq", "broker_address": "u@h"}
TOLD: dict[str, Any] = {
    "report_url": "http://h/r", "report_token": "t", "parent_pid": 1, "init_args": "curl -o x 'https://s3/b/k?a=1&b=2' -s",
    "queue_in": QUEUE, "queue_out": QUEUE, "task_env": {}, "pilot_env": {}, "faults": {"die": 0.5},
}  # fmt: skip


def _environment(**changes: Any) -> dict[str, str]:
    return {JOB_VARIABLE: json.dumps(TOLD | changes)}


def test_a_job_has_its_download_address_and_faults() -> None:
    job = read_job(_environment())
    assert job.startup_url() == "https://s3/b/k?a=1&b=2"
    assert job.faults.die == 0.5
    assert read_job(_environment(init_args="true")).startup_url() is None


def test_a_workflow_sets_its_own_pace_over_the_installations() -> None:
    environment = _environment(task_env={"SANDBOX_RECO_MEAN_S": "3"}) | {"SANDBOX_RECO_MEAN_S": "1", "SANDBOX_RECO_JITTER": "9"}
    job = read_job(environment)
    assert (job.mean_s, job.jitter) == (3.0, 1.0)


def test_pilot_defaults_are_those_of_the_contract_except_the_prefetch() -> None:
    assert read_pilot({}, default_prefetch=1) == PilotSettings(
        idle_timeout_s=1.0,
        first_message_timeout_s=1.0,
        task_timeout_s=None,
        init_timeout_s=1800.0,
        stop_on_task_error=True,
        quarantine_s=0.0,
        prefetch=1,
    )


def test_pilot_settings_come_as_texts_or_numbers() -> None:
    found = read_pilot(
        {
            "EWMS_PILOT_TIMEOUT_QUEUE_INCOMING": "3600",
            "EWMS_PILOT_TASK_TIMEOUT": 600,
            "EWMS_PILOT_STOP_LISTENING_ON_TASK_ERROR": "False",
            "EWMS_PILOT_PREFETCH": "3",
            "EWMS_PILOT_UNKNOWN": "x",
        }
    )
    assert (found.idle_timeout_s, found.first_message_timeout_s, found.task_timeout_s) == (3600.0, 3600.0, 600.0)
    assert (found.stop_on_task_error, found.prefetch) == (False, 3)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {JOB_VARIABLE: "{"},
        {JOB_VARIABLE: "[]"},
        _environment(queue_in=None),
        _environment(pilot_env={"EWMS_PILOT_TASK_TIMEOUT": "secret"}),
        _environment(faults={"x": 1}),
    ],
    ids=["none", "cut", "list", "queue", "setting", "fault"],
)
def test_an_incomplete_job_is_refused_without_showing_it(environment: dict[str, str]) -> None:
    with pytest.raises(BadJobError) as caught:
        read_job(environment)
    assert "secret" not in str(caught.value)
