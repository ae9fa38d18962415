"""An ``Idempotency-Key`` makes a POST safe to repeat, whatever happened to the scan meanwhile. Source: REST contract 1.10."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from skydriver_common.model.events import WorkersAdded
from tests.acceptance.conftest import Running, sample_event, scan_request
from tests.acceptance.rest import ok, request_scan
from tests.support.waiting import wait_until

REPLACING = {"replace_scan": True, "abort_first": True}


def _post(system: Running, path: str, body: Any, key: str) -> requests.Response:
    """A POST as a client sends it that follows redirects."""
    return requests.post(
        system.connection["url"] + path, data=json.dumps(body), timeout=30,
        headers={"Authorization": f"Bearer {system.connection['user_token']}", "Idempotency-Key": key},
    )  # fmt: skip


def _key() -> str:
    return uuid.uuid4().hex


def test_a_key_is_good_for_one_body(quiet_system: Running) -> None:
    key = _key()
    first = ok(_post(quiet_system, "/scan", scan_request(sample_event()), key))
    assert ok(_post(quiet_system, "/scan", scan_request(sample_event()), key)) == first
    other = _post(quiet_system, "/scan", scan_request(sample_event(), priority=3), key)
    assert other.status_code == 422
    assert "Idempotency-Key" in other.reason


def test_a_repeated_rescan_is_not_sent_on_to_the_scan_it_made(quiet_system: Running) -> None:
    scan, key = request_scan(quiet_system)["scan_id"], _key()
    made = ok(_post(quiet_system, f"/scan/{scan}/actions/rescan", REPLACING, key))
    again = ok(_post(quiet_system, f"/scan/{scan}/actions/rescan", REPLACING, key))
    assert again == made
    assert quiet_system.get(f"/scan/{made['scan_id']}/manifest")["is_deleted"] is False
    assert quiet_system.get(f"/scan-request/{scan}")["rescan_ids"] == [made["scan_id"]]
    other = _post(quiet_system, f"/scan/{scan}/actions/rescan", {"replace_scan": True}, key)
    assert other.status_code == 422


def test_a_rescan_that_was_sent_on_is_recognised_at_the_end_of_the_chain(quiet_system: Running) -> None:
    scan, key = request_scan(quiet_system)["scan_id"], _key()
    ok(_post(quiet_system, f"/scan/{scan}/actions/rescan", REPLACING, _key()))
    made = ok(_post(quiet_system, f"/scan/{scan}/actions/rescan", REPLACING, key))
    assert made["classifiers"]["origin_scan_id"] != scan
    assert ok(_post(quiet_system, f"/scan/{scan}/actions/rescan", REPLACING, key)) == made
    assert len(quiet_system.get(f"/scan-request/{scan}")["rescan_ids"]) == 2


def test_of_rescans_at_once_with_one_key_one_is_made(quiet_system: Running) -> None:
    scan, key = request_scan(quiet_system)["scan_id"], _key()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: _post(quiet_system, f"/scan/{scan}/actions/rescan", REPLACING, key), range(8)))
    assert len({ok(answer)["scan_id"] for answer in answers}) == 1
    assert len(quiet_system.get(f"/scan-request/{scan}")["rescan_ids"]) == 1


def test_workers_are_added_once_for_one_key(system: Running) -> None:
    scan = request_scan(system, nsides={"64": 0}, max_pixel_reco_time=60)["scan_id"]
    path, body, key = f"/scan/{scan}/actions/add-workers", {"n_workers": 1, "cluster_location": "osg"}, _key()
    wait_until(lambda: system.get(f"/scan/{scan}/ewms/taskforces")["taskforces"], 60, "workers at EWMS")
    added = ok(_post(system, path, body, key))
    ok(_post(system, f"/scan/{scan}/actions/rescan", REPLACING, _key()))
    assert ok(_post(system, path, body, key)) == added
    assert _post(system, path, body | {"n_workers": 2}, key).status_code == 422
    events = system.get(f"/scan/{scan}/events?limit=1000")["events"]
    assert [event["type"] for event in events].count(WorkersAdded.type) == 1


def test_what_is_no_key_is_refused(quiet_system: Running) -> None:
    for key in ("", "k" * 256, "\xff", "a\tb"):
        answer = requests.post(
            quiet_system.connection["url"] + "/scan", data=json.dumps(scan_request(sample_event())), timeout=120,
            headers={
                "Authorization": f"Bearer {quiet_system.connection['user_token']}", "Idempotency-Key": key.encode("latin-1"),
            },
        )  # fmt: skip
        assert (key, answer.status_code) == (key, 400)
        assert "Idempotency-Key" in answer.reason
