"""The adapter against a server that misbehaves: each answer must be sorted by what it means."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest
from aiohttp import ClientSession, TCPConnector
from pydantic import SecretStr

from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.adapters.ewms_rest import TASKFORCE_FIELDS, EwmsRest, open_ewms
from skydriver_ewms_bridge.adapters.oauth2 import ClientCredentials
from skydriver_ewms_bridge.ewms_types import QueueProfile, TaskDirective, Workflow, WorkflowSpec
from skydriver_ewms_bridge.ports import EwmsNotFound, EwmsRejected, EwmsRejectedForNow, OutcomeUnknown, WorkflowEnded
from tests.support.malformed_ewms import Unruly, unruly_ewms

WORKFLOW = {"workflow_id": "WF-1", "timestamp": 5.5, "priority": 100, "deactivated": None, "deactivated_ts": None}
TASKFORCE = {
    "taskforce_uuid": "TF-1", "task_id": "TK-1", "workflow_id": "WF-1", "timestamp": 6.0, "n_workers": 10,
    "phase": "condor-submit", "cluster_id": 3, "compound_statuses": {"RUNNING": {"Tasking": 4}}, "top_task_errors": {},
    "phase_change_log": [{"target_phase": "pre-launch", "timestamp": 5.0, "was_successful": True}],
}  # fmt: skip
SPEC = WorkflowSpec({"public_queue_aliases": [], "tasks": []})

Call = Callable[[EwmsRest], Awaitable[Any]]
READS: list[tuple[str, Call]] = [
    ("workflow", lambda e: e.get_workflow("WF-1")),
    ("profiles", lambda e: e.queue_profiles("WF-1")),
    ("directives", lambda e: e.task_directives("TK-1")),
    ("abort", lambda e: e.abort("WF-1")),
    ("finish", lambda e: e.finish("WF-1")),
]
MAKES: list[tuple[str, Call]] = [
    ("create", lambda e: e.create_workflow(SPEC)),
    ("add-workers", lambda e: e.add_workers("TK-1", "osg", 10)),
]
reads = pytest.mark.parametrize("call", [c for _, c in READS], ids=[n for n, _ in READS])
makes = pytest.mark.parametrize("call", [c for _, c in MAKES], ids=[n for n, _ in MAKES])
both = pytest.mark.parametrize("call", [c for _, c in READS + MAKES], ids=[n for n, _ in READS + MAKES])


def no(status: int, error: str) -> tuple[int, dict[str, Any]]:
    return status, {"code": status, "error": error}


@pytest.fixture
async def server() -> AsyncIterator[Unruly]:
    async with unruly_ewms() as script:
        yield script


@pytest.fixture
async def ewms(server: Unruly, limit_s: float) -> AsyncIterator[EwmsRest]:
    async with ClientSession() as reads, ClientSession(connector=TCPConnector(force_close=True)) as writes:
        credentials = ClientCredentials(reads, issuer=server.url, client_id="bridge", client_secret=SecretStr("s3cret"))
        yield EwmsRest(
            reads, writes, base_url=server.url, credentials=credentials, instance="prod",
            read_timeout_s=limit_s, write_timeout_s=limit_s,
        )  # fmt: skip


async def test_a_workflow_is_created_with_the_body_as_given(server: Unruly, ewms: EwmsRest) -> None:
    server.say((200, {"workflow": WORKFLOW, "task_directives": [], "taskforces": []}))

    assert await ewms.create_workflow(SPEC) == Workflow("WF-1", 5.5, 100, None)
    assert [(a.method, a.path, a.body) for a in server.asked] == [("POST", "/v1/workflows", SPEC)]


async def test_the_look_up_asks_for_the_marker_in_a_time_range_and_follows_all_pages(server: Unruly, ewms: EwmsRest) -> None:
    directive = {"workflow_id": "WF-1", "task_id": "TK-1", "timestamp": 5.0, "cluster_locations": ["osg"]}
    server.say(
        (200, {"task_directives": [directive, directive], "next_after": "abc"}),
        (200, {"task_directives": [{**directive, "workflow_id": "WF-2"}], "next_after": None}),
        (200, {"workflows": [WORKFLOW, {**WORKFLOW, "workflow_id": "WF-2", "deactivated": "ABORTED"}], "next_after": None}),
    )

    found = await ewms.find_workflows_of(ScanId("the-scan"), since=1000.0)

    assert {(w.workflow_id, w.deactivated) for w in found} == {("WF-1", None), ("WF-2", "ABORTED")}
    query = {"task_env.SKYDRIVER_SCAN_ID": "the-scan", "task_env.SKYDRIVER_INSTANCE": "prod", "timestamp": {"$gte": 1000.0}}
    projection = ["workflow_id", "task_id", "timestamp", "cluster_locations"]
    assert server.asked[0].body == {"query": query, "projection": projection}
    assert server.asked[1].body == {"query": query, "projection": projection, "after": "abc"}
    assert server.asked[2].body["query"] == {"workflow_id": {"$in": ["WF-1", "WF-2"]}}


async def test_nothing_found_needs_no_second_question(server: Unruly, ewms: EwmsRest) -> None:
    server.say((200, {"task_directives": [], "next_after": None}))

    assert await ewms.find_workflows_of(ScanId("the-scan"), since=0.0) == ()
    assert len(server.asked) == 1


async def test_taskforces_of_many_workflows_come_by_one_projected_query(server: Unruly, ewms: EwmsRest) -> None:
    bare = {k: v for k, v in TASKFORCE.items() if k not in ("compound_statuses", "top_task_errors")}
    server.say(
        (200, {"taskforces": [TASKFORCE], "next_after": "x"}),
        (200, {"taskforces": [{**bare, "cluster_id": None, "compound_statuses": None}], "next_after": None}),
    )

    pages = [page async for page in ewms.find_taskforces(["WF-1", "WF-2"])]

    assert [len(page) for page in pages] == [1, 1]
    assert pages[0][0].statuses == {"RUNNING": {"Tasking": 4}}
    assert (pages[1][0].statuses, pages[1][0].top_errors, pages[1][0].cluster_id) == ({}, {}, None)
    assert server.asked[0].body == {"query": {"workflow_id": {"$in": ["WF-1", "WF-2"]}}, "projection": TASKFORCE_FIELDS}
    assert [page async for page in ewms.find_taskforces([])] == []


async def test_raw_taskforces_keep_every_field(server: Unruly, ewms: EwmsRest) -> None:
    server.say((200, {"taskforces": [{**TASKFORCE, "submit_dict": {"a": 1}, "new_in_2030": None}], "next_after": None}))

    pages = [page async for page in ewms.raw_taskforces("WF-1")]

    assert pages == [[{**TASKFORCE, "submit_dict": {"a": 1}, "new_in_2030": None}]]
    assert "projection" not in server.asked[0].body


async def test_queue_profiles_are_read_before_and_after_activation(server: Unruly, ewms: EwmsRest) -> None:
    before = {"mqid": "a1", "alias": "to-client-queue", "is_activated": False, "auth_token": None, "broker_type": None}
    after = {**before, "is_activated": True, "auth_token": "t", "broker_type": "rabbitmq", "broker_address": "u@h:1"}
    server.say((200, {"mqprofiles": [before]}), (200, {"mqprofiles": [after]}), (200, {"mqprofiles": []}))

    assert await ewms.queue_profiles("WF-1") == (QueueProfile("a1", "to-client-queue", False),)
    assert await ewms.queue_profiles("WF-1") == (QueueProfile("a1", "to-client-queue", True, "t", "rabbitmq", "u@h:1"),)
    assert await ewms.queue_profiles("WF-1") == ()


async def test_directives_and_added_workers_are_read(server: Unruly, ewms: EwmsRest) -> None:
    directive = {"task_id": "TK-1", "workflow_id": "WF-1", "timestamp": 5, "cluster_locations": ["osg"], "task_image": "x"}
    server.say((200, {"task_directives": [directive], "next_after": None}), (200, TASKFORCE))

    assert await ewms.task_directives("WF-1") == (TaskDirective("TK-1", "WF-1", 5.0, ("osg",)),)
    assert (await ewms.add_workers("TK-1", "osg", 10)).taskforce_uuid == "TF-1"
    assert server.asked[1].path == "/v1/task-directives/TK-1/actions/add-workers"
    assert server.asked[1].body == {"cluster_location": "osg", "n_workers": 10}


async def test_one_token_serves_many_calls(server: Unruly, ewms: EwmsRest) -> None:
    server.say((200, WORKFLOW), (200, WORKFLOW))

    await ewms.get_workflow("WF-1")
    await ewms.get_workflow("WF-1")

    assert [a.token for a in server.asked] == ["token-1", "token-1"]


@both
async def test_a_stale_token_is_renewed_once(server: Unruly, ewms: EwmsRest, call: Call) -> None:
    server.say(no(403, "authentication failed"), no(400, "'field': wrong on purpose"))

    with pytest.raises(EwmsRejected, match="EWMS rejected"):
        await call(ewms)
    assert [a.token for a in server.asked] == ["token-1", "token-2"]


@both
async def test_a_missing_right_is_our_problem_and_is_not_asked_about_twice(server: Unruly, ewms: EwmsRest, call: Call) -> None:
    server.say(no(403, "authorization failed"))

    with pytest.raises(TryLater, match="denied access to our client"):
        await call(ewms)
    assert len(server.asked) == 1


@both
async def test_a_second_refusal_of_a_token_ends_the_attempt(server: Unruly, ewms: EwmsRest, call: Call) -> None:
    server.say(no(403, "authentication failed"), no(403, "authentication failed"))

    with pytest.raises(TryLater):
        await call(ewms)
    assert len(server.asked) == 2


@makes
@pytest.mark.parametrize("trouble", ["drop", "hang", no(500, "x"), no(502, "x"), (200, b"<html>"), (200, {}), (504, b"")])
async def test_a_lost_answer_to_a_request_that_makes_something_is_unclear(
    server: Unruly, ewms: EwmsRest, call: Call, trouble: Any
) -> None:
    server.say(trouble)

    with pytest.raises(OutcomeUnknown):
        await call(ewms)
    assert len(server.asked) == 1, "it must never be repeated by itself"


@makes
async def test_the_overload_guard_stands_before_the_work(server: Unruly, ewms: EwmsRest, call: Call) -> None:
    server.say((503, {"code": 503, "error": "overloaded"}, {"Retry-After": "61"}))

    with pytest.raises(TryLater) as caught:
        await call(ewms)
    assert caught.value.after_s == 61.0


@reads
@pytest.mark.parametrize("trouble", ["drop", "hang", no(500, "x"), (200, b"<html>"), (200, b"[]"), (503, b"")])
async def test_a_read_that_fails_may_be_tried_later(server: Unruly, ewms: EwmsRest, call: Call, trouble: Any) -> None:
    server.say(trouble)

    with pytest.raises(TryLater):
        await call(ewms)


@both
async def test_a_server_that_is_not_there_has_done_nothing(call: Call) -> None:
    with socket.socket() as held:  # bound but not listening: every connection is refused
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        async with (
            unruly_ewms() as issuer,
            open_ewms(
                url=url, issuer=issuer.url, client_id="bridge", client_secret=SecretStr("s3cret"), instance="prod"
            ) as ewms,
        ):
            with pytest.raises(TryLater, match="not reachable"):
                await call(ewms)


async def test_refused_names_the_field_but_no_address(server: Unruly, ewms: EwmsRest) -> None:
    server.say(no(400, "'tasks.0.worker_config.n_cores': must be type int;\n see https://s3.example/?sig=abc"))

    with pytest.raises(EwmsRejected) as caught:
        await ewms.create_workflow(SPEC)
    assert caught.value.reason == "'tasks.0.worker_config.n_cores': must be type int; see <address>"
    assert str(caught.value) == "EWMS rejected the request"


IMAGE_IS_ON_ITS_WAY = "Image tag not found: v4.1.2 (it may not have finished uploading)"


@makes
@pytest.mark.parametrize(
    ("status", "error", "headers", "after_s"),
    [
        (400, IMAGE_IS_ON_ITS_WAY, {}, 0.0),
        (403, "MQS refused the reservation", {"Retry-After": "7"}, 7.0),
        (409, "conflict", {"Retry-After": "20"}, 20.0),
        (423, "locked", {}, 0.0),
        (429, "too many requests", {"Retry-After": "90"}, 90.0),
    ],
)
async def test_a_refusal_that_time_may_change_is_told_apart_from_a_final_one(
    server: Unruly, ewms: EwmsRest, call: Call, status: int, error: str, headers: dict[str, str], after_s: float
) -> None:
    server.say((status, {"code": status, "error": error}, headers))

    with pytest.raises(EwmsRejectedForNow) as caught:
        await call(ewms)
    assert (caught.value.reason, caught.value.after_s) == (error, after_s)
    assert len(server.asked) == 1, "it must never be repeated by itself"


@reads
@pytest.mark.parametrize("status", [409, 423, 429])
async def test_a_read_that_is_refused_for_now_waits_as_long_as_ewms_says(
    server: Unruly, ewms: EwmsRest, call: Call, status: int
) -> None:
    server.say((status, {"code": status, "error": "later"}, {"Retry-After": "33"}))

    with pytest.raises(TryLater) as caught:
        await call(ewms)
    assert caught.value.after_s == 33.0


@makes
async def test_a_lost_answer_that_says_for_how_long_ewms_is_busy_may_come_true_so_much_later(
    server: Unruly, ewms: EwmsRest, call: Call
) -> None:
    server.say((504, {"code": 504, "error": "busy"}, {"Retry-After": "120"}))

    with pytest.raises(OutcomeUnknown) as caught:
        await call(ewms)
    assert caught.value.longer_by_s == 120.0


async def test_an_unknown_id_is_told_apart_from_a_wrong_address(server: Unruly, ewms: EwmsRest) -> None:
    server.say(no(404, "no workflow found"), (404, b"<html>404: Not Found</html>"))

    with pytest.raises(EwmsNotFound):
        await ewms.abort("WF-1")
    with pytest.raises(TryLater, match="an unexpected status"):
        await ewms.abort("WF-1")


async def test_an_id_that_cannot_be_one_is_not_sent(server: Unruly, ewms: EwmsRest) -> None:
    with pytest.raises(EwmsNotFound):
        await ewms.get_workflow("../mqs/workflows")
    assert server.asked == []


async def test_an_ended_workflow_takes_no_more_workers(server: Unruly, ewms: EwmsRest) -> None:
    server.say(no(422, "workflow is deactivated"))

    with pytest.raises(WorkflowEnded):
        await ewms.add_workers("TK-1", "osg", 10)


async def test_pages_that_lead_in_a_circle_end(server: Unruly, ewms: EwmsRest) -> None:
    server.say(*[(200, {"task_directives": [], "next_after": "same"})] * 2)

    with pytest.raises(TryLater):
        await ewms.task_directives("WF-1")


@pytest.mark.parametrize(
    "broken",
    [{"timestamp": "5"}, {"n_workers": True}, {"compound_statuses": {"IDLE": 3}}, {"phase": None},
     {"compound_statuses": {"IDLE": {"null": "1"}}}, {"top_task_errors": []}, {"phase_change_log": {}}, {"n_workers": 1.5}],
    ids=str,
)  # fmt: skip
async def test_a_taskforce_of_another_shape_is_not_guessed_at(server: Unruly, ewms: EwmsRest, broken: dict[str, Any]) -> None:
    server.say((200, {"taskforces": [{**TASKFORCE, **broken}], "next_after": None}))

    with pytest.raises(TryLater, match="cannot be parsed"):
        _ = [page async for page in ewms.find_taskforces(["WF-1"])]


async def test_who_asks_for_many_scans_passes_over_what_cannot_be_read(server: Unruly, ewms: EwmsRest) -> None:
    bad = [
        {**TASKFORCE, "workflow_id": "WF-2", "compound_statuses": {"RUNNING": {"Tasking": None}}},
        {"workflow_id": 7},
        "no object",
    ]
    server.say((200, {"taskforces": [*bad, TASKFORCE], "next_after": None}))
    unreadable: list[str] = []

    pages = [page async for page in ewms.find_taskforces(["WF-1", "WF-2"], on_unreadable=unreadable.append)]

    assert [taskforce.taskforce_uuid for page in pages for taskforce in page] == ["TF-1"]
    assert unreadable == ["WF-2", "", ""]
    server.say((200, {"workflows": [{**WORKFLOW, "workflow_id": "WF-2", "deactivated": 1}, WORKFLOW], "next_after": None}))
    found = await ewms.get_workflows(["WF-1", "WF-2"], on_unreadable=unreadable.append)
    assert ([workflow.workflow_id for workflow in found], unreadable[3:]) == (["WF-1"], ["WF-2"])


async def test_an_unreadable_taskforce_of_somebody_else_does_not_hide_the_line(server: Unruly, ewms: EwmsRest) -> None:
    theirs = {**TASKFORCE, "taskforce_uuid": None}
    server.say((200, {"taskforces": [theirs, {**TASKFORCE, "phase": "pre-mq-activation"}], "next_after": None}))

    assert [taskforce.taskforce_uuid for taskforce in await ewms.waiting_for_queues()] == ["TF-1"]


async def test_raw_taskforces_keep_the_digits_of_their_numbers(server: Unruly, ewms: EwmsRest) -> None:
    long = 123456789012345678901234567890
    for number, told in (("0.5", 0.5), ("NaN", None), ("1e999", None)):
        page = b'{"taskforces": [{"workflow_id": "WF-1", "a": %d, "b": %b}], "next_after": null}' % (long, number.encode())
        server.say((200, page))
        pages = [page async for page in ewms.raw_taskforces("WF-1")]
        assert pages == [[{"workflow_id": "WF-1", "a": long, "b": told}]]


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "1" * 400])
async def test_a_number_that_json_does_not_have_spoils_its_taskforce_and_not_the_page(
    server: Unruly, ewms: EwmsRest, number: str
) -> None:
    page = orjson.dumps(
        {"taskforces": [TASKFORCE, {**TASKFORCE, "workflow_id": "WF-2", "timestamp": 77.25}], "next_after": None}
    )
    server.say((200, page.replace(b"77.25", number.encode())))
    unreadable: list[str] = []

    pages = [page async for page in ewms.find_taskforces(["WF-1", "WF-2"], on_unreadable=unreadable.append)]

    assert [taskforce.workflow_id for page in pages for taskforce in page] == ["WF-1"]
    assert unreadable == ["WF-2"]


async def test_texts_of_workers_come_without_nul_which_the_database_does_not_take(server: Unruly, ewms: EwmsRest) -> None:
    errors = {"core\0dumped": 2, "core\ufffddumped": 3}
    server.say((200, {"taskforces": [{**TASKFORCE, "top_task_errors": errors}], "next_after": None}))

    [[taskforce]] = [page async for page in ewms.find_taskforces(["WF-1"])]

    assert taskforce.top_errors == {"core\ufffddumped": 5}


@pytest.mark.parametrize(
    "trouble", ["drop", no(401, "invalid_client"), no(500, "x"), (200, b"<html>"), (200, []), (200, {"token": "x"})], ids=str
)
async def test_no_token_means_nothing_was_asked(server: Unruly, ewms: EwmsRest, trouble: Any) -> None:
    server.token_answers.append(trouble)

    with pytest.raises(TryLater) as caught:
        await ewms.create_workflow(SPEC)
    assert "s3cret" not in str(caught.value)
    assert server.asked == []


async def test_a_token_is_renewed_before_it_ends(server: Unruly) -> None:
    now = 1000.0
    async with ClientSession() as session:
        credentials = ClientCredentials(
            session, issuer=server.url, client_id="bridge", client_secret=SecretStr("s3cret"), clock=lambda: now
        )
        first = await credentials.token()
        now += 3600 - 61
        assert await credentials.token() == first
        now += 2
        assert (await credentials.token()).get_secret_value() == "token-2"


async def test_a_token_dropped_late_does_not_take_its_successor_along(server: Unruly) -> None:
    async with ClientSession() as session:
        credentials = ClientCredentials(session, issuer=server.url, client_id="bridge", client_secret=SecretStr("s3cret"))
        first = await credentials.token()
        credentials.drop(first)
        second = await credentials.token()
        credentials.drop(first)
        assert await credentials.token() == second
