"""REST contract 13, cases 1 to 14 and 38 to 40: what may be asked for, found, and by whom."""

import re
from typing import Any

import pytest

from tests.acceptance.conftest import Running, sample_event, scan_request
from tests.acceptance.rest import SYSTEM_ROLE, ok, request_scan, status_of, token, with_token


def test_1_a_new_scan_has_all_its_fields_and_waits(quiet_system: Running) -> None:
    manifest = request_scan(quiet_system, cluster={"osg": 1})
    assert re.fullmatch(r"[0-9a-f]{11}x[0-9a-f]{20}", manifest["scan_id"])
    assert manifest["ewms_workflow_id"] == "not-yet-requested"
    assert manifest["ewms_task"] == "use 'ewms_workflow_id'"
    assert manifest["event_i3live_json_dict"] == "use 'i3_event_id'"
    assert manifest["timestamp"] < manifest["last_updated"]
    waiting = [entry["scan_id"] for entry in quiet_system.get("/scans/backlog")["entries"]]
    assert waiting.count(manifest["scan_id"]) == 1


def test_2_an_empty_body_names_all_required_fields_and_stores_nothing(quiet_system: Running) -> None:
    before = _all_ids(quiet_system)
    answer = quiet_system.call("POST", "/scan", body={})
    assert answer.status_code == 400
    for field in ("docker_tag", "reco_algo", "nsides", "real_or_simulated_event", "max_pixel_reco_time"):
        assert field in answer.reason
    assert _all_ids(quiet_system) == before


def test_3_ids_are_no_inputs(quiet_system: Running) -> None:
    answer = quiet_system.call("POST", "/scan", body=scan_request(sample_event(), scan_id="x", rescan_ids=[]))
    assert answer.status_code == 400
    assert "scan_id" in answer.reason
    assert "rescan_ids" in answer.reason


def test_4_exactly_one_event_is_given(quiet_system: Running) -> None:
    stored = request_scan(quiet_system)["i3_event_id"]
    both = scan_request(sample_event(), i3_event_id=stored)
    neither = {name: value for name, value in both.items() if name not in ("event_i3live_json", "i3_event_id")}
    assert status_of(quiet_system, "POST", "/scan", body=both) == 400
    assert status_of(quiet_system, "POST", "/scan", body=neither) == 400
    assert request_scan(quiet_system, event_i3live_json={}, i3_event_id=stored)["i3_event_id"] == stored


@pytest.mark.parametrize("event", ["[1]", "", "{broken}", "{}"])
def test_5_an_event_as_text_must_be_an_object(quiet_system: Running, event: str) -> None:
    assert status_of(quiet_system, "POST", "/scan", body=scan_request(event)) == 400


def test_6_an_unknown_event_id_is_a_wrong_input(quiet_system: Running) -> None:
    assert status_of(quiet_system, "POST", "/scan", body=scan_request({}, i3_event_id="0" * 32)) == 400


def test_7_memory_is_not_used_any_more(quiet_system: Running) -> None:
    refused = quiet_system.call("POST", "/scan", body=scan_request(sample_event(), memory="8G"))
    assert refused.status_code == 400
    assert "worker_memory_bytes" in refused.reason
    request_scan(quiet_system, memory="")


def test_8_the_older_name_counts_when_the_new_one_is_empty(quiet_system: Running) -> None:
    scan = request_scan(quiet_system, worker_memory_bytes=0, worker_memory="4GiB")["scan_id"]
    assert quiet_system.get(f"/scan-request/{scan}")["worker_memory_bytes"] == 4294967296


def test_9_sizes_are_read_as_people_write_them(quiet_system: Running) -> None:
    scan = request_scan(quiet_system, worker_disk="4Gi")["scan_id"]
    assert quiet_system.get(f"/scan-request/{scan}")["worker_disk_bytes"] == 4000000000
    for size in ("1e3", "0.5"):
        assert status_of(quiet_system, "POST", "/scan", body=scan_request(sample_event(), worker_disk=size)) == 400


def test_10_client_logs_cap_the_workers_of_a_cluster(quiet_system: Running) -> None:
    body = scan_request(sample_event(), debug_mode="client-logs", cluster=[["osg", 60], ["osg", 60]])
    answer = quiet_system.call("POST", "/scan", body=body)
    assert answer.status_code == 400
    assert "osg" in answer.reason


@pytest.mark.parametrize(
    ("tag", "resolved"), [("v3.1", "3.1.5"), ("3", "3.10.0"), ("latest", "4.0.1"), ("V4.0.1", "4.0.1"), ("../x", None), ("nope", None)]
)  # fmt: skip
def test_11_a_docker_tag_is_resolved(quiet_system: Running, tag: str, resolved: str | None) -> None:
    answer = quiet_system.call("POST", "/scan", body=scan_request(sample_event(), docker_tag=tag))
    if resolved is None:
        assert answer.status_code == 400
        assert "docker_tag" in answer.reason
    else:
        assert quiet_system.get(f"/scan-request/{ok(answer)['scan_id']}")["docker_tag"] == resolved


def test_12_nsides_keep_the_order_they_were_posted_in(quiet_system: Running) -> None:
    manifest = request_scan(quiet_system, nsides={"512": 12, "8": 0, "64": 12})
    assert "--nsides 512:12 8:0 64:12" in manifest["scanner_server_args"]
    assert list(quiet_system.get(f"/scan-request/{manifest['scan_id']}")["nsides"]) == ["512", "8", "64"]


def test_13_a_scan_request_can_be_posted_again(quiet_system: Running) -> None:
    first = request_scan(quiet_system, debug_mode="client-logs", classifiers={"a": None}, scanner_server_env={"B": True})
    request = quiet_system.get(f"/scan-request/{first['scan_id']}")
    again = {name: value for name, value in request.items() if name not in ("scan_id", "rescan_ids")}
    second = ok(quiet_system.call("POST", "/scan", body=again))
    assert second["scan_id"] != first["scan_id"]
    assert second["i3_event_id"] == first["i3_event_id"]
    assert quiet_system.get(f"/scan-request/{second['scan_id']}") == request | {"scan_id": second["scan_id"]}


@pytest.mark.parametrize("classifiers", [{"k" * 26: 1}, {f"k{i}": 1 for i in range(26)}, {"rescan": True}, {"a": [1]}])
def test_14_classifiers_have_limits(quiet_system: Running, classifiers: dict[str, Any]) -> None:
    answer = quiet_system.call("POST", "/scan", body=scan_request(sample_event(), classifiers=classifiers))
    assert answer.status_code == 400
    assert "classifiers" in answer.reason


def test_38_deleted_scans_are_found_when_asked_for(quiet_system: Running) -> None:
    mark = {"classifiers": {"case": "38"}}
    live, deleted = (request_scan(quiet_system, **mark)["scan_id"] for _ in range(2))
    ok(quiet_system.call("DELETE", f"/scan/{deleted}", body={}))
    marked = {"classifiers.case": "38"}
    either = {"$or": [{"is_deleted": True}, {"is_deleted": False}]}
    assert _find(quiet_system, marked) == [live]
    assert _find(quiet_system, marked | {"is_deleted": True}) == [deleted]
    assert _find(quiet_system, marked | either) == [live]
    assert _find(quiet_system, marked, include_deleted=True) == sorted([live, deleted])


@pytest.mark.parametrize(
    ("body", "named"),
    [({"filter": {"$where": "1"}}, "$where"), ({"filter": {"$expr": {}}}, "$expr"), ({"filter": {"a": {"$gt": 1, "b": 2}}}, "b"),
     ({"filter": {}, "manifest_projection": ["ewms_task"]}, "ewms_task")],
)  # fmt: skip
def test_39_what_a_filter_may_not_say_is_named(quiet_system: Running, body: dict[str, Any], named: str) -> None:
    answer = quiet_system.call("POST", "/scans/find", body=body)
    assert answer.status_code == 400
    assert named in answer.reason


def test_39_the_large_fields_are_never_found(quiet_system: Running) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    found = ok(
        quiet_system.call("POST", "/scans/find", body={"filter": {"scan_id": scan}, "manifest_projection": ["*"]})
    )["manifests"]  # fmt: skip
    assert len(found) == 1
    assert not {"ewms_task", "event_i3live_json_dict", "event_i3live_json_dict__hash"} & set(found[0])


def test_projections_name_fields_once_and_null_is_no_number(quiet_system: Running) -> None:
    path = f"/scan/{request_scan(quiet_system)['scan_id']}/manifest"
    assert set(quiet_system.get(f"{path}?projection=scan_id|priority|of_the_future")) == {"scan_id", "priority"}
    assert set(quiet_system.get(f"{path}?projection=event_i3live_json_dict", role="system")) == {"event_i3live_json_dict"}
    for names in ("scan_id|scan_id", "scan_id||priority", "|"):
        assert status_of(quiet_system, "GET", f"{path}?projection={names}") == 400
    for body in ({"limit": None}, {"after": None}, {"limit": 0}):
        assert status_of(quiet_system, "POST", "/scans/find", body={"filter": {}, **body}) == 400


def test_40_who_may_not_is_told_so_in_body_and_reason_phrase(quiet_system: Running) -> None:
    path = f"/scan/{request_scan(quiet_system)['scan_id']}"
    system_only = token(quiet_system, resource_access=SYSTEM_ROLE)
    for answer, status in (
        (with_token(quiet_system, system_only, "DELETE", path), 403),
        (with_token(quiet_system, None, "GET", path), 401),
        (with_token(quiet_system, quiet_system.connection["user_token"], "GET", "/scan/a-b"), 404),
    ):
        assert answer.status_code == status
        body = answer.json()
        assert body["reason"] == body["error"] == answer.reason
        assert body["message"]
        assert body["code"] == status


def _all_ids(system: Running) -> list[str]:
    return _find(system, {}, include_deleted=True)


def _find(system: Running, query: dict[str, Any], **more: Any) -> list[str]:
    body = {"filter": query, "manifest_projection": ["scan_id"], **more}
    return [manifest["scan_id"] for manifest in ok(system.call("POST", "/scans/find", body=body))["manifests"]]
