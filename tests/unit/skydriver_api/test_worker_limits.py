"""How many workers a request may name: the limit is told, however large the number."""

import json

import pytest

from skydriver_api.app import ROUTES
from skydriver_api.http.openapi import document
from skydriver_api.payloads.requests import parse_add_workers, parse_scan_request
from skydriver_common.model.worker_limits import WorkerLimits
from skydriver_common.payloads.field_errors import InvalidBody

LIMITS = WorkerLimits(per_scan=1000, per_cluster={"sub-2": 10})
CLUSTERS: dict[str, int | None] = {"osg": 100, "sub-2": None}


def why_not(clusters: object, limits: WorkerLimits = LIMITS) -> str:
    body = {
        "docker_tag": "latest", "reco_algo": "millipede_wilks", "nsides": {"8": 0}, "real_or_simulated_event": "real",
        "max_pixel_reco_time": 60, "event_i3live_json": {"a": 1}, "cluster": clusters,
    }  # fmt: skip
    try:
        parse_scan_request(json.dumps(body).encode(), clusters=CLUSTERS, limits=limits)
    except InvalidBody as error:
        return str(error)
    return ""


@pytest.mark.parametrize("workers", [1001, 1_000_000_000, 10**12, 2**63 - 1, 2**63, 10**30, 1e18])
def test_a_scan_request_for_too_many_workers_names_the_limit(workers: float) -> None:
    assert "cluster: at most 1000 workers per scan" in why_not({"osg": workers})


def test_all_pairs_and_all_clusters_count_together() -> None:
    assert why_not([["osg", 990], ["sub-2", 10]]) == ""
    assert "at most 1000 workers" in why_not([["osg", 500], ["osg", 501]])
    assert "at most 1000 workers" in why_not([["osg", 991], ["sub-2", 10]])


def test_a_cluster_may_have_a_limit_of_its_own() -> None:
    assert "at most 10 workers per scan in sub-2" in why_not([["sub-2", 6], ["sub-2", 5]])


def test_unless_set_otherwise_the_limit_is_100_000() -> None:
    assert why_not({"osg": 100_000}, WorkerLimits()) == ""
    assert "at most 100000 workers per scan" in why_not({"osg": 100_001}, WorkerLimits())


@pytest.mark.parametrize("workers", [1001, 2_147_483_647, 2**40, 10**30])
def test_a_call_for_more_workers_than_a_scan_may_have_names_the_limit(workers: int) -> None:
    raw = json.dumps({"n_workers": workers, "cluster_location": "osg"}).encode()
    with pytest.raises(InvalidBody, match="n_workers: at most 1000 workers per scan"):
        parse_add_workers(raw, limits=LIMITS)


def test_the_description_says_what_is_enforced() -> None:
    schemas = document(ROUTES, clusters=["osg"], limits=LIMITS)["components"]["schemas"]
    as_object, as_pairs = schemas["WholeScanRequest"]["properties"]["request_clusters"]["anyOf"]
    assert as_object["additionalProperties"]["maximum"] == 1000
    assert as_pairs["items"]["prefixItems"][1]["maximum"] == 1000
    assert schemas["AddWorkersBody"]["properties"]["n_workers"]["maximum"] == 1000
