"""From an event to a final skymap, over HTTP only."""

import json
from pathlib import Path
from typing import Any

import pytest

from skydriver_common.model.ids import ScanId
from tests.acceptance.conftest import SHARED_EVENTS, Running, sample_event, scan_request
from tests.support.waiting import wait_until

SCAN_LIMIT_S = 120


def _submit(system: Running, event: Any, **changes: Any) -> str:
    response = system.call("POST", "/scan", body=scan_request(event, **changes))
    assert response.status_code == 200, response.text
    return str(response.json()["scan_id"])


def _await_final(system: Running, scan_id: ScanId) -> dict[str, Any]:
    wait_until(lambda: system.get(f"/scan/{scan_id}/status")["scan_complete"], SCAN_LIMIT_S, f"scan {scan_id} is complete")
    result: dict[str, Any] = system.get(f"/scan/{scan_id}/result")
    return result


def test_a_sample_event_ends_in_a_final_skymap_of_the_whole_progression(system: Running) -> None:
    scan_id = _submit(system, sample_event())
    result = _await_final(system, ScanId(scan_id))
    assert result["is_final"]
    skymap = result["skyscan_result"]
    assert list(skymap) == ["nside-2", "nside-4"]
    assert len(skymap["nside-2"]["data"]) == 48
    assert all(skymap[nside]["columns"] == ["index", "llh", "E_in", "E_tot", "X", "Y", "Z", "T"] for nside in skymap)
    wait_until(
        lambda: system.get(f"/scan/{scan_id}/manifest")["progress"]["processing_stats"]["finished"], 30, "the last progress"
    )
    manifest = system.get(f"/scan/{scan_id}/manifest")
    assert manifest["ewms_workflow_id"].startswith("WF-")
    assert manifest["event_metadata"]["run_id"] > 0
    assert system.get("/scans/backlog")["entries"] == []


@pytest.mark.parametrize("name", ["event_neutrino_2023a.json", "event_hese_2017.json"])
def test_a_real_event_of_each_generation_is_scanned_to_the_end(system: Running, name: str) -> None:
    path: Path = SHARED_EVENTS / name
    if not path.exists():
        pytest.skip("the published events do not lie beside this checkout")
    event = json.loads(path.read_text())
    scan_id = _submit(system, path.read_text(), real_or_simulated_event="real")
    assert _await_final(system, ScanId(scan_id))["is_final"]
    assert system.get(f"/scan/{scan_id}/i3-event")["i3_event"] == event


def test_a_progression_that_the_scanner_refuses_ends_visibly(system: Running) -> None:
    scan_id = _submit(system, sample_event(), nsides={"1": 2, "3": 4})
    wait_until(
        lambda: system.get(f"/scan/{scan_id}/status")["scan_state"].startswith(("STOPPED__", "ABORTED__")), 60, "the scan ends"
    )


def test_a_deleted_scan_stops_and_its_workflow_is_aborted(system: Running) -> None:
    scan_id = _submit(system, sample_event(), nsides={"32": 0}, max_pixel_reco_time=30)
    wait_until(lambda: system.get(f"/scan/{scan_id}/ewms/workflow-id")["requested_ewms_workflow"], 60, "a workflow")
    answer = system.call("DELETE", f"/scan/{scan_id}", body={})
    assert answer.status_code == 200
    wait_until(lambda: system.get(f"/scan/{scan_id}/status")["ewms_deactivated"] == "ABORTED", 60, "the workflow is aborted")
    wait_until(lambda: not (system.data_dir / "work" / scan_id / "scanner.pid.json").exists(), 60, "the scanner is gone")


def test_bad_input_names_each_field_and_stores_nothing(system: Running) -> None:
    before = len(system.get("/scans/backlog")["entries"])
    answer = system.call("POST", "/scan", body={"nsides": {"x": -1}, "unheard_of": 1, "max_pixel_reco_time": True})
    assert answer.status_code == 400
    for field in ("docker_tag", "reco_algo", "nsides.x", "unheard_of", "max_pixel_reco_time", "request_clusters"):
        assert field in answer.reason
    assert set(answer.json()) == {"error", "reason", "message", "code"}
    assert len(system.get("/scans/backlog")["entries"]) == before


@pytest.mark.parametrize("event", ["[1]", "{broken", "{}", ""], ids=["array", "broken", "empty", "blank"])
def test_an_event_that_is_no_object_is_refused(system: Running, event: str) -> None:
    assert system.call("POST", "/scan", body=scan_request(event)).status_code == 400


def test_a_token_is_needed_and_its_role_counts(system: Running) -> None:
    from requests import get

    url = system.connection["url"]
    missing = get(url + "/scans/backlog", timeout=10)
    assert missing.status_code == 401
    assert missing.headers["WWW-Authenticate"] == "Bearer"
    assert system.call("GET", "/scans/backlog", role="system").status_code == 403


def test_a_skymap_with_nan_comes_back_byte_for_byte(system: Running) -> None:
    scan_id = _submit(system, sample_event(), nsides={"16": 0})
    skymap = b'{"nside-8": {"columns": ["index", "llh", "E_in", "E_tot"], "data": [[0, 1.50, NaN, -Infinity]]}}'
    put = system.call("PUT", f"/scan/{scan_id}/result", raw=b'{"is_final": true, "skyscan_result": %b}' % skymap, role="system")
    assert put.status_code == 200
    assert skymap in system.call("GET", f"/scan/{scan_id}/result").content
    system.call("DELETE", f"/scan/{scan_id}", body={"delete_completed_scan": True})


def test_the_same_idempotency_key_makes_one_scan(system: Running) -> None:
    import requests

    body = json.dumps(scan_request(sample_event())).encode()
    headers = {"Authorization": f"Bearer {system.connection['user_token']}", "Idempotency-Key": f"key-{id(body)}"}
    url = system.connection["url"] + "/scan"
    first, second = (requests.post(url, data=body, headers=headers, timeout=120) for _ in range(2))
    assert first.json()["scan_id"] == second.json()["scan_id"]
    other = requests.post(url, data=body.replace(b"dummy", b"other"), headers=headers, timeout=120)
    assert other.status_code == 422
    system.call("DELETE", f"/scan/{first.json()['scan_id']}", body={"delete_completed_scan": True})
