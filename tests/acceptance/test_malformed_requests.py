"""Requests that are large, odd or wrong: taken where the contract says so, else refused with a clear 4xx that changes nothing."""

import gzip
import json
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.acceptance.conftest import Running, sample_event, scan_request
from tests.acceptance.rest import REAL_PATCH, ok, request_scan

MIB = 1024 * 1024
ENDLESS = b"9" * 5000


def _send(system: Running, method: str, path: str, content: Any, *, role: str = "user", **headers: str) -> requests.Response:
    """Bytes, or an iterator of bytes, as they are."""
    return requests.request(
        method, system.connection["url"] + path, data=content, timeout=120, allow_redirects=False,
        headers={"Authorization": f"Bearer {system.connection[f'{role}_token']}", **headers},
    )  # fmt: skip


@pytest.fixture(scope="module")
def scan(quiet_system: Running) -> str:
    return str(request_scan(quiet_system)["scan_id"])


def test_numbers_of_thousands_of_digits_are_named(quiet_system: Running, scan: str) -> None:
    request = json.dumps(scan_request(sample_event(), max_pixel_reco_time=1)).encode()
    report = json.dumps({"scan_metadata": {"n": 1}}).encode()
    for method, path, role, body, name in (
        (
            "POST",
            "/scan",
            "user",
            request.replace(b'"max_pixel_reco_time": 1', b'"max_pixel_reco_time": ' + ENDLESS),
            "max_pixel",
        ),
        ("PATCH", f"/scan/{scan}/manifest", "system", report.replace(b"1", ENDLESS), "scan_metadata.n"),
        ("POST", "/scans/find", "user", b'{"filter": {"priority": ' + ENDLESS + b"}}", "filter.priority"),
    ):
        answer = _send(quiet_system, method, path, body, role=role)
        assert answer.status_code == 400
        assert name in answer.reason


def test_long_integers_come_back_digit_by_digit(quiet_system: Running) -> None:
    metadata = {"n": 123456789012345678901234567890, "m": [-(2**64), 2**63, 1.5]}
    scan_id = request_scan(quiet_system)["scan_id"]
    for _ in range(2):  # an equal one later is accepted
        told = quiet_system.call("PATCH", f"/scan/{scan_id}/manifest", body={"scan_metadata": metadata}, role="system")
        assert ok(told)["scan_metadata"] == metadata
    assert quiet_system.get(f"/scan/{scan_id}/manifest")["scan_metadata"] == metadata
    assert quiet_system.get(f"/scan/{scan_id}?projection=*")["manifest"]["scan_metadata"] == metadata
    query = {"filter": {"scan_metadata.n": metadata["n"], "scan_id": scan_id}}
    assert ok(quiet_system.call("POST", "/scans/find", body=query))["manifests"][0]["scan_metadata"] == metadata


NUMBERS = st.one_of(st.integers(-(10**40), 10**40), st.floats(allow_nan=False, allow_infinity=False))


@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from("abcde"), NUMBERS, min_size=1), st.lists(NUMBERS, max_size=4))
def test_a_number_comes_back_as_it_was_sent_on_every_route(
    quiet_system: Running, classifiers: dict[str, int | float], numbers: list[int | float]
) -> None:
    event = {"numbers": numbers}
    metadata = {"numbers": numbers or [1]}
    body = scan_request(event, classifiers=classifiers, manifest_projection=["classifiers", "scan_id"])
    requested = ok(quiet_system.call("POST", "/scan", body=body))
    path = f"/scan/{requested['scan_id']}"
    report = {"scan_metadata": metadata}
    patched = ok(quiet_system.call("PATCH", f"{path}/manifest", body=report, role="system"))
    chosen = {"manifest_projection": ["classifiers"]}
    found = {"filter": {"scan_id": requested["scan_id"]}}
    manifests = [
        requested,
        patched,
        quiet_system.get(f"{path}/manifest"),
        quiet_system.get(f"{path}/manifest?projection=classifiers"),
        quiet_system.get(path)["manifest"],
        quiet_system.get(f"/scan-request/{requested['scan_id']}"),
        ok(quiet_system.call("POST", "/scans/find", body=found))["manifests"][0],
        ok(quiet_system.call("POST", "/scans/find", body=found | chosen))["manifests"][0],
        ok(quiet_system.call("POST", f"{path}/actions/rescan", body=chosen)),
    ]
    for manifest in manifests:  # that of a rescan tells of its origin, too
        assert _written({name: manifest["classifiers"][name] for name in classifiers}) == _written(classifiers)
    for manifest in [*manifests[1:3], manifests[4], manifests[6]]:
        assert _written(manifest["scan_metadata"]) == _written(metadata)
    projected = quiet_system.get(f"{path}/manifest?projection=scan_metadata")
    assert _written(projected) == _written({"scan_metadata": metadata})
    assert _written(quiet_system.get(f"{path}/i3-event")["i3_event"]) == _written(event)
    put = {"skyscan_result": {"x": numbers}, "is_final": False}
    assert _written(ok(quiet_system.call("PUT", f"{path}/result", body=put, role="system"))["skyscan_result"]) == _written(
        {"x": numbers}
    )
    deleted = ok(quiet_system.call("DELETE", path, body=chosen))
    assert _written(deleted["manifest"]["classifiers"]) == _written(classifiers)
    assert _written(deleted["result"]["skyscan_result"]) == _written({"x": numbers})


def _written(value: Any) -> str:
    """Values of numbers and their kinds, whatever the order of names."""
    return json.dumps(value, sort_keys=True)


def test_a_body_that_is_not_compressed_as_it_says_is_a_wrong_input(quiet_system: Running) -> None:
    body = json.dumps(scan_request(sample_event())).encode()
    wrong = _send(quiet_system, "POST", "/scan", body, **{"Content-Encoding": "gzip"})
    assert wrong.status_code == 400
    assert wrong.json()["reason"] == wrong.reason
    ok(_send(quiet_system, "POST", "/scan", gzip.compress(body), **{"Content-Encoding": "gzip"}))


def test_a_body_is_json_whatever_its_type_is_called_unless_it_is_a_form(quiet_system: Running, scan: str) -> None:
    path = f"/scan/{scan}/actions/rescan"
    form = b"abort_first=true&replace_scan=false"
    boundary = b'--x\r\nContent-Disposition: form-data; name="abort_first"\r\n\r\ntrue\r\n--x--\r\n'
    for content, kind in ((form, "application/x-www-form-urlencoded"), (boundary, "multipart/form-data; boundary=x")):
        answer = _send(quiet_system, "POST", path, content, **{"Content-Type": kind})
        assert answer.status_code == 400
        assert "JSON" in answer.reason
    assert quiet_system.get(f"/scan-request/{scan}")["rescan_ids"] == []


def test_large_bodies_are_taken_up_to_the_limit_and_nothing_is_stored_beyond(quiet_system: Running, scan: str) -> None:
    whole = b'{"skyscan_result": {"x": "%b"}, "is_final": false}'
    largest = whole % (b"a" * (100 * MIB - 64))
    answer = _send(quiet_system, "PUT", f"/scan/{scan}/result", largest, role="system")
    assert answer.status_code == 200
    assert len(answer.content) > 99 * MIB
    refused = _send(quiet_system, "PUT", f"/scan/{scan}/result", whole % (b"b" * (101 * MIB)), role="system")
    assert refused.status_code == 413
    stored = _send(quiet_system, "GET", f"/scan/{scan}/result", None).content
    assert stored == answer.content


def test_a_request_of_32_mib_is_taken_and_one_beyond_makes_no_scan(quiet_system: Running) -> None:
    event = {"x": "a" * (32 * MIB - 4096)}
    made = ok(quiet_system.call("POST", "/scan", body=scan_request(event)))
    assert quiet_system.get(f"/scan/{made['scan_id']}/i3-event")["i3_event"] == event
    marked = {"classifiers": {"too": "large"}}
    for body in (json.dumps(scan_request({"x": "a" * 33 * MIB}, **marked)).encode(), iter([b" " * MIB] * 34)):
        assert _send(quiet_system, "POST", "/scan", body).status_code == 413
    query = {"filter": {"classifiers.too": "large"}, "include_deleted": True}
    assert ok(quiet_system.call("POST", "/scans/find", body=query))["manifests"] == []


def test_elsewhere_a_mebibyte_is_the_limit(quiet_system: Running, scan: str) -> None:
    body = {"progress": REAL_PATCH["progress"] | {"tallies": {"x": "a" * (MIB // 2)}}}
    before = ok(quiet_system.call("PATCH", f"/scan/{scan}/manifest", body=body, role="system"))
    body["progress"]["tallies"]["x"] = "b" * MIB
    assert quiet_system.call("PATCH", f"/scan/{scan}/manifest", body=body, role="system").status_code == 413
    assert quiet_system.get(f"/scan/{scan}/manifest") == before


@pytest.mark.parametrize(
    ("field", "value"),
    [("reco_algo", "a" * 20 * MIB), ("nsides", {str(2**40 + n): 1 for n in range(10_000)}),
     ("request_clusters", [["osg", 1]] * 20_000), ("docker_tag", "v" * MIB), ("i3_event_id", "e" * MIB)],
    ids=lambda value: value if isinstance(value, str) and len(value) < 100 else "",
)  # fmt: skip
def test_fields_have_lengths(quiet_system: Running, field: str, value: Any) -> None:
    changes: dict[str, Any] = {field: value}
    if field == "i3_event_id":
        changes["event_i3live_json"] = {}
    answer = quiet_system.call("POST", "/scan", body=scan_request(sample_event(), **changes))
    assert answer.status_code == 400
    assert field in answer.reason


def test_ids_and_places_have_lengths(quiet_system: Running, scan: str) -> None:
    for path, role, body, named in (
        ("ewms/workflow-id", "system", {"workflow_id": "é" * 3000, "ewms_address": "x"}, "workflow_id"),
        ("ewms/workflow-id", "system", {"workflow_id": "x", "ewms_address": "é" * 9000}, "ewms_address"),
        ("actions/add-workers", "user", {"n_workers": 1, "cluster_location": "é" * 3000}, "cluster_location"),
        ("actions/add-workers", "user", {"n_workers": 2**40, "cluster_location": "osg"}, "n_workers"),
    ):
        answer = quiet_system.call("POST", f"/scan/{scan}/{path}", body=body, role=role)
        assert answer.status_code == 400
        assert named in answer.reason


@pytest.mark.parametrize(
    "changes",
    [{"request_clusters": None, "cluster": {"osg": 1}}, {"worker_memory_bytes": False, "worker_memory": "4GB"},
     {"worker_memory_bytes": "4GB", "worker_memory": None}, {"worker_disk_bytes": None, "worker_disk": 0}],
    ids=str,
)  # fmt: skip
def test_null_is_not_absent_and_booleans_are_no_numbers(quiet_system: Running, changes: dict[str, Any]) -> None:
    answer = quiet_system.call("POST", "/scan", body=scan_request(sample_event()) | changes)
    assert answer.status_code == 400
    assert next(name for name, value in changes.items() if value is None or value is False) in answer.reason
