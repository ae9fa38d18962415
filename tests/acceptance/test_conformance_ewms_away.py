"""Conformance cases 33, 34 and 37 of the REST contract, on the running system with a look at what travels to EWMS."""

import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from skydriver_common.model.events import WorkersAdded
from tests.acceptance.conftest import Running, start, stop
from tests.acceptance.killing import kill_everything
from tests.acceptance.rest import REAL_PATCH, ok, request_scan
from tests.support.forwarder import Forwarder, forwarding
from tests.support.waiting import wait_until

DELAY_S = 15.0
"""Between the final result and the end of the workflow; 60 s unless set."""


@pytest.fixture(scope="module")
def ewms(data_dir: Path) -> Iterator[Forwarder]:
    with forwarding() as forwarder:
        forwarder.behind = lambda: f"http://127.0.0.1:{orjson.loads((data_dir / 'ports.json').read_bytes())['ewms']}"
        yield forwarder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("behind a forwarder")


@pytest.fixture(scope="module")
def watched(ewms: Forwarder, data_dir: Path) -> Iterator[Running]:
    """A system that reaches EWMS through the forwarder."""
    running = _start(ewms, data_dir)
    yield running
    stop(running)


@pytest.fixture(scope="module")
def scan(watched: Running) -> str:
    """A scan that has a workflow and does not end by itself soon."""
    scan_id = str(request_scan(watched, nsides={"64": 0}, max_pixel_reco_time=60)["scan_id"])
    wait_until(lambda: watched.get(f"/scan/{scan_id}/ewms/workflow-id")["requested_ewms_workflow"], 60, "a workflow")
    ok(watched.call("PATCH", f"/scan/{scan_id}/manifest", body={"progress": REAL_PATCH["progress"]}, role="system"))
    return scan_id


def _start(ewms: Forwarder, data_dir: Path) -> Running:
    return start(data_dir, SKYDRIVER_EWMS_URL=ewms.url, SKYDRIVER_TEARDOWN_DELAY_S=str(DELAY_S))


def test_34_with_ewms_down_scanners_get_the_last_known_values_at_once(ewms: Forwarder, watched: Running, scan: str) -> None:
    path = f"/scan/{scan}/ewms/workforce"
    wait_until(lambda: watched.get(path, role="system")["statuses"], 60, "EWMS told of the workers")
    ewms.away = True
    try:
        known = watched.get(path, role="system")
        # the bridge has met the outage: what is answered from here on is what was known before
        wait_until(
            lambda: any("ewms" in p["code"] for p in watched.get(f"/scan/{scan}/status")["problems"]), 60, "EWMS is away"
        )
        ewms.hangs = True  # whoever asked EWMS for the answer would wait for longer than this test
        for _ in range(5):
            workforce = watched.get(path, role="system")
            status = watched.get(f"/scan/{scan}/status", role="system")
            assert workforce["n_running"] >= 0
            assert (workforce["workflow_id"], workforce["statuses"].keys()) == (known["workflow_id"], known["statuses"].keys())
            assert status["ewms_workforce"] == workforce
            assert status["ewms_deactivated"] is None
    finally:
        ewms.away = ewms.hangs = False


def test_37_with_ewms_failing_no_workers_are_added_and_a_repeat_adds_them_once(
    ewms: Forwarder, watched: Running, scan: str
) -> None:
    path, body = f"/scan/{scan}/actions/add-workers", {"n_workers": 1, "cluster_location": "osg"}
    ewms.away = True
    try:
        for _ in range(2):
            failed = watched.call("POST", path, body=body)
            assert failed.status_code == 500
            assert failed.json()["reason"] == failed.reason
            assert "admins" in failed.reason
            assert "127.0.0.1" not in failed.text
    finally:
        ewms.away = False
    wait_until(lambda: watched.call("POST", path, body=body).status_code == 200, 60, "EWMS takes them")
    events = watched.get(f"/scan/{scan}/events?limit=1000")["events"]
    assert [event["type"] for event in events].count(WorkersAdded.type) == 1


def test_33_after_a_final_result_and_the_death_of_everything_ewms_is_told_once_and_in_time(
    ewms: Forwarder, watched: Running, scan: str, data_dir: Path
) -> None:
    body = {"skyscan_result": {"nside-1": {"columns": [], "metadata": {}, "data": []}}, "is_final": True}
    ok(watched.call("PUT", f"/scan/{scan}/result", body=body, role="system"))
    final_at = time.time()
    kill_everything(watched)
    assert ewms.those("POST", "/actions/finished") == []

    again = _start(ewms, data_dir)
    watched.process, watched.connection = again.process, again.connection
    wait_until(lambda: watched.get(f"/scan/{scan}/status")["ewms_deactivated"] == "FINISHED", 90, "the workflow is finished")
    told = ewms.those("POST", "/actions/finished")
    assert [each.status for each in told] == [200]
    assert told[0].at >= final_at + DELAY_S - 1
    assert ewms.those("POST", "/actions/abort") == []
    assert watched.get(f"/scan/{scan}/status")["scan_state"] == "SCAN_HAS_FINAL_RESULT"
