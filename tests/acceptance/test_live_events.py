"""``GET /scan/{id}/events``: pages, and streams that start anywhere and go on live."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import requests

from tests.acceptance.conftest import Running
from tests.acceptance.rest import REAL_PATCH, ok, request_scan, status_of


@contextmanager
def _stream(system: Running, scan: str, *, after: int | None = None) -> Iterator[Iterator[dict[str, Any]]]:
    headers = {"Authorization": f"Bearer {system.connection['user_token']}", "Accept": "text/event-stream"}
    if after is not None:
        headers["Last-Event-ID"] = str(after)
    response = requests.get(f"{system.connection['url']}/scan/{scan}/events", headers=headers, stream=True, timeout=120)
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/event-stream")
    with closing(response):
        yield _events(response)


def _events(response: requests.Response) -> Iterator[dict[str, Any]]:
    fields: dict[str, str] = {}
    for raw in response.iter_lines(chunk_size=1):
        line = raw.decode()
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            event = json.loads(fields["data"])
            assert (fields["id"], fields["event"]) == (str(event["version"]), event["type"])
            yield event
            fields = {}


def _report(system: Running, scan: str, summary: str) -> None:
    body = {"progress": REAL_PATCH["progress"] | {"summary": summary}}
    ok(system.call("PATCH", f"/scan/{scan}/manifest", body=body, role="system"))


def test_pages_lead_through_the_whole_history(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    for number in range(4):
        _report(quiet_system, scan, str(number))
    versions, after = [], 0
    while after is not None:
        page = quiet_system.get(f"/scan/{scan}/events?after={after}&limit=2")
        versions += [event["version"] for event in page["events"]]
        after = page["next"]
    assert versions == [1, 2, 3, 4, 5]


def test_a_stream_tells_the_past_and_goes_on_live(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    with _stream(quiet_system, scan) as events:
        assert next(events)["type"] == "scan.requested"
        for number in range(3):
            _report(quiet_system, scan, f"live {number}")
            assert next(events)["data"]["progress"]["summary"] == f"live {number}"
        ok(quiet_system.call("DELETE", f"/scan/{scan}"))
        assert next(events)["type"] == "scan.deleted"


def test_a_stream_starts_after_the_last_event_somebody_saw(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    for number in range(3):
        _report(quiet_system, scan, str(number))
    with _stream(quiet_system, scan, after=3) as events:
        assert next(events)["version"] == 4


def test_a_watcher_that_comes_back_misses_nothing_and_goes_on_live(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    with _stream(quiet_system, scan) as events:
        last = next(events)["version"]
    for number in range(3):
        _report(quiet_system, scan, f"meanwhile {number}")
    with _stream(quiet_system, scan, after=last) as events:
        told = [next(events)["data"]["progress"]["summary"] for _ in range(3)]
        for number in range(3):
            _report(quiet_system, scan, f"live {number}")
            told.append(next(events)["data"]["progress"]["summary"])
    assert told == [f"meanwhile {number}" for number in range(3)] + [f"live {number}" for number in range(3)]


def test_what_is_no_position_is_refused(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    for query in ("after=x", "after=-1", "limit=0", "limit=1001"):
        assert status_of(quiet_system, "GET", f"/scan/{scan}/events?{query}") == 400
    assert status_of(quiet_system, "GET", "/scan/00000000000x00000000000000000000/events") == 404
