"""The stand-in over HTTP: as strict as EWMS's contract, with its error answers, pages, phases and faults."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

from skydriver_sandbox.queues import Queue, QueueProfile
from tests.support.sandbox_parts import CLIENT_ID, Ewms, presigned, running_ewms, workflow_request
from tests.support.waiting import until

START = "http://127.0.0.1:1/startup.json"
UNREACHABLE_BROKER = "amqp://someone:a-broker-password@127.0.0.1:1/a%2Fvhost"


@pytest.fixture
async def ewms(tmp_path: Path) -> AsyncIterator[Ewms]:
    """A stand-in without worker processes; nothing here touches a broker."""
    async with running_ewms(tmp_path, UNREACHABLE_BROKER, workers=0) as found:
        yield found


async def _create(ewms: Ewms, **changes: Any) -> dict[str, Any]:
    status, created = await ewms.call("POST", "/v1/workflows", workflow_request(START) | changes)
    assert status == 200, created
    return dict(created)


async def _in_phase(ewms: Ewms, workflow_id: str, phase: str) -> list[dict[str, Any]]:
    async def look() -> list[dict[str, Any]]:
        found = await ewms.taskforces(workflow_id)
        return found if all(taskforce["phase"] == phase for taskforce in found) else []

    return list(await until(look))


@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer", "Bearer nonsense", "Basic abc", "Bearer " + jwt.encode({"iss": "x"}, "k" * 32, algorithm="HS256")],
    ids=["none", "empty", "nonsense", "basic", "foreign"],
)
async def test_a_request_without_a_good_token_gets_403(ewms: Ewms, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with ewms.session.get(f"{ewms.url}/v1/", headers=headers) as answer:
        assert answer.status == 403
        assert await answer.json() == {"code": 403, "error": "authentication failed"}


async def test_an_expired_token_gets_403_after_the_leeway(ewms: Ewms) -> None:
    await ewms.faults(access_token_lifetime_s=0)
    await ewms.login()
    assert (await ewms.call("GET", "/v1/"))[0] == 200
    claims = jwt.decode(ewms.token, options={"verify_signature": False})
    assert claims["exp"] <= time.time()
    assert (claims["iss"], claims["sub"], claims["ewms_role"]) == (ewms.url, CLIENT_ID, "user")


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        pytest.param({"client_id": CLIENT_ID, "client_secret": "wrong"}, 401, "invalid_client", id="secret"),
        pytest.param({"client_id": "other", "client_secret": "a client secret"}, 401, "invalid_client", id="client"),
        pytest.param(
            {"client_id": CLIENT_ID, "client_secret": "a client secret", "grant_type": "password"},
            400,
            "unsupported_grant_type",
            id="grant",
        ),
    ],
)
async def test_the_issuer_refuses(ewms: Ewms, form: dict[str, str], status: int, error: str) -> None:
    async with ewms.session.post(f"{ewms.url}/issuer/token", data={"grant_type": "client_credentials"} | form) as answer:
        assert answer.status == status
        assert await answer.json() == {"error": error}


async def test_tokens_verify_with_the_published_keys(ewms: Ewms) -> None:
    async with ewms.session.get(f"{ewms.url}/.well-known/openid-configuration") as answer:
        discovered = await answer.json()
    async with ewms.session.get(discovered["jwks_uri"]) as answer:
        keys = jwt.PyJWKSet.from_dict(await answer.json())
    claims = jwt.decode(ewms.token, keys.keys[0].key, algorithms=["RS256"], issuer=discovered["issuer"])
    assert claims["ewms_role"] == "user"


async def test_an_unknown_route_is_html_and_a_wrong_method_json(ewms: Ewms) -> None:
    status, page = await ewms.call("GET", "/v1/nothing")
    assert (status, page) == (404, "<html><title>404: Not Found</title><body>404: Not Found</body></html>")
    assert (await ewms.call("GET", "/v1/workflows/WF-a.b"))[1].startswith("<html>")
    assert await ewms.call("DELETE", "/v1/workflows") == (405, {"code": 405, "error": "Method Not Allowed"})


def _task(**changes: Any) -> dict[str, Any]:
    body = workflow_request(START)
    body["tasks"][0] |= changes
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


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(_task(foo=1), "'tasks.0.foo': additional", id="schema"),
        pytest.param(_task(cluster_locations=["mars"]), "'tasks.0.cluster_locations': unknown cluster", id="cluster"),
        pytest.param(_pilot(tag="9.9.9"), "'tasks.0.pilot_config.tag': no such pilot image", id="tag"),
        pytest.param(_pilot(tag="the-latest-thing"), "no such pilot image", id="tag-loose-pattern"),
        pytest.param(_pilot(tag="test-alpha"), "Image tag not found: test-alpha", id="tag-of-a-test-build"),
        pytest.param(_task(task_env={"A": ["a-secret"]}), "not ['a-secret']", id="values-are-echoed"),
        pytest.param(_pilot(environment={"EWMS_PILOT_TASK_ARGS": "x"}), "cannot override EWMS_PILOT_TASK_ARGS", id="forbidden"),
    ],
)
async def test_a_workflow_that_is_refused_leaves_nothing(ewms: Ewms, body: Any, field: str) -> None:
    status, answer = await ewms.call("POST", "/v1/workflows", body)
    assert status == 400
    assert answer["code"] == 400
    assert field in answer["error"]
    assert (await ewms.call("POST", "/v1/query/workflows", {"query": {}}))[1]["workflows"] == []


@pytest.mark.parametrize(
    ("data", "content_type"),
    [(b"{}", "text/plain"), (b"{", "application/json"), (b'{"query": NaN}', "application/json")],  # a query is an object
    ids=["type", "cut", "nan"],
)
async def test_a_body_that_is_not_json_is_refused(ewms: Ewms, data: bytes, content_type: str) -> None:
    headers = {"Authorization": f"Bearer {ewms.token}", "Content-Type": content_type}
    async with ewms.session.post(f"{ewms.url}/v1/query/workflows", data=data, headers=headers) as answer:
        assert answer.status == 400


@pytest.mark.parametrize("n_workers", [0, -3, 3.0], ids=["none", "negative", "whole-float"])
async def test_odd_worker_numbers_pass(ewms: Ewms, n_workers: float) -> None:
    status, created = await ewms.call("POST", "/v1/workflows", _task(n_workers=n_workers))
    assert (status, created["taskforces"][0]["n_workers"]) == (200, int(n_workers))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(_without("tasks", 0, "n_workers"), id="no-n-workers"),
        pytest.param(_task(input_queue_aliases=[], output_queue_aliases=[]), id="no-queue"),
        pytest.param(_task(n_workers=2**63), id="beyond-64-bits"),
        pytest.param(_pilot(environment={"A": -(2**63) - 1}), id="beyond-64-bits-within"),
    ],
)
async def test_what_upstream_does_not_handle_is_500_and_stores_nothing(ewms: Ewms, body: Any) -> None:
    assert await ewms.call("POST", "/v1/workflows", body) == (500, {"code": 500, "error": "Error in WorkflowHandler"})
    assert (await ewms.call("POST", "/v1/query/taskforces", {"query": {}}))[1]["taskforces"] == []


async def test_a_created_workflow_has_the_documented_shape(ewms: Ewms) -> None:
    body = _task(cluster_locations=["osg", "sub-2"])
    del body["tasks"][0]["init_image"]
    status, created = await ewms.call("POST", "/v1/workflows", body)
    assert status == 200
    workflow, directive = created["workflow"], created["task_directives"][0]
    assert workflow.keys() == {"workflow_id", "timestamp", "priority", "deactivated", "deactivated_ts"}
    assert (workflow["priority"], workflow["deactivated"]) == (100, None)
    assert (directive["init_image"], directive["init_env"]) == ("", {})
    assert [taskforce["n_workers"] for taskforce in created["taskforces"]] == [2, 2]
    assert created["taskforces"][0]["pilot_config"]["image_source"] == "cvmfs"
    assert created["taskforces"][0].keys() == {
        "taskforce_uuid", "task_id", "workflow_id", "timestamp", "priority", "collector", "schedd", "n_workers", "pilot_config",
        "worker_config", "cluster_id", "submit_dict", "job_event_log_fpath", "phase", "phase_change_log", "compound_statuses",
        "top_task_errors",
    }  # fmt: skip
    assert workflow["workflow_id"].removeprefix("WF-") in directive["task_id"]
    for path, document in (
        (f"/v1/workflows/{workflow['workflow_id']}", workflow),
        (f"/v1/task-directives/{directive['task_id']}", directive),
    ):
        assert await ewms.call("GET", path) == (200, document)
    assert (await ewms.call("GET", "/v1/workflows/WF-unknown"))[0] == 404


async def test_queues_become_active_with_user_host_vhost_and_password(ewms: Ewms) -> None:
    workflow_id = (await _create(ewms))["workflow"]["workflow_id"]
    profiles = await ewms.active_profiles(workflow_id)
    assert {profile["alias"] for profile in profiles} == {"to-client-queue", "from-client-queue"}
    for profile in profiles:
        assert (profile["broker_type"], profile["auth_token"]) == ("rabbitmq", "a-broker-password")
        assert profile["broker_address"] == "someone@127.0.0.1:1/a%2Fvhost"
        assert len(profile["mqid"]) == 21
    assert await ewms.profiles("WF-unknown") == []


async def test_only_public_queues_are_shown(ewms: Ewms) -> None:
    workflow_id = (await _create(ewms, public_queue_aliases=["to-client-queue", "unused"]))["workflow"]["workflow_id"]
    assert [profile["alias"] for profile in await ewms.profiles(workflow_id)] == ["to-client-queue"]


async def test_a_taskforce_walks_its_phases_and_idle_jobs_are_reported(ewms: Ewms) -> None:
    workflow_id = (await _create(ewms))["workflow"]["workflow_id"]
    taskforce = (await _in_phase(ewms, workflow_id, "condor-submit"))[0]
    targets = [entry["target_phase"] for entry in taskforce["phase_change_log"]]
    assert targets == ["pre-mq-activation", "pre-launch", "pending-starter", "condor-submit"]
    assert taskforce["cluster_id"] is not None

    async def statuses() -> bool:
        return bool((await ewms.taskforces(workflow_id))[0]["compound_statuses"] == {"IDLE": {"null": 2}})

    await until(statuses)


async def test_stopping_moves_the_taskforces_once_and_then_is_404(ewms: Ewms) -> None:
    workflow_id = (await _create(ewms))["workflow"]["workflow_id"]
    await _in_phase(ewms, workflow_id, "condor-submit")
    path = f"/v1/workflows/{workflow_id}/actions"
    assert await ewms.call("POST", f"{path}/finished") == (200, {"workflow_id": workflow_id, "n_taskforces": 1})
    assert (await ewms.call("POST", f"{path}/abort", {}))[0] == 404
    assert [c["source_entity"] for c in (await ewms.taskforces(workflow_id))[0]["phase_change_log"]][:2] == [
        "User",
        "Workflow MQ Activator",
    ]
    status, workflow = await ewms.call("GET", f"/v1/workflows/{workflow_id}")
    assert (status, workflow["deactivated"]) == (200, "FINISHED")
    taskforce = (await _in_phase(ewms, workflow_id, "condor-complete"))[0]
    assert taskforce["compound_statuses"] == {"REMOVED": {"null": 2}}
    assert taskforce["phase_change_log"][-1]["source_event_time"] is not None
    status, _ = await ewms.call(
        "POST", f"/v1/task-directives/{taskforce['task_id']}/actions/add-workers", {"cluster_location": "osg", "n_workers": 1}
    )
    assert status == 422


async def test_a_workflow_stopped_before_submission_waits_for_ever(ewms: Ewms) -> None:
    await ewms.faults(activation_stuck=True)
    workflow_id = (await _create(ewms))["workflow"]["workflow_id"]
    await ewms.call("POST", f"/v1/workflows/{workflow_id}/actions/abort")
    await ewms.faults(activation_stuck=False)
    other = (await _create(ewms))["workflow"]["workflow_id"]
    await _in_phase(ewms, other, "condor-submit")
    taskforce = (await ewms.taskforces(workflow_id))[0]
    assert (taskforce["phase"], taskforce["cluster_id"]) == ("pending-stopper", None)
    assert not any(profile["is_activated"] for profile in await ewms.profiles(workflow_id))


async def test_added_workers_are_a_new_taskforce_with_higher_priority(ewms: Ewms) -> None:
    created = await _create(ewms)
    task_id = created["task_directives"][0]["task_id"]
    path = f"/v1/task-directives/{task_id}/actions/add-workers"
    status, added = await ewms.call("POST", path, {"cluster_location": "test-alpha", "n_workers": 5})
    assert (status, added["phase"], added["n_workers"], added["priority"]) == (200, "pre-mq-activation", 5, 200)
    assert added["worker_config"] == created["taskforces"][0]["worker_config"]
    await _in_phase(ewms, created["workflow"]["workflow_id"], "condor-submit")
    assert (await ewms.call("POST", path, {"cluster_location": "mars", "n_workers": 5}))[0] == 400
    assert (await ewms.call("POST", path, {"cluster_location": "osg"}))[0] == 400
    unknown = "/v1/task-directives/TK-unknown/actions/add-workers"
    assert await ewms.call("POST", unknown, {"cluster_location": "osg", "n_workers": 5}) == (
        500,
        {"code": 500, "error": "Error in TaskDirectiveIDActionAddWorkersHandler"},
    )


async def test_queries_filter_project_and_refuse(ewms: Ewms) -> None:
    started = time.time()
    first = (await _create(ewms))["workflow"]["workflow_id"]
    second = (await _create(ewms))["workflow"]["workflow_id"]
    marker = {"task_env.SKYDRIVER_SCAN_ID": "18e0f1a2b3cx4f5e6d7c8b9a0d1e2f3a", "timestamp": {"$gte": started - 1}}
    status, found = await ewms.call(
        "POST", "/v1/query/task-directives", {"query": marker, "projection": ["workflow_id", "_id", "nothing"]}
    )
    assert (status, found) == (200, {"task_directives": [{"workflow_id": first}, {"workflow_id": second}], "next_after": None})
    some = {"workflow_id": {"$in": [second, "WF-x"]}}
    assert [t["workflow_id"] for t in (await ewms.call("POST", "/v1/query/taskforces", {"query": some}))[1]["taskforces"]] == [
        second
    ]
    for bad, status in (
        ({"query": {}, "after": None}, 400),
        ({"query": {}, "limit": 1}, 400),
        ({"query": []}, 400),
        ({"query": {}, "projection": []}, 400),
        ({"query": {}, "projection": ["a", "a"]}, 400),
        ({"query": {"a": {"$where": "1"}}}, 500),
        ({"query": {}, "after": "nonsense"}, 500),
    ):
        assert (await ewms.call("POST", "/v1/query/taskforces", bad))[0] == status, bad


async def test_what_the_real_one_was_seen_to_take_is_taken(ewms: Ewms) -> None:
    body = _pilot(environment={"A": 1.5, "B": 2, "C": float("nan")})
    status, created = await ewms.call("POST", "/v1/workflows", body)
    assert status == 200
    workflow_id = created["workflow"]["workflow_id"]
    await _in_phase(ewms, workflow_id, "condor-submit")
    whole = (await ewms.call("POST", "/v1/query/workflows", {"query": {}}))[1]
    for query in (
        {"query": {}, "after": ""},
        {"query": {}, "projection": ["_id"]},
        {"query": {"x": float("nan")}, "after": ""},
    ):
        found = await ewms.call("POST", "/v1/query/workflows", query)
        assert found == (200, whole if query["query"] == {} else {"workflows": [], "next_after": None})
    dotted = {
        "query": {},
        "projection": ["worker_config.n_cores", "phase_change_log.target_phase", "submit_dict.nothing.at_all"],
    }
    _, found = await ewms.call("POST", "/v1/query/taskforces", dotted)
    assert found["taskforces"][0]["worker_config"] == {"n_cores": 1}
    assert found["taskforces"][0]["phase_change_log"][0] == {"target_phase": "pre-mq-activation"}
    assert (await ewms.call("POST", f"/v1/workflows/{workflow_id}/actions/abort", ["any", {"body": 1}]))[0] == 200


async def test_routes_of_others_and_the_description(ewms: Ewms) -> None:
    for method, path in (("GET", "/v1/tms/pending-starter/taskforces"), ("POST", "/v1/tms/statuses/taskforces")):
        assert await ewms.call(method, path) == (403, {"code": 403, "error": "authorization failed"})
    for path in ("/openapi", "/v1/schema/openapi"):
        status, found = await ewms.call("GET", path)
        assert (status, found["openapi"]) == (200, "3.1.0")


async def test_a_request_for_a_billion_workers_does_not_write_a_billion_rows(ewms: Ewms) -> None:
    workflow_id = (await ewms.call("POST", "/v1/workflows", _task(n_workers=10**9)))[1]["workflow"]["workflow_id"]
    await _in_phase(ewms, workflow_id, "condor-submit")
    other = (await _create(ewms))["workflow"]["workflow_id"]
    await _in_phase(ewms, other, "condor-submit")
    await ewms.call("POST", f"/v1/workflows/{workflow_id}/actions/abort")
    (taskforce,) = await _in_phase(ewms, workflow_id, "condor-complete")
    assert taskforce["compound_statuses"] == {"REMOVED": {"null": 10**9}}


async def test_pages_end_by_bytes_and_go_on_where_they_ended(tmp_path: Path) -> None:
    environment = {"SANDBOX_PAGE_BYTES": "1200"}
    async with running_ewms(tmp_path, UNREACHABLE_BROKER, workers=0, environment=environment) as ewms:
        created = [(await _create(ewms))["workflow"]["workflow_id"] for _ in range(20)]
        found: list[str] = []
        body: dict[str, Any] = {"query": {}}
        pages = 0
        while True:
            _, page = await ewms.call("POST", "/v1/query/workflows", body)
            found += [workflow["workflow_id"] for workflow in page["workflows"]]
            pages += 1
            if page["next_after"] is None:
                break
            body["after"] = page["next_after"]
        assert found == created
        assert pages > 1


async def test_a_create_can_commit_and_then_fail(ewms: Ewms) -> None:
    await ewms.faults(create_fails=1)
    assert (await ewms.call("POST", "/v1/workflows", workflow_request(START)))[0] == 500
    assert len((await ewms.call("POST", "/v1/query/workflows", {"query": {}}))[1]["workflows"]) == 1


async def test_a_create_can_commit_and_never_answer(ewms: Ewms) -> None:
    await ewms.faults(create_hangs=1)
    with pytest.raises(TimeoutError):
        await ewms.call("POST", "/v1/workflows", workflow_request(START), timeout=aiohttp.ClientTimeout(total=0.5))
    assert len((await ewms.call("POST", "/v1/query/workflows", {"query": {}}))[1]["workflows"]) == 1


async def test_the_service_can_be_overloaded(ewms: Ewms) -> None:
    await ewms.faults(unavailable=1)
    headers = {"Authorization": f"Bearer {ewms.token}"}
    async with ewms.session.get(f"{ewms.url}/v1/", headers=headers) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert (await ewms.call("GET", "/v1/"))[0] == 200


async def test_a_submission_can_fail_three_times_and_stay_so(ewms: Ewms) -> None:
    await ewms.faults(submissions_fail=1)
    workflow_id = (await _create(ewms))["workflow"]["workflow_id"]

    async def tried() -> bool:
        log = (await ewms.taskforces(workflow_id))[0]["phase_change_log"]
        failed = [e for e in log if e["target_phase"] == "condor-submit" and not e["was_successful"]]
        return len(failed) == 3 and all(entry["context"].startswith("ERROR: ") for entry in failed)

    await until(tried)
    assert (await ewms.taskforces(workflow_id))[0]["phase"] == "pending-starter"


async def test_activation_can_undo_a_stop(ewms: Ewms) -> None:
    await ewms.faults(activation_stuck=True, activation_race=True)
    created = await _create(ewms)
    workflow_id, task_id = created["workflow"]["workflow_id"], created["task_directives"][0]["task_id"]
    body = {"cluster_location": "osg", "n_workers": 1}
    await ewms.call("POST", f"/v1/task-directives/{task_id}/actions/add-workers", body)
    await ewms.faults(activation_stuck=False)
    taskforces = await _in_phase(ewms, workflow_id, "condor-submit")
    assert all(taskforce["phase_change_log"][1]["target_phase"] == "pre-launch" for taskforce in taskforces)


async def test_faults_are_for_the_admin_only(ewms: Ewms) -> None:
    await ewms.faults(create_fails=3)
    headers = {"Authorization": "Bearer an admin token"}
    async with ewms.session.delete(f"{ewms.url}/sandbox/faults", headers=headers) as answer:
        assert (await answer.json())["create_fails"] == 0
    async with ewms.session.post(f"{ewms.url}/sandbox/faults", json={"nonsense": 1}, headers=headers) as answer:
        assert answer.status == 400
    async with ewms.session.get(f"{ewms.url}/sandbox/faults") as answer:
        assert answer.status == 403


async def test_everything_survives_a_kill(tmp_path: Path) -> None:
    async with running_ewms(tmp_path, UNREACHABLE_BROKER, workers=0) as ewms:
        workflow_id = (await _create(ewms))["workflow"]["workflow_id"]
        ewms.process.kill()
        await ewms.process.wait()
    async with running_ewms(tmp_path, UNREACHABLE_BROKER, workers=0) as again:
        assert (await again.call("GET", f"/v1/workflows/{workflow_id}"))[0] == 200
        await _in_phase(again, workflow_id, "condor-submit")


async def test_objects_are_kept_for_those_who_have_a_good_address(ewms: Ewms) -> None:
    content = b"\x00\x01" * 100_000
    async with ewms.session.put(presigned(ewms.url, "PUT", "a scan/startup.json"), data=content) as answer:
        assert answer.status == 200
    async with ewms.session.get(presigned(ewms.url, "GET", "a scan/startup.json")) as answer:
        assert await answer.read() == content
    async with ewms.session.get(presigned(ewms.url, "GET", "other")) as answer:
        assert (answer.status, "NoSuchKey" in await answer.text()) == (404, True)


async def test_objects_are_refused_to_everyone_else(ewms: Ewms) -> None:
    good = presigned(ewms.url, "GET", "key")
    for url, code in (
        (good.partition("?")[0], "AccessDenied"),
        (good.replace("/key?", "/other?"), "SignatureDoesNotMatch"),
        (good[:-1] + ("0" if good[-1] != "0" else "1"), "SignatureDoesNotMatch"),
        (good.replace("X-Amz-Expires=600", "X-Amz-Expires=604801"), "AuthorizationQueryParametersError"),
        (good.replace("us-east-1", "eu-west-1"), "AuthorizationQueryParametersError"),
        (presigned(ewms.url, "PUT", "key"), "SignatureDoesNotMatch"),
    ):
        async with ewms.session.get(url) as answer:
            assert (answer.status, code in await answer.text()) == (403, True), url


async def test_an_address_stops_working_when_it_expires(ewms: Ewms) -> None:
    url = presigned(ewms.url, "GET", "key", expires_s=1)

    async def expired() -> bool:
        async with ewms.session.get(url) as answer:
            return answer.status == 403 and "AccessDenied" in await answer.text()

    await until(expired)


async def test_what_clients_send_through_a_queue_profile_arrives(tmp_path: Path, amqp_url: str) -> None:
    async with running_ewms(tmp_path, amqp_url, workers=0) as ewms:
        workflow_id = (await _create(ewms))["workflow"]["workflow_id"]
        profile = (await ewms.active_profiles(workflow_id))[0]
    fields = [profile[name] for name in ("mqid", "auth_token", "broker_type", "broker_address")]
    async with Queue(QueueProfile(*fields)) as queue:
        await queue.publish(b"hello")
        await queue.start_reading()
        messages = await queue.next_messages(timeout_s=10)
        assert [message.body for message in messages] == [b"hello"]


@pytest.mark.parametrize(
    ("words", "missing", "reason"),
    [
        (["--port", "0"], "SANDBOX_CLIENT_SECRET", "SANDBOX_CLIENT_SECRET is needed"),
        (["--port", "0"], "SANDBOX_AMQP_URL", "SANDBOX_AMQP_URL is needed"),
        (["--port", "0", "--max-local-workers", "-1"], "", "must not be negative"),
    ],
    ids=["secret", "broker", "workers"],
)
async def test_a_stand_in_without_its_settings_says_so_in_one_line(
    tmp_path: Path, words: list[str], missing: str, reason: str
) -> None:
    names = {"SANDBOX_AMQP_URL": UNREACHABLE_BROKER, "SANDBOX_CLIENT_SECRET": "x", "SANDBOX_S3_SECRET": "x"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "skydriver_sandbox.ewms", "--data-dir", str(tmp_path), *words,
        env={name: value for name, value in {**os.environ, **names}.items() if name != missing},
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, stderr = await process.communicate()
    assert process.returncode == 1
    assert reason in stderr.decode()
    assert stderr.count(b"\n") == 1
