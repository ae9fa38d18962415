"""REST contract 13, cases 15 to 37: the life of a scan."""

import json
from typing import Any

import psycopg
import pytest
import requests

from tests.acceptance.conftest import Running, sample_event, scan_request
from tests.acceptance.rest import REAL_PATCH, ok, request_scan, status_of
from tests.support.waiting import wait_until

SKYMAP = {"nside-8": {"columns": ["index", "llh", "E_in", "E_tot"], "metadata": {}, "data": [[0, 1.5, 2.0, 3.0]]}}


def test_15_a_rescan_of_a_rescan_goes_back_to_the_original(quiet_system: Running) -> None:
    a = request_scan(quiet_system, classifiers={"by": "me"})["scan_id"]
    b = _rescan(quiet_system, a, replace_scan=True)["scan_id"]
    third = _rescan(quiet_system, b, no_redirect=True)
    assert third["classifiers"] == {"by": "me", "rescan": True, "origin_scan_id": b}
    assert quiet_system.get(f"/scan-request/{a}")["rescan_ids"] == [b, third["scan_id"]]
    assert quiet_system.get(f"/scan-request/{b}")["scan_id"] == a


@pytest.fixture(scope="module")
def chain(quiet_system: Running) -> tuple[str, str, str]:
    """A replaced by B replaced by C."""
    a = request_scan(quiet_system)["scan_id"]
    b = _rescan(quiet_system, a, replace_scan=True)["scan_id"]
    c = _rescan(quiet_system, b, replace_scan=True)["scan_id"]
    return a, b, c


def test_16_readers_are_sent_to_the_end_of_the_chain_at_once(quiet_system: Running, chain: tuple[str, str, str]) -> None:
    a, _, c = chain
    answer = quiet_system.call("GET", f"/scan/{a}/manifest?projection=scan_id&x={a}")
    assert answer.status_code == 307
    assert answer.headers["Location"] == f"/scan/{c}/manifest?projection=scan_id&x={a}"


def test_17_a_replaced_scan_can_be_looked_at(quiet_system: Running, chain: tuple[str, str, str]) -> None:
    a, b, _ = chain
    manifest = quiet_system.get(f"/scan/{a}/manifest?no_redirect=True")
    assert (manifest["scan_id"], manifest["replaced_by_scan_id"]) == (a, b)


def test_18_a_scanner_always_sees_its_own_scan(quiet_system: Running, chain: tuple[str, str, str]) -> None:
    status = quiet_system.get(f"/scan/{chain[0]}/status", role="system")
    assert status["is_deleted"] is False


def test_19_a_deletion_is_redirected_as_a_deletion(quiet_system: Running) -> None:
    a = request_scan(quiet_system)["scan_id"]
    b = _rescan(quiet_system, a, replace_scan=True)["scan_id"]
    answer = requests.delete(
        f"{quiet_system.connection['url']}/scan/{a}", data="{}", timeout=30,
        headers={"Authorization": f"Bearer {quiet_system.connection['user_token']}"},
    )  # fmt: skip
    assert ok(answer)["manifest"]["scan_id"] == b
    assert _is_deleted(quiet_system, b)
    assert not _is_deleted(quiet_system, a)


def test_20_a_deletion_without_redirect_is_of_this_very_scan(quiet_system: Running) -> None:
    a = request_scan(quiet_system)["scan_id"]
    b = _rescan(quiet_system, a, replace_scan=True)["scan_id"]
    ok(quiet_system.call("DELETE", f"/scan/{a}", body={"no_redirect": True}))
    assert _is_deleted(quiet_system, a)
    assert not _is_deleted(quiet_system, b)


def test_no_redirect_is_understood_in_the_query_of_every_method(quiet_system: Running) -> None:
    a = request_scan(quiet_system)["scan_id"]
    b = _rescan(quiet_system, a, replace_scan=True)["scan_id"]
    made = ok(quiet_system.call("POST", f"/scan/{a}/actions/rescan?no_redirect=True", body={}))
    assert made["classifiers"]["origin_scan_id"] == a
    ok(quiet_system.call("DELETE", f"/scan/{a}?no_redirect=True", body={"no_redirect": False}))
    assert _is_deleted(quiet_system, a)
    assert not _is_deleted(quiet_system, b)
    assert status_of(quiet_system, "DELETE", f"/scan/{a}?no_redirect=perhaps", body={}) == 400


def test_a_redirected_post_keeps_its_body(quiet_system: Running) -> None:
    a = request_scan(quiet_system)["scan_id"]
    b = _rescan(quiet_system, a, replace_scan=True)["scan_id"]
    body: dict[str, Any] = {"replace_scan": True, "manifest_projection": ["scan_id", "classifiers"]}
    seen = quiet_system.call("POST", f"/scan/{a}/actions/rescan?x=1", body=body)
    assert (seen.status_code, seen.headers["Location"]) == (307, f"/scan/{b}/actions/rescan?x=1")
    made = ok(
        requests.post(
            f"{quiet_system.connection['url']}/scan/{a}/actions/rescan", json=body, timeout=30,
            headers={"Authorization": f"Bearer {quiet_system.connection['user_token']}"},
        )
    )  # fmt: skip
    assert set(made) == {"scan_id", "classifiers"}
    assert made["classifiers"]["origin_scan_id"] == b
    assert quiet_system.get(f"/scan/{b}/manifest?no_redirect=1")["replaced_by_scan_id"] == made["scan_id"]


def test_replacements_in_a_circle_lead_nowhere(quiet_system: Running) -> None:
    a = request_scan(quiet_system)["scan_id"]
    b = _rescan(quiet_system, a, replace_scan=True)["scan_id"]
    with psycopg.connect(quiet_system.connection["database_url"], autocommit=True) as connection:  # corrupt data
        connection.execute("UPDATE manifests SET replaced_by = %s WHERE scan_id = %s", (a, b))
    for scan in (a, b):
        assert quiet_system.get(f"/scan/{scan}/manifest")["scan_id"] == scan
    made = _rescan(quiet_system, a, abort_first=True)
    assert made["classifiers"]["origin_scan_id"] == a


def test_21_a_completed_scan_is_deleted_on_purpose_only(quiet_system: Running) -> None:
    scan = _with_final_result(quiet_system)
    assert status_of(quiet_system, "DELETE", f"/scan/{scan}", body={}) == 400
    assert not _is_deleted(quiet_system, scan)
    first, second = (
        ok(quiet_system.call("DELETE", f"/scan/{scan}", body={"delete_completed_scan": True}))["manifest"] for _ in range(2)
    )
    assert first["is_deleted"]
    assert second["last_updated"] > first["last_updated"]


def test_22_a_deleted_scan_is_hidden_until_asked_for(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    told = ok(quiet_system.call("DELETE", f"/scan/{scan}", body={}))
    for path in ("", "/manifest", "/result"):
        for query in ("", "?include_deleted=False"):
            assert status_of(quiet_system, "GET", f"/scan/{scan}{path}{query}") == 404
        assert status_of(quiet_system, "GET", f"/scan/{scan}{path}?include_deleted=True") == 200
    assert quiet_system.get(f"/scan/{scan}?include_deleted=True") == told


def test_23_other_routes_know_deleted_scans(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    ok(quiet_system.call("DELETE", f"/scan/{scan}"))
    for path in ("logs", "i3-event", "ewms/workflow-id", "ewms/workforce", "ewms/taskforces", "events"):
        assert status_of(quiet_system, "GET", f"/scan/{scan}/{path}") == 200
    assert quiet_system.get(f"/scan/{scan}/status")["is_deleted"] is True


def test_24_unknown_scans_are_not_found_and_not_made(quiet_system: Running) -> None:
    path = "/scan/00000000000x00000000000000000000"
    assert status_of(quiet_system, "DELETE", f"{path}?no_redirect=true", body={}) == 404
    assert status_of(quiet_system, "PATCH", f"{path}/manifest", body=REAL_PATCH, role="system") == 404
    result = {"skyscan_result": SKYMAP, "is_final": True}
    assert status_of(quiet_system, "PUT", f"{path}/result", body=result, role="system") == 404
    query = {"filter": {"scan_id": "00000000000x00000000000000000000"}, "include_deleted": True}
    assert ok(quiet_system.call("POST", "/scans/find", body=query)) == {"manifests": []}


def test_25_a_waiting_scan_that_is_deleted_never_starts(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    ok(quiet_system.call("DELETE", f"/scan/{scan}"))
    assert scan not in [entry["scan_id"] for entry in quiet_system.get("/scans/backlog")["entries"]]
    assert quiet_system.get(f"/scan/{scan}/status")["scan_state"] == "ABORTED__PRESTARTUP"
    assert not (quiet_system.data_dir / "work" / scan).exists()


def test_26_scanners_see_the_event_and_people_its_id(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    assert quiet_system.get(f"/scan/{scan}/manifest", role="system")["event_i3live_json_dict"] == sample_event()
    assert quiet_system.get(f"/scan/{scan}/manifest")["event_i3live_json_dict"] == "use 'i3_event_id'"


@pytest.mark.parametrize("is_text", [False, True], ids=["object", "text"])
def test_26_an_event_with_nan_comes_back_as_it_was(quiet_system: Running, is_text: bool) -> None:
    event = b'{"run": 1, "values": [NaN, -Infinity, 1.50], "text": "\xc3\xa9", "nested": {"x": Infinity}}'
    sent = json.dumps(event.decode(), ensure_ascii=False).encode() if is_text else event
    request = json.dumps(scan_request("EVENT")).encode().replace(b'"EVENT"', sent)
    scan = ok(quiet_system.call("POST", "/scan", raw=request))["scan_id"]
    assert event in quiet_system.call("GET", f"/scan/{scan}/i3-event").content
    assert event in quiet_system.call("GET", f"/scan/{scan}/manifest", role="system").content
    for path in (f"/scan/{scan}/manifest", f"/scan/{scan}", f"/scan-request/{scan}"):
        assert b"NaN" not in quiet_system.call("GET", path).content
    elsewhere = json.dumps(scan_request(sample_event(), predictive_scanning_threshold=1)).encode()
    elsewhere = elsewhere.replace(b'"predictive_scanning_threshold": 1', b'"predictive_scanning_threshold": NaN')
    refused = quiet_system.call("POST", "/scan", raw=elsewhere)
    assert refused.status_code == 400
    assert "predictive_scanning_threshold" in refused.reason


def test_27_a_scanners_real_report_is_taken(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    manifest = ok(_patch(quiet_system, scan, REAL_PATCH))
    assert set(manifest["event_metadata"]) == {"run_id", "event_id", "event_type", "mjd", "is_real_event"}
    stats = manifest["progress"]["processing_stats"]
    assert (stats["rate"], stats["end"], stats["finished"], stats["predictions"]) == ({}, "", False, {})
    assert "of the future" not in manifest["progress"]


def test_28_metadata_is_put_once_and_takes_the_report_with_it(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    ok(_patch(quiet_system, scan, REAL_PATCH))
    newer = REAL_PATCH["progress"] | {"summary": "newer"}
    assert ok(_patch(quiet_system, scan, REAL_PATCH | {"progress": newer}))["progress"]["summary"] == "newer"
    other = REAL_PATCH["event_metadata"] | {"run_id": 99}
    newest = REAL_PATCH["progress"] | {"summary": "newest"}
    assert _patch(quiet_system, scan, {"progress": newest, "event_metadata": other}).status_code == 400
    manifest = quiet_system.get(f"/scan/{scan}/manifest")
    assert (manifest["progress"]["summary"], manifest["event_metadata"]["run_id"]) == ("newer", 1)


def test_29_nothing_new_changes_nothing(quiet_system: Running) -> None:
    before = request_scan(quiet_system)
    harmless: list[dict[str, Any]] = [{}, {"progress": None}]
    wrong: list[dict[str, Any]] = [{"progress": {}}, {"scan_metadata": None}, {"foo": 1}]
    for body in harmless:
        assert ok(_patch(quiet_system, before["scan_id"], body)) == before
    for body in wrong:
        assert _patch(quiet_system, before["scan_id"], body).status_code == 400
    assert quiet_system.get(f"/scan/{before['scan_id']}/manifest") == before


def test_30_an_empty_skymap_is_answered_and_not_stored(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    before = quiet_system.get(f"/scan/{scan}/status")
    assert ok(_put(quiet_system, scan, {}, is_final=True)) == {}
    assert quiet_system.get(f"/scan/{scan}/result") == {}
    assert quiet_system.get(f"/scan/{scan}/status") == before


def test_31_a_skymap_with_nan_comes_back_as_it_was_and_moves_nothing_else(quiet_system: Running) -> None:
    before = request_scan(quiet_system)
    scan = before["scan_id"]
    skymap = b'{"nside-8": {"columns": ["index", "llh"], "data": [[1, NaN], [0, -Infinity], [2, 1.50]]}}'
    put = quiet_system.call(
        "PUT", f"/scan/{scan}/result", raw=b'{"skyscan_result": %b, "is_final": false}' % skymap, role="system"
    )
    assert put.status_code == 200
    assert skymap in quiet_system.call("GET", f"/scan/{scan}/result").content
    assert quiet_system.get(f"/scan/{scan}/manifest") == before


def test_32_the_final_result_stays_and_the_last_progress_is_taken(quiet_system: Running) -> None:
    scan = _with_final_result(quiet_system)
    late = ok(_put(quiet_system, scan, {"nside-1": {}}, is_final=False))
    assert (late["skyscan_result"], late["is_final"]) == (SKYMAP, True)
    assert quiet_system.get(f"/scan/{scan}/result")["skyscan_result"] == SKYMAP
    last = REAL_PATCH["progress"] | {"summary": "the last"}
    assert ok(_patch(quiet_system, scan, {"progress": last}))["progress"]["summary"] == "the last"


def test_35_a_scans_state_tells_how_far_it_came(system: Running) -> None:
    scan = request_scan(system, nsides={"32": 0}, max_pixel_reco_time=30)["scan_id"]
    wait_until(lambda: system.get(f"/scan/{scan}/ewms/workflow-id")["requested_ewms_workflow"], 60, "a workflow")
    ok(system.call("DELETE", f"/scan/{scan}"))
    wait_until(lambda: system.get(f"/scan/{scan}/status")["ewms_deactivated"] == "ABORTED", 60, "EWMS says so")
    wait_until(lambda: not (system.data_dir / "work" / scan / "scanner.pid.json").exists(), 60, "the scanner is gone")
    progress = REAL_PATCH["progress"]
    ok(_patch(system, scan, {"progress": progress}))
    assert system.get(f"/scan/{scan}/status")["scan_state"] == "ABORTED__WAITING_ON_FIRST_PIXEL_RECO"
    rated = progress | {"processing_stats": progress["processing_stats"] | {"rate": {"all recos": {}}}}
    ok(_patch(system, scan, {"progress": rated}))
    assert system.get(f"/scan/{scan}/status")["scan_state"] == "ABORTED__PARTIAL_RESULT_GENERATED"
    ok(_put(system, scan, SKYMAP, is_final=True))
    assert system.get(f"/scan/{scan}/status")["scan_state"] == "SCAN_HAS_FINAL_RESULT"


def test_36_a_workflow_is_assigned_once(quiet_system: Running) -> None:
    path = f"/scan/{request_scan(quiet_system)['scan_id']}/ewms/workflow-id"
    body = {"workflow_id": "WF-1", "ewms_address": "http://ewms.test"}
    first, again = (ok(quiet_system.call("POST", path, body=body, role="system")) for _ in range(2))
    assert first == again
    assert status_of(quiet_system, "POST", path, body=body | {"workflow_id": "WF-2"}, role="system") == 404
    deleted = request_scan(quiet_system)["scan_id"]
    ok(quiet_system.call("DELETE", f"/scan/{deleted}"))
    assert status_of(quiet_system, "POST", f"/scan/{deleted}/ewms/workflow-id", body=body, role="system") == 404
    assert status_of(quiet_system, "POST", path, body={"workflow_id": " "}, role="system") == 400


def test_37_workers_are_added_where_there_is_a_workflow(quiet_system: Running, system: Running) -> None:
    body = {"n_workers": 1, "cluster_location": "osg"}
    waiting = request_scan(quiet_system)["scan_id"]
    assert status_of(quiet_system, "POST", f"/scan/{waiting}/actions/add-workers", body=body) == 422
    ok(quiet_system.call("DELETE", f"/scan/{waiting}"))
    assert status_of(quiet_system, "POST", f"/scan/{waiting}/actions/add-workers", body=body) == 422
    complete = _with_final_result(quiet_system)
    assert status_of(quiet_system, "POST", f"/scan/{complete}/actions/add-workers", body=body) == 422
    running = request_scan(system, nsides={"32": 0}, max_pixel_reco_time=30)["scan_id"]
    wait_until(lambda: system.get(f"/scan/{running}/ewms/taskforces")["taskforces"], 60, "workers at EWMS")
    added = ok(system.call("POST", f"/scan/{running}/actions/add-workers", body=body))
    assert set(added) == {"taskforce_uuid", "n_workers"}
    assert status_of(system, "POST", f"/scan/{running}/actions/add-workers", body=body | {"cluster_location": "moon"}) == 400
    ok(system.call("DELETE", f"/scan/{running}"))


def _rescan(system: Running, scan: str, **body: Any) -> Any:
    return ok(system.call("POST", f"/scan/{scan}/actions/rescan", body=body))


def _patch(system: Running, scan: str, body: dict[str, Any]) -> requests.Response:
    return system.call("PATCH", f"/scan/{scan}/manifest", body=body, role="system")


def _put(system: Running, scan: str, skymap: dict[str, Any], *, is_final: bool) -> requests.Response:
    return system.call("PUT", f"/scan/{scan}/result", body={"skyscan_result": skymap, "is_final": is_final}, role="system")


def _with_final_result(system: Running) -> str:
    scan = str(request_scan(system)["scan_id"])
    assert json.loads(_put(system, scan, SKYMAP, is_final=True).content)["is_final"] is True
    return scan


def _is_deleted(system: Running, scan: str) -> bool:
    return bool(system.get(f"/scan/{scan}/manifest?include_deleted=True&no_redirect=True")["is_deleted"])


@pytest.mark.parametrize("priority", [-(2**63), -(2**40), -(2**31) + 1])
def test_a_priority_of_64_bits_keeps_its_digits_while_the_scan_waits(quiet_system: Running, priority: int) -> None:
    manifest = request_scan(quiet_system, priority=priority)
    scan = manifest["scan_id"]
    entries = {entry["scan_id"]: entry for entry in quiet_system.get("/scans/backlog")["entries"]}
    assert manifest["priority"] == priority
    assert entries[scan]["priority"] == priority
    found = ok(quiet_system.call("POST", "/scans/find", body={"filter": {"priority": priority, "scan_id": scan}}))
    assert [each["priority"] for each in found["manifests"]] == [priority]
    ok(quiet_system.call("DELETE", f"/scan/{scan}"))


def test_the_highest_priority_is_launched_and_told_as_it_was_sent(system: Running) -> None:
    scan = request_scan(system, priority=2**63 - 1)["scan_id"]
    assert system.get(f"/scan-request/{scan}")["priority"] == 2**63 - 1
    assert system.get(f"/scan/{scan}/manifest")["priority"] == 2**63 - 1
    ok(system.call("DELETE", f"/scan/{scan}"))
