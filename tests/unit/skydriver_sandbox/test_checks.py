"""Bodies EWMS refuses, by field; what passes although it looks odd; faults."""

import copy
from typing import Any

import pytest

from skydriver_sandbox.ewms import checks
from skydriver_sandbox.ewms.errors import RestError
from skydriver_sandbox.ewms.faults import Faults
from tests.support.sandbox_parts import workflow_request

START = "http://127.0.0.1:1/startup.json"


def _task(**changes: Any) -> dict[str, Any]:
    body = workflow_request(START)
    body["tasks"][0] |= changes
    return body


def _worker(**changes: Any) -> dict[str, Any]:
    body = workflow_request(START)
    body["tasks"][0]["worker_config"] |= changes
    return body


def _pilot(**changes: Any) -> dict[str, Any]:
    body = workflow_request(START)
    body["tasks"][0]["pilot_config"] |= changes
    return body


def _without(*path: str | int) -> dict[str, Any]:
    body = workflow_request(START)
    place: Any = body
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return body


_TWICE = workflow_request(START)
_TWICE["tasks"].append(copy.deepcopy(_TWICE["tasks"][0]))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param([], "the body must be type object", id="no-object"),
        pytest.param(workflow_request(START) | {"foo": 1}, "'foo': additional", id="extra"),
        pytest.param(_without("public_queue_aliases"), "'public_queue_aliases': missing", id="no-aliases"),
        pytest.param(
            workflow_request(START) | {"public_queue_aliases": ["a", "a"]},
            "'public_queue_aliases': has non-unique",
            id="aliases",
        ),
        pytest.param(workflow_request(START) | {"tasks": []}, "'tasks': must have at least 1", id="no-tasks"),
        pytest.param(_TWICE, "'tasks': has non-unique items", id="equal-tasks"),
        pytest.param(workflow_request(START) | {"priority": True}, "'priority': must be type integer", id="priority"),
        pytest.param(_task(foo=1), "'tasks.0.foo': additional", id="task-extra"),
        pytest.param(_task(cluster_locations=[]), "'tasks.0.cluster_locations': must have at least 1", id="no-cluster"),
        pytest.param(_task(cluster_locations=["osg", "osg"]), "'tasks.0.cluster_locations': has non-unique", id="clusters"),
        pytest.param(_task(task_env={"A": 1}), "'tasks.0.task_env.A': must be type string", id="env-number"),
        pytest.param(_task(task_env={"A": None}), "'tasks.0.task_env.A': must be type string", id="env-null"),
        pytest.param(_task(n_workers=True), "'tasks.0.n_workers': must be type integer", id="true-workers"),
        pytest.param(_task(n_workers=2.5), "'tasks.0.n_workers': must be type integer", id="half-workers"),
        pytest.param(_task(n_workers="2"), "'tasks.0.n_workers': must be type integer", id="text-workers"),
        pytest.param(
            _without("tasks", 0, "worker_config", "condor_requirements"),
            "'tasks.0.worker_config.condor_requirements': missing",
            id="no-requirements",
        ),
        pytest.param(_worker(n_cores=1.5), "'tasks.0.worker_config.n_cores': must be type integer", id="cores"),
        pytest.param(_worker(worker_disk=None), "'tasks.0.worker_config.worker_disk': must be type string or", id="disk"),
        pytest.param(_pilot(image_source="docker"), "'tasks.0.pilot_config.image_source': must be one of", id="source"),
        pytest.param(_pilot(tag="banana"), "'tasks.0.pilot_config.tag': does not match", id="tag-pattern"),
        pytest.param(_pilot(environment={"A": True}), "'tasks.0.pilot_config.environment.A'", id="pilot-bool"),
        pytest.param(_pilot(environment={"A": []}), "'tasks.0.pilot_config.environment.A'", id="pilot-empty-list"),
        pytest.param(_pilot(input_files=["a", "a"]), "'tasks.0.pilot_config.input_files': has non-unique", id="files"),
        pytest.param(_without("tasks", 0, "pilot_config", "tag"), "'tasks.0.pilot_config.tag': missing", id="no-tag"),
    ],
)
def test_a_workflow_that_breaks_the_schema_is_refused_by_field(body: Any, field: str) -> None:
    with pytest.raises(RestError) as caught:
        checks.insist(checks.WORKFLOW, body)
    assert caught.value.status == 400
    assert field in caught.value.reason


def test_several_complaints_are_joined() -> None:
    with pytest.raises(RestError) as caught:
        checks.insist(checks.WORKFLOW, _worker(n_cores="1", priority=None))
    assert caught.value.reason == (
        "'tasks.0.worker_config.n_cores': must be type integer, not '1'; "
        "'tasks.0.worker_config.priority': must be type integer, not None"
    )


@pytest.mark.parametrize(
    "body",
    [
        workflow_request(START),
        _task(n_workers=0),
        _task(n_workers=-3),
        _task(n_workers=3.0),
        _task(n_workers=None),
        _worker(worker_disk=1, worker_memory="8GB"),
        _pilot(tag="1.2.3"),
        _pilot(tag="my-branch"),
        _pilot(environment={"A": "1", "B": 2, "C": ["x"], "D": 1.5, "E": float("nan")}),
        workflow_request(START) | {"public_queue_aliases": [], "priority": -5},
        _without("tasks", 0, "pilot_config"),
        _without("tasks", 0, "n_workers"),
    ],
)
def test_what_the_schema_allows_passes(body: dict[str, Any]) -> None:
    checks.insist(checks.WORKFLOW, body)
    checks.refuse_forbidden_variables(body)


@pytest.mark.parametrize(
    "wanted",
    [
        {"nonsense": 1},
        {"create_fails": -1},
        {"create_fails": True},
        {"activation_stuck": 1},
        {"access_token_lifetime_s": "x"},
        {"worker": {"die": "x"}},
        {"worker": {"x": 1}},
        {"create_fails": 1, "worker": {"die": -1}},
    ],
    ids=str,
)
def test_unknown_faults_are_refused_and_change_nothing(wanted: dict[str, Any]) -> None:
    faults = Faults()
    with pytest.raises(RestError):
        faults.change(wanted)
    assert faults == Faults()


def test_counted_faults_are_used_up() -> None:
    faults = Faults()
    faults.change({"create_fails": 2, "worker": {"die": 0.5}})
    assert [faults.take("create_fails") for _ in range(3)] == [True, True, False]
    assert faults.as_json()["worker"]["die"] == 0.5
    faults.reset()
    assert faults == Faults()
