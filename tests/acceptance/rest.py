"""Small helpers for tests that speak REST: requests that must succeed, tokens of every kind."""

import json
import time
from typing import Any

import jwt
import requests

from tests.acceptance.conftest import Running, sample_event, scan_request

REAL_PATCH: dict[str, Any] = {
    "progress": {
        "summary": "", "epilogue": "", "tallies": {"nsides": {}, "overall": {}}, "predictive_scanning_threshold": 1.0,
        "processing_stats": {"start": {"scanner start": "2026-01-01 00:00:00"}, "runtime": {"elapsed": "0:00:01"}},
        "last_updated": "2026-01-01 00:00:00.1", "start": 1767225600, "end": None, "of the future": 1,
    },
    "event_metadata": {
        "run_id": 1, "event_id": 2, "event_type": None, "mjd": 60000.5, "is_real_event": False, "version": 1,
    },
    "scan_metadata": {"scan_id": "x", "nside_progression": {"8": 0}, "position_variations": 7},
}  # fmt: skip
"""What the scanner really sends, and a key of a newer one."""


def request_scan(system: Running, **changes: Any) -> dict[str, Any]:
    """Request a scan of the sample event; the manifest."""
    manifest: dict[str, Any] = ok(system.call("POST", "/scan", body=scan_request(sample_event(), **changes)))
    return manifest


def ok(response: requests.Response) -> Any:
    """The JSON of an answer that must be 200."""
    assert response.status_code == 200, response.text
    return response.json()


def status_of(system: Running, method: str, path: str, **call: Any) -> int:
    """Only the status."""
    return system.call(method, path, **call).status_code


def token(system: Running, **changes: Any) -> str:
    """A token as the system's own issuer makes them, with other claims; None takes one away."""
    key = (system.data_dir / "keys" / "key.pem").read_bytes()
    header = jwt.get_unverified_header(system.connection["user_token"])
    claims = jwt.decode(system.connection["user_token"], options={"verify_signature": False})
    claims |= {"iat": int(time.time()), "exp": int(time.time()) + 600} | changes
    return jwt.encode(
        {name: value for name, value in claims.items() if value is not None}, key, algorithm="RS256",
        headers={"kid": header["kid"]},
    )  # fmt: skip


SYSTEM_ROLE = {"skydriver-internal": {"roles": ["system"]}}
USER_ROLE = {"skydriver-external": {"roles": ["users"]}}


def with_token(system: Running, bearer: str | None, method: str, path: str, body: Any = None) -> requests.Response:
    """A call with this token, or none."""
    return requests.request(
        method, system.connection["url"] + path, data=None if body is None else json.dumps(body), timeout=120,
        headers={} if bearer is None else {"Authorization": f"Bearer {bearer}"}, allow_redirects=False,
    )  # fmt: skip
