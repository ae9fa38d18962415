"""Every route with every kind of token. Source: REST contract 1.2, 3."""

import base64
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa

from skydriver_api.app import ROUTES
from skydriver_api.http.route import Route
from skydriver_common.auth import Role
from skydriver_common.model.ids import ScanId
from tests.acceptance.conftest import Running
from tests.acceptance.gateways import another_gateway
from tests.acceptance.rest import REAL_PATCH, SYSTEM_ROLE, USER_ROLE, request_scan, token, with_token

UNKNOWN = "00000000000x00000000000000000000"
GUARDED = [route for route in ROUTES if route.roles]


def _signed_with_text(claims: dict[str, Any], kid: str, secret: str) -> str:
    """HS256 with a public key as the secret, by hand: the library refuses to make such tokens."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "HS256", "kid": kid}, claims)
    ]
    signed = b".".join(parts)
    signature = base64.urlsafe_b64encode(hmac.digest(secret.encode(), signed, "sha256")).rstrip(b"=")
    return (signed + b"." + signature).decode()


def _name(route: Route) -> str:
    return f"{route.method} {route.path.replace('{scan_id:[A-Za-z0-9_]+}', 'ID')}"


def _path(route: Route, scan_id: ScanId = ScanId(UNKNOWN)) -> str:
    return route.path.replace("{scan_id:[A-Za-z0-9_]+}", scan_id)


@pytest.fixture(scope="module")
def refused(quiet_system: Running) -> dict[str, str | None]:
    """Tokens that are good for nothing."""
    good = quiet_system.connection["user_token"]
    other_key = rsa.generate_private_key(65537, 2048)
    claims = jwt.decode(good, options={"verify_signature": False})
    kid = jwt.get_unverified_header(good)["kid"]
    public = (quiet_system.data_dir / "keys" / "jwks.json").read_text()
    return {
        "none": None,
        "no JWT": "x.y.z",
        "expired": token(quiet_system, exp=int(time.time()) - 3600),
        "other audience": token(quiet_system, aud="somebody-else"),
        "other issuer": token(quiet_system, iss="somebody-else"),
        "without exp": token(quiet_system, exp=None),
        "without sub": token(quiet_system, sub=None),
        "foreign key": jwt.encode(claims, other_key, algorithm="RS256", headers={"kid": kid}),
        "alg none": jwt.encode(claims, "", algorithm="none", headers={"kid": kid}),
        "public key as secret": _signed_with_text(claims, kid, public),
        "missing kid": jwt.encode(claims, (quiet_system.data_dir / "keys" / "key.pem").read_bytes(), algorithm="RS256"),
    }


@pytest.mark.parametrize("route", GUARDED, ids=_name)
def test_no_route_opens_to_a_token_that_is_not_valid(
    quiet_system: Running, refused: dict[str, str | None], route: Route
) -> None:
    for kind, bearer in refused.items():
        answer = with_token(quiet_system, bearer, route.method, _path(route))
        assert answer.status_code == 401, kind
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("route", GUARDED, ids=_name)
def test_a_route_opens_to_its_roles_only(quiet_system: Running, route: Route) -> None:
    for role, claims in ((Role.USER, USER_ROLE), (Role.SYSTEM, SYSTEM_ROLE), (None, {})):
        status = with_token(quiet_system, token(quiet_system, resource_access=claims), route.method, _path(route)).status_code
        assert (status == 403) == (role not in route.roles), role
        assert status < 500


@pytest.mark.parametrize("route", [route for route in GUARDED if Role.SYSTEM in route.roles], ids=_name)
def test_a_scans_own_token_is_good_for_that_scan_only(quiet_system: Running, route: Route) -> None:
    mine, other = (request_scan(quiet_system)["scan_id"] for _ in range(2))
    bearer = token(quiet_system, resource_access=SYSTEM_ROLE, scan_id=mine)
    status = with_token(quiet_system, bearer, route.method, _path(route, mine)).status_code
    # a scanner reports and reads, it makes no scans and assigns no workflow
    may_not = route.method == "POST" and route.path.endswith(("/actions/rescan", "/ewms/workflow-id"))
    assert status == 403 if may_not else status not in (401, 403)
    assert with_token(quiet_system, bearer, route.method, _path(route, other)).status_code == 403


def test_a_scans_own_token_ends_a_while_after_its_scan(quiet_system: Running, tmp_path: Path) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    bearer = token(quiet_system, resource_access=SYSTEM_ROLE, scan_id=scan)
    calls: list[tuple[str, str, Any]] = [
        ("GET", "status", None), ("PATCH", "manifest", REAL_PATCH),
        ("PUT", "result", {"skyscan_result": {"nside-1": {}}, "is_final": True}),
    ]  # fmt: skip
    key_file = str(next((quiet_system.data_dir / "keys").glob("*jwks*")))
    settings = {"SKYDRIVER_AUTH_JWKS_FILE": key_file, "SKYDRIVER_SCAN_TOKEN_GRACE_S": "0"}
    with another_gateway(quiet_system, tmp_path / "log", **settings) as strict:

        def statuses(url: str) -> list[int]:
            return [
                requests.request(
                    method, f"{url}/scan/{scan}/{path}", data=None if body is None else json.dumps(body), timeout=30,
                    headers={"Authorization": f"Bearer {bearer}"},
                ).status_code
                for method, path, body in calls
            ]  # fmt: skip

        assert statuses(strict.url) == [200, 200, 200]
        assert statuses(quiet_system.connection["url"]) == [200, 200, 200]  # the last report follows the final result
        assert statuses(strict.url) == [401, 401, 401]
        assert with_token(quiet_system, token(quiet_system, resource_access=SYSTEM_ROLE), "GET", f"/scan/{scan}/status").ok


def test_paths_and_methods_are_looked_at_before_tokens(quiet_system: Running) -> None:
    assert with_token(quiet_system, None, "GET", "/scan/").status_code == 404
    assert with_token(quiet_system, None, "DELETE", "/scans/backlog").status_code == 405


def test_everybody_may_read_how_to_use_it(quiet_system: Running) -> None:
    document = with_token(quiet_system, None, "GET", "/openapi.json").json()
    assert document["info"]["title"] == "SkyDriver REST API"
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, _path(route, ScanId("{scan_id}"))) for route in ROUTES}
