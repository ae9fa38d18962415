"""Real parallel requests: exactly one winner."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import requests

from tests.acceptance.conftest import Running, sample_event, scan_request
from tests.acceptance.rest import REAL_PATCH, ok, request_scan
from tests.support.waiting import block, wait_until

TOGETHER = 12


def _together(call: Callable[[int], requests.Response]) -> list[requests.Response]:
    with ThreadPoolExecutor(TOGETHER) as threads:
        return list(threads.map(call, range(TOGETHER)))


def test_of_different_metadata_one_is_put(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]

    def patch(number: int) -> requests.Response:
        body = {"event_metadata": REAL_PATCH["event_metadata"] | {"run_id": number}}
        return quiet_system.call("PATCH", f"/scan/{scan}/manifest", body=body, role="system")

    answers = _together(patch)
    won = [answer.json()["event_metadata"]["run_id"] for answer in answers if answer.status_code == 200]
    assert len(won) == 1
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * (TOGETHER - 1)
    assert quiet_system.get(f"/scan/{scan}/manifest")["event_metadata"]["run_id"] == won[0]


def test_one_idempotency_key_makes_one_scan(quiet_system: Running) -> None:
    body = json.dumps(scan_request(sample_event(), classifiers={"by": "one key"}))
    headers = {"Authorization": f"Bearer {quiet_system.connection['user_token']}", "Idempotency-Key": "all at once"}
    answers = _together(
        lambda _: requests.post(quiet_system.connection["url"] + "/scan", data=body, headers=headers, timeout=120)
    )
    assert len({ok(answer)["scan_id"] for answer in answers}) == 1
    query = {"filter": {"classifiers.by": "one key"}}
    assert len(ok(quiet_system.call("POST", "/scans/find", body=query))["manifests"]) == 1


def test_deletions_agree(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    answers = _together(lambda _: quiet_system.call("DELETE", f"/scan/{scan}", body={}))
    updates = [ok(answer)["manifest"]["last_updated"] for answer in answers]
    assert len(set(updates)) == TOGETHER
    assert quiet_system.get(f"/scan/{scan}/manifest?include_deleted=1")["last_updated"] == max(updates)


def test_each_rescan_is_noted_and_the_latest_replacement_stands(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    body = {"replace_scan": True, "no_redirect": True}
    answers = _together(lambda _: quiet_system.call("POST", f"/scan/{scan}/actions/rescan", body=body))
    made = [ok(answer)["scan_id"] for answer in answers]
    rescans = quiet_system.get(f"/scan-request/{scan}")["rescan_ids"]
    assert sorted(rescans) == sorted(made)
    assert quiet_system.get(f"/scan/{scan}/manifest?no_redirect=1")["replaced_by_scan_id"] == rescans[-1]


def test_a_partial_result_never_wins_over_the_final_one(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]

    def put(number: int) -> requests.Response:
        body: dict[str, Any] = {"skyscan_result": {"nside-1": {"n": number}}, "is_final": number == 5}
        return quiet_system.call("PUT", f"/scan/{scan}/result", body=body, role="system")

    for answer in _together(put):
        ok(answer)
    result = quiet_system.get(f"/scan/{scan}/result")
    assert (result["is_final"], result["skyscan_result"]["nside-1"]["n"]) == (True, 5)


def test_a_deletion_wins_over_the_launch(system: Running) -> None:
    """Each scan is deleted at another moment of its launch, while others are being launched."""
    with ThreadPoolExecutor(6) as threads:
        scans = list(threads.map(lambda number: _request_and_delete(system, after_s=0.15 * number), range(8)))
    for scan in scans:
        wait_until(partial(_is_at_rest, system, scan), 60, "nothing of the scan is left")
        types = [event["type"] for event in system.get(f"/scan/{scan}/events?limit=1000")["events"]]
        assert "scan.launched" not in types[types.index("scan.deleted") :]


def _request_and_delete(system: Running, *, after_s: float) -> str:
    scan = str(request_scan(system, nsides={"32": 0}, priority=100)["scan_id"])
    block(after_s)  # to come at another moment
    ok(system.call("DELETE", f"/scan/{scan}"))
    return scan


def _is_at_rest(system: Running, scan: str) -> bool:
    """No scanner server, nothing on the backlog, and at EWMS no workflow that goes on."""
    status = system.get(f"/scan/{scan}/status")
    workflow = system.get(f"/scan/{scan}/ewms/workflow-id")
    return (
        status["scan_state"].startswith("ABORTED__")
        and (status["ewms_deactivated"] == "ABORTED" or not workflow["requested_ewms_workflow"])
        and not (system.data_dir / "work" / scan / "scanner.pid.json").exists()
        and scan not in [entry["scan_id"] for entry in system.get("/scans/backlog")["entries"]]
    )


def test_a_deletion_and_a_rescan_that_aborts_agree(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    rescan = {"abort_first": True, "replace_scan": True, "no_redirect": True}

    def call(number: int) -> requests.Response:
        if number % 2:
            return quiet_system.call("DELETE", f"/scan/{scan}", body={"no_redirect": True})
        return quiet_system.call("POST", f"/scan/{scan}/actions/rescan", body=rescan)

    answers = [ok(answer) for answer in _together(call)]
    assert all(answer["manifest"]["is_deleted"] for answer in answers[1::2])
    made = {answer["scan_id"] for answer in answers[::2]}
    assert len(made) == TOGETHER // 2
    waiting = {entry["scan_id"] for entry in quiet_system.get("/scans/backlog")["entries"]}
    assert made <= waiting
    assert scan not in waiting
    assert quiet_system.get(f"/scan/{scan}/manifest?no_redirect=1&include_deleted=1")["is_deleted"]
    for each in made:
        assert quiet_system.get(f"/scan/{each}/manifest")["is_deleted"] is False
