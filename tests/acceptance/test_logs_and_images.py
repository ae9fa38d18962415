"""A gateway with a dashboard for logs and a folder of images, over HTTP; and one whose registry is away."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.acceptance.conftest import Running, sample_event, scan_request
from tests.acceptance.gateways import Gateway, another_gateway
from tests.acceptance.rest import ok
from tests.support.waiting import wait_until

DASHBOARD = "https://dashboards.test/d/logs?orgId=1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where unpacked images will be; it is not mounted yet."""
    return tmp_path_factory.mktemp("unpacked") / "images"


@pytest.fixture(scope="module")
def gateway(quiet_system: Running, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = {
        "SKYDRIVER_AUTH_JWKS_FILE": str(next((quiet_system.data_dir / "keys").glob("*jwks*"))),
        "SKYDRIVER_IMAGE_CATALOG": f"directory:{folder}", "SKYDRIVER_LOGS_DASHBOARD_URL": DASHBOARD,
        "SKYDRIVER_KUBERNETES_NAMESPACE": "sky driver",
    }  # fmt: skip
    with another_gateway(quiet_system, tmp_path_factory.mktemp("gateway") / "log", **settings) as running:
        yield running


def _call(system: Running, gateway: Gateway, method: str, path: str, **sent: object) -> requests.Response:
    headers = {"Authorization": f"Bearer {system.connection['user_token']}"}
    return requests.request(method, gateway.url + path, headers=headers, timeout=120, **sent)  # type: ignore[arg-type]


def _unless_unavailable(answer: requests.Response) -> requests.Response | None:
    """None for a 503: after a look that failed the source is left alone for ten times as long as the look took."""
    return None if answer.status_code == 503 else answer


def test_images_and_logs_come_from_where_the_settings_say(quiet_system: Running, gateway: Gateway, folder: Path) -> None:
    marked = {"classifiers": {"images": "away"}}
    away = _call(quiet_system, gateway, "POST", "/scan", json=scan_request(sample_event(), docker_tag="5", **marked))
    assert (away.status_code, away.headers["Retry-After"]) == (503, "5")
    query = {"filter": {"classifiers.images": "away"}}
    assert ok(_call(quiet_system, gateway, "POST", "/scans/find", json=query)) == {"manifests": []}

    for tag, moment in (("4.0.0", 1000), ("5.0.1", 2000), ("3.9.9", 500)):
        (folder / f"skymap_scanner:{tag}").mkdir(parents=True)
        os.utime(folder / f"skymap_scanner:{tag}", (moment, moment))
    request = scan_request(sample_event(), docker_tag="v5", **marked)
    mounted = wait_until(
        lambda: _unless_unavailable(_call(quiet_system, gateway, "POST", "/scan", json=request)),
        what="the folder is looked at again",
    )
    scan_id = ok(mounted)["scan_id"]
    assert ok(_call(quiet_system, gateway, "GET", f"/scan-request/{scan_id}"))["docker_tag"] == "5.0.1"
    too_old = _call(quiet_system, gateway, "POST", "/scan", json=scan_request(sample_event(), docker_tag="3.9.9"))
    assert too_old.status_code == 400
    assert "v4.0.0" in too_old.reason

    link = f"{DASHBOARD}&var-namespace=sky%20driver&var-container=skyscan-server-{scan_id}"
    assert ok(_call(quiet_system, gateway, "GET", f"/scan/{scan_id}/logs")) == {"scanner_server": {"url": link}}
    assert ok(_call(quiet_system, gateway, "GET", f"/scan/{scan_id}/status"))["scanner_server_logs"] == {"url": link}
    assert quiet_system.get(f"/scan/{scan_id}/logs") == {"scanner_server": {"url": None}}
