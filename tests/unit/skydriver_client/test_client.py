"""Both clients against a server that answers as it is told: repetitions, errors, pages, redirects, streams."""

import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from skydriver_client import (
    AsyncScan,
    AsyncScans,
    AsyncSkyDriver,
    BadRequest,
    Conflict,
    ConnectionFailed,
    Forbidden,
    NotFound,
    RateLimited,
    Scan,
    ScanFailed,
    Scans,
    ServerError,
    SkyDriver,
    SkyDriverError,
    StatusError,
    Unauthorized,
    Unavailable,
    WaitTimedOut,
)  # fmt: skip

MANIFEST = {"scan_id": "s1", "timestamp": 1.5, "priority": 3, "classifiers": {"level": "gold"}, "of_the_future": {"kept": True}}
RUNNING = {"scan_state": "IN_PROGRESS__PARTIAL_RESULT_GENERATED", "scan_complete": False, "problems": []}
DONE = {"scan_state": "SCAN_HAS_FINAL_RESULT", "scan_complete": True, "problems": []}
STOPPED = {"scan_state": "STOPPED__PRESTARTUP", "scan_complete": False, "problems": [{"code": "c", "text": "no room"}]}
Answer = httpx2.Response | Exception


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(_: float) -> None:
        return

    monkeypatch.setattr("skydriver_client.sync_client.time.sleep", lambda _: None)
    monkeypatch.setattr("skydriver_client.async_client.asyncio.sleep", none)


class Server:
    """Gives its answers one after the other, the last one for ever, and keeps the requests."""

    def __init__(self, *answers: Answer | Callable[[httpx2.Request], Answer]) -> None:
        self.requests: list[httpx2.Request] = []
        self._answers = list(answers)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if callable(answer) and not isinstance(answer, httpx2.Response):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, **options: Any) -> SkyDriver:
        return SkyDriver("https://sky.test/prefix/", token="t", transport=httpx2.MockTransport(self), **options)


def ok(body: Any) -> httpx2.Response:
    return httpx2.Response(200, content=json.dumps(body).encode())


def refused(status: int, message: str = "no", **headers: str) -> httpx2.Response:
    return httpx2.Response(
        status, json={"message": message}, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )


def stream(*events: tuple[int, str], tail: bytes = b"") -> httpx2.Response:
    body = b"".join(
        f"id: {version}\nevent: {type_}\ndata: {json.dumps(event(version, type_))}\n\n".encode() for version, type_ in events
    )
    return httpx2.Response(200, content=body + tail)


def event(version: int, type_: str) -> dict[str, Any]:
    return {"version": version, "type": type_, "recorded_at": "2026-01-01T00:00:00+00:00", "actor": "a", "data": {}}


@pytest.mark.parametrize(("one", "other"), [(SkyDriver, AsyncSkyDriver), (Scans, AsyncScans), (Scan, AsyncScan)])
def test_both_clients_have_the_same_methods_with_the_same_parameters(one: type, other: type) -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        public = {name: each for name, each in vars(kind).items() if callable(each) and not name.startswith("_")}
        return {name: list(inspect.signature(each).parameters) for name, each in public.items()}

    assert methods(one) == methods(other)
    assert methods(one)


def test_a_post_is_repeated_with_the_key_of_its_first_attempt() -> None:
    server = Server(httpx2.ReadTimeout("silence"), refused(503, Retry_After="1"), ok(MANIFEST))
    with server.client() as skydriver:
        assert skydriver.scans.create({"docker_tag": "latest"}).scan_id == "s1"
        assert skydriver.scans.rescan("s1").scan_id == "s1"
    keys = [request.headers["Idempotency-Key"] for request in server.requests]
    assert len(set(keys[:3])) == 1
    assert keys[3] not in keys[:3]


def test_what_is_refused_for_good_is_not_repeated() -> None:
    server = Server(refused(422, "the scan\nhas ended"))
    with server.client() as skydriver, pytest.raises(Conflict, match="the scan has ended") as raised:
        skydriver.scans.add_workers("s1", 5, cluster="osg")
    assert raised.value.status == 422
    assert len(server.requests) == 1


def test_an_error_that_stays_is_raised_in_the_end() -> None:
    server = Server(httpx2.ConnectError("refused"))
    with server.client(max_retries=2) as skydriver, pytest.raises(ConnectionFailed, match="cannot reach"):
        skydriver.scan("s1").status()
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest), (401, Unauthorized), (403, Forbidden), (404, NotFound), (409, Conflict), (413, BadRequest), (418, StatusError),
        (422, Conflict), (429, RateLimited), (500, ServerError), (503, Unavailable),
    ],
)  # fmt: skip
def test_every_status_has_its_error(status: int, kind: type[StatusError]) -> None:
    with (
        Server(httpx2.Response(status, content=b"<html>")).client(max_retries=0) as skydriver,
        pytest.raises(StatusError) as raised,
    ):
        skydriver.scan("s1").status()
    assert type(raised.value) is kind
    assert str(status) in str(raised.value)


def test_another_service_behind_the_address_is_named_as_such() -> None:
    with (
        Server(httpx2.Response(200, content=b"<html>")).client() as skydriver,
        pytest.raises(SkyDriverError, match="check the url"),
    ):
        skydriver.scan("s1").status()


def test_a_replaced_scan_is_followed_with_method_and_body() -> None:
    server = Server(
        httpx2.Response(307, headers={"Location": "/prefix/scan/s2/actions/rescan"}), ok(MANIFEST | {"scan_id": "s3"})
    )
    with server.client() as skydriver:
        assert skydriver.scans.rescan("s1", replace=True).scan_id == "s3"
    first, second = server.requests
    assert (second.method, second.content) == ("POST", first.content)
    assert second.headers["Authorization"] == "Bearer t"


def test_unknown_fields_are_kept_and_values_cannot_be_changed() -> None:
    with Server(ok(MANIFEST)).client() as skydriver:
        scan = skydriver.scans.get("s1")
    assert scan.manifest is not None
    assert scan.manifest.raw["of_the_future"] == {"kept": True}
    with pytest.raises(AttributeError):
        scan.manifest.priority = 5  # type: ignore[misc]


def test_a_list_reads_only_the_pages_that_are_looked_at() -> None:
    rows = [{"scan_id": f"s{n}", "scan_state": "PENDING__PRESTARTUP", "timestamp": n} for n in range(4)]
    server = Server(ok({"scans": rows[:2], "next": "s1"}), ok({"scans": rows[2:], "next": None}))
    with server.client() as skydriver:
        listed = iter(skydriver.scans.list(state="running", classifiers={"level": "gold", "test": True}, since=5.5, limit=2))
        assert next(listed).scan_id == "s0"
        assert len(server.requests) == 1
        assert [each.scan_id for each in listed] == ["s1", "s2", "s3"]
    first, second = (dict(request.url.params.multi_items()) for request in server.requests)
    assert first["state"] == "running"
    assert first["since"] == "5.5"
    assert server.requests[0].url.params.get_list("classifier") == ["level:gold", "test:true"]
    assert second["after"] == "s1"


def test_an_older_server_without_a_list_is_named_as_such() -> None:
    with Server(refused(404)).client() as skydriver, pytest.raises(SkyDriverError, match="older than this library"):
        list(skydriver.scans.list())


def test_a_search_goes_from_page_to_page() -> None:
    server = Server(ok({"manifests": [{"scan_id": "a"}, {"scan_id": "b"}]}), ok({"manifests": [{"scan_id": "c"}]}))
    with server.client() as skydriver:
        found = [each.scan_id for each in skydriver.scans.find({"priority": 1}, fields=["priority"], limit=2)]
    assert found == ["a", "b", "c"]
    assert json.loads(server.requests[1].content)["after"] == "b"


def test_a_remix_is_the_request_with_changes() -> None:
    request = {"scan_id": "s1", "rescan_ids": ["x"], "reco_algo": "dummy", "priority": 1, "debug_mode": ["d"]}
    server = Server(ok(request), ok(MANIFEST))
    with server.client() as skydriver:
        skydriver.scans.remix("s1", {"priority": 9, "debug_mode": None})
    assert json.loads(server.requests[1].content) == {"reco_algo": "dummy", "priority": 9}


def test_no_result_is_none_and_a_result_has_its_best_pixel() -> None:
    nan = b'{"scan_id":"s","is_final":true,"skyscan_result":{"nside-8":{"columns":["index","llh"],"data":[[3,NaN],[4,2.5],[5,9.0]]}}}'
    with Server(ok({}), httpx2.Response(200, content=nan)).client() as skydriver:
        assert skydriver.scan("s").result() is None
        result = skydriver.scan("s").result()
    assert result is not None
    assert result.content == nan
    assert result.n_pixels == {8: 3}
    assert result.best_fit is not None
    assert (result.best_fit.pixel, result.best_fit.llh) == (4, 2.5)


def _live(*answers: Answer) -> Server:
    """History is empty; streams are answered one after the other; the scan runs until they are used up."""
    left = list(answers)

    def answer(request: httpx2.Request) -> Answer:
        if request.url.path.endswith("/status"):
            return ok(RUNNING if left else DONE)
        if request.headers["Accept"] == "text/event-stream":
            return left.pop(0)
        return ok({"events": [], "next": None})

    return Server(answer)


def test_a_stream_is_resumed_where_it_broke_off_and_gives_each_event_once() -> None:
    server = _live(
        stream((1, "scan.requested"), (2, "scan.launched"), tail=b"id: 3\nevent: cut"),
        httpx2.ReadTimeout("no heartbeat"),
        refused(503),
        stream((2, "scan.launched"), (3, "scan.progress-reported")),
    )
    with server.client() as skydriver:
        updates = list(skydriver.scan("s1").watch())
    assert [each.version for update in updates for each in update.events] == [1, 2, 3]
    assert updates[-1].status.is_complete
    asked = [request.headers["Last-Event-ID"] for request in server.requests if "Last-Event-ID" in request.headers]
    assert asked == ["0", "2", "2", "2"]


def test_a_stream_that_is_refused_is_not_tried_again() -> None:
    with _live(refused(403)).client() as skydriver, pytest.raises(Forbidden):
        list(skydriver.scan("s1").watch())


def test_waiting_ends_with_the_scan() -> None:
    with Server(ok({"events": [], "next": None}), ok(DONE)).client() as skydriver:
        assert skydriver.scan("s1").wait().is_complete
    with (
        Server(ok({"events": [], "next": None}), ok(STOPPED)).client() as skydriver,
        pytest.raises(ScanFailed, match="no room"),
    ):
        skydriver.scan("s1").wait()
    with _live(stream((1, "scan.result-received"))).client() as skydriver:
        assert skydriver.scan("s1").wait(until="any-result")
    with _live(httpx2.ReadTimeout("silence"), stream()).client() as skydriver, pytest.raises(WaitTimedOut, match="goes on"):
        skydriver.scan("s1").wait(timeout_s=0.0)
    with Server(ok({})).client() as skydriver, pytest.raises(ValueError, match="until"):
        skydriver.scan("s1").wait(until="tomorrow")


def test_a_token_function_is_asked_again_when_its_token_has_expired() -> None:
    tokens: Iterator[str] = iter(["old", "new"])
    server = Server(refused(401), ok(DONE))
    with SkyDriver("https://sky.test", token=lambda: next(tokens), transport=httpx2.MockTransport(server)) as skydriver:
        assert skydriver.scan("s1").status().is_complete
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer old", "Bearer new"]


async def test_the_asynchronous_client_does_the_same() -> None:
    async def token() -> str:
        return "t"

    rows = [{"scan_id": f"s{n}", "scan_state": "PENDING__PRESTARTUP", "timestamp": n} for n in range(2)]
    server = Server(ok({"scans": rows[:1], "next": "s0"}), ok({"scans": rows[1:], "next": None}), refused(503), ok(MANIFEST))
    async with AsyncSkyDriver("https://sky.test", token=token, transport=httpx2.MockTransport(server)) as skydriver:
        assert [each.scan_id async for each in skydriver.scans.list()] == ["s0", "s1"]
        assert (await skydriver.scans.create({})).scan_id == "s1"
    assert server.requests[2].headers["Idempotency-Key"] == server.requests[3].headers["Idempotency-Key"]
    live = _live(
        stream((1, "scan.requested")), httpx2.ReadTimeout("silence"), stream((1, "scan.requested"), (2, "scan.launched"))
    )
    async with AsyncSkyDriver("https://sky.test", token="t", transport=httpx2.MockTransport(live)) as skydriver:
        assert (await skydriver.scan("s1").wait()).is_complete
    asked = [request.headers["Last-Event-ID"] for request in live.requests if "Last-Event-ID" in request.headers]
    assert asked == ["0", "1", "1"]
