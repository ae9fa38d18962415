"""The clients people have: wipac-rest-tools' RestClient for a whole scan, skyreader for its result."""

import warnings
from pathlib import Path

import pytest
from rest_tools.client import RestClient

from tests.acceptance.conftest import SHARED_EVENTS, Running, sample_event, scan_request
from tests.support.waiting import wait_until


@pytest.fixture
def client(system: Running) -> RestClient:
    return RestClient(system.connection["url"], token=system.connection["user_token"], retries=0)


def test_a_whole_scan_with_the_rest_client_read_by_skyreader(client: RestClient) -> None:
    manifest = client.request_seq("POST", "/scan", scan_request(sample_event(), nsides={8: 0, 16: 12}))
    scan = manifest["scan_id"]
    assert client.request_seq("GET", f"/scan/{scan}/manifest", {"include_deleted": False})["scan_id"] == scan
    wait_until(lambda: client.request_seq("GET", f"/scan/{scan}/status")["scan_complete"], 120, "the scan is complete")
    result = client.request_seq("GET", f"/scan/{scan}/result", {"no_redirect": True})
    assert result["is_final"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its plotting libraries about each other
        from skyreader import SkyScanResult

        read = SkyScanResult.deserialize(result["skyscan_result"])
    assert sorted(read.result) == ["nside-16", "nside-8"]
    assert len(read.result["nside-8"]) == 768
    found = client.request_seq("POST", "/scans/find", {"filter": {"scan_id": {"$in": [scan]}}})
    assert [one["scan_id"] for one in found["manifests"]] == [scan]
    told = client.request_seq("DELETE", f"/scan/{scan}", {"delete_completed_scan": True})
    assert told["manifest"]["is_deleted"]


def test_the_rest_client_shows_people_what_is_wrong(client: RestClient) -> None:
    with pytest.raises(Exception, match=r"400 .*docker_tag.*reco_algo"):
        client.request_seq("POST", "/scan")
    with pytest.raises(Exception, match=r"404 .*not found"):
        client.request_seq("GET", "/scan/00000000000x00000000000000000000/status")


def test_a_real_result_with_nan_comes_back_byte_for_byte(system: Running) -> None:
    path: Path = SHARED_EVENTS / "result_with_nan.json"
    if not path.exists():
        pytest.skip("the published result does not lie beside this checkout")
    whole = path.read_bytes()
    scan = system.call("POST", "/scan", body=scan_request(sample_event(), nsides={"16": 0})).json()["scan_id"]
    raw = b'{"skyscan_result": %b, "is_final": true}' % whole
    assert system.call("PUT", f"/scan/{scan}/result", raw=raw, role="system").status_code == 200
    answer = system.call("GET", f"/scan/{scan}/result")
    assert whole.strip() in answer.content
    assert b"NaN" in answer.content
    system.call("DELETE", f"/scan/{scan}", body={"delete_completed_scan": True})
