"""People's tokens from an OpenID provider: discovery, key sets that change, a provider that is away; over HTTP, on the gateway."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.acceptance.conftest import Running
from tests.acceptance.gateways import Gateway, another_gateway
from tests.acceptance.rest import USER_ROLE, request_scan
from tests.support.waiting import wait_until

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass
class Provider:
    """An OpenID provider: a discovery document and a key set. status: of its answers."""

    url: str = ""
    keys: dict[str, Key] = field(default_factory=dict)
    status: int = 200
    asked: list[str] = field(default_factory=list)

    def new_key(self, kid: str, *, elliptic: bool = False) -> None:
        """Publish one more key."""
        self.keys[kid] = ec.generate_private_key(ec.SECP256R1()) if elliptic else rsa.generate_private_key(65537, 2048)

    def document(self, path: str) -> dict[str, Any]:
        """What is served below this path."""
        if path == "/realm/.well-known/openid-configuration":
            return {"issuer": f"{self.url}/realm", "jwks_uri": f"{self.url}/realm/keys"}
        return {"keys": [self._jwk(kid, key) for kid, key in self.keys.items()]}

    def _jwk(self, kid: str, key: Key) -> dict[str, Any]:
        public = key.public_key()
        jwk = (
            ECAlgorithm.to_jwk(public, as_dict=True)
            if isinstance(public, ec.EllipticCurvePublicKey)
            else RSAAlgorithm.to_jwk(public, as_dict=True)
        )
        return {**jwk, "kid": kid, "use": "sig"}

    def token(self, kid: str, *, key: Any = None, algorithm: str = "", **changes: Any) -> str:
        """A user's token signed with this key, as claimed in its header."""
        signer = self.keys[kid] if key is None else key
        claims = {
            "iss": f"{self.url}/realm", "aud": "skydriver", "sub": "someone", "iat": int(time.time()),
            "exp": int(time.time()) + 600, "resource_access": USER_ROLE, **changes,
        }  # fmt: skip
        algorithm = algorithm or ("ES256" if isinstance(signer, ec.EllipticCurvePrivateKey) else "RS256")
        return jwt.encode(claims, signer, algorithm=algorithm, headers={"kid": kid})


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            provider.asked.append(self.path)
            body = json.dumps(provider.document(self.path)).encode()
            self.send_response(provider.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """The test asks ``asked``."""

    Handler.do_GET = Handler.answer  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    provider.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    provider.new_key("first")
    provider.new_key("curve", elliptic=True)
    yield provider
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def gateway(quiet_system: Running, provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that believes the provider, and the system's dispatcher for tokens of single scans."""
    log: Path = tmp_path_factory.mktemp("gateway") / "log"
    with another_gateway(
        quiet_system, log, SKYDRIVER_AUTH_ISSUER=f"{provider.url}/realm", SKYDRIVER_SCAN_TOKEN_ISSUER="skydriver-local",
        SKYDRIVER_SCAN_TOKEN_JWKS_FILE=str(next((quiet_system.data_dir / "keys").glob("*jwks*"))),
    ) as running:  # fmt: skip
        yield running


def _get(gateway: Gateway, token: str) -> requests.Response:
    return requests.get(gateway.url + "/", headers={"Authorization": f"Bearer {token}"}, timeout=120)


def test_tokens_of_both_kinds_of_keys_are_good_and_the_keys_are_asked_for_once(gateway: Gateway, provider: Provider) -> None:
    for kid in ("first", "curve"):
        for number in range(10):
            assert _get(gateway, provider.token(kid, sub=f"person {number}")).status_code == 200
    assert provider.asked == ["/realm/.well-known/openid-configuration", "/realm/keys"]


def test_forged_tokens_are_refused(gateway: Gateway, provider: Provider) -> None:
    public = provider.keys["first"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    stranger = rsa.generate_private_key(65537, 2048)
    unsigned = jwt.encode({"iss": f"{provider.url}/realm", "sub": "x"}, "", algorithm="none", headers={"kid": "first"})
    confused = jwt.api_jws.PyJWS()
    confused._algorithms["HS256"].prepare_key = lambda key: key  # type: ignore[method-assign]
    claims = jwt.decode(provider.token("first"), options={"verify_signature": False})
    forged = {
        "none": unsigned,
        "public key as secret": confused.encode(json.dumps(claims).encode(), public, "HS256", headers={"kid": "first"}),
        "another's key": provider.token("first", key=stranger),
        "an elliptic key's id": provider.token("curve", key=stranger),
        "no key id": jwt.encode(claims, provider.keys["first"], algorithm="RS256"),
        "another audience": provider.token("first", aud="other"),
        "another issuer": provider.token("first", iss="https://elsewhere.test"),
        "expired": provider.token("first", exp=int(time.time()) - 120),
    }
    for how, token in forged.items():
        answer = _get(gateway, token)
        assert (how, answer.status_code, answer.headers.get("WWW-Authenticate")) == (how, 401, "Bearer")


def test_keys_change_while_the_gateway_runs(gateway: Gateway, provider: Provider) -> None:
    provider.new_key("second")
    old = provider.keys.pop("first")
    # an unknown key is asked for again, though not more often than every few seconds
    wait_until(lambda: _get(gateway, provider.token("second")).status_code == 200, 60, "the new key is known")
    withdrawn = _get(gateway, provider.token("first", key=old, sub="late"))
    assert withdrawn.status_code == 401
    assert "unknown signing key" in withdrawn.reason


def test_while_the_provider_is_away_the_known_keys_are_good(gateway: Gateway, provider: Provider) -> None:
    provider.status = 503
    try:
        assert _get(gateway, provider.token("second", sub="another")).status_code == 200
        unknown = rsa.generate_private_key(65537, 2048)
        wait_until(lambda: _get(gateway, provider.token("third", key=unknown)).status_code == 503, 60, "nobody can tell")
        assert _get(gateway, provider.token("second", sub="one more")).status_code == 200
    finally:
        provider.status = 200
    wait_until(
        lambda: _get(gateway, provider.token("third", key=unknown)).status_code == 401, 30, "the provider is asked again"
    )


def test_the_dispatchers_key_is_good_for_single_scans_only(gateway: Gateway, quiet_system: Running) -> None:
    assert _get(gateway, quiet_system.connection["user_token"]).status_code == 401
    scan = request_scan(quiet_system)["scan_id"]
    system = quiet_system.connection["system_token"]
    answer = requests.get(f"{gateway.url}/scan/{scan}/manifest", headers={"Authorization": f"Bearer {system}"}, timeout=120)
    assert answer.status_code == 401
