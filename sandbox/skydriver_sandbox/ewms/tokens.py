"""The OAuth2 issuer: discovery, client credentials, and the check of what it issued. Source: EWMS contract 2."""

import base64
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from skydriver_sandbox.ewms.errors import AUTHENTICATION_FAILED, AUTHORIZATION_FAILED, RestError
from skydriver_sandbox.processes import write_atomically

_LEEWAY_S = 60
_KEY_ID = "sandbox-ewms"
_USER_GROUPS = ("/tokens/ewms-dev", "/institutions/IceCube")


def load_key(path: Path) -> rsa.RSAPrivateKey:
    """The issuer's key, made on first use. Raises OSError, ValueError for a file that is no such key."""
    if not path.exists():
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_atomically(path, encoded)
    loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(loaded, rsa.RSAPrivateKey):
        raise ValueError(f"{path.name} is not an RSA key")
    return loaded


class Issuer:
    """Issues and checks access tokens. url: the issuer's own address, the `iss` of its tokens."""

    def __init__(self, url: str, key: rsa.RSAPrivateKey, client_id: str, client_secret: str) -> None:
        self._url = url
        self._key = key
        self._client_id = client_id
        self._client_secret = client_secret

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self._url,
            "token_endpoint": f"{self._url}/issuer/token",
            "jwks_uri": f"{self._url}/issuer/jwks",
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        }

    def jwks(self) -> dict[str, Any]:
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [{**public, "kid": _KEY_ID, "alg": "RS256", "use": "sig"}]}

    def is_client(self, client_id: str, client_secret: str) -> bool:
        same_id = hmac.compare_digest(client_id.encode(), self._client_id.encode())
        return hmac.compare_digest(client_secret.encode(), self._client_secret.encode()) and same_id

    def issue(self, lifetime_s: float) -> dict[str, Any]:
        """The token endpoint's answer for the known client: an access token with role user."""
        now = time.time()
        claims = {
            "iss": self._url,
            "sub": self._client_id,
            "azp": self._client_id,
            "iat": int(now),
            "exp": now + lifetime_s,
            "ewms_role": "user",
        }
        token = jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": _KEY_ID})
        return {"access_token": token, "expires_in": int(lifetime_s), "token_type": "Bearer", "scope": "offline_access"}

    def queue_token(self, user: str, mqids: list[str], lifetime_s: float) -> str:
        """A token for queues that says when it ends, as EWMS's do. Source: EWMS contract 8."""
        now = time.time()
        queues = [f"cluster:rabbitmq/queue:{mqid}" for mqid in mqids]
        claims = {
            "iss": f"{self._url}/mqbroker-issuer", "sub": user, "aud": "rabbitmq", "nbf": now, "iat": now, "exp": now + lifetime_s,
            "authorization_details": [
                {"type": "rabbitmq", "locations": queues, "actions": ["configure", "read", "write"]},
                {"type": "rabbitmq", "locations": ["cluster:rabbitmq/exchange:amq.default"], "actions": ["write"]},
            ],
        }  # fmt: skip
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": _KEY_ID})

    def require_user(self, authorization: str | None) -> None:
        """Raises RestError 403: `authentication failed` without a valid token, `authorization failed` without role user."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise RestError(403, AUTHENTICATION_FAILED)
        try:
            claims = jwt.decode(
                token.strip(),
                self._key.public_key(),
                algorithms=["RS256", "RS512"],
                issuer=self._url,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iat", "iss"], "verify_aud": False},
            )
        except jwt.PyJWTError:
            raise RestError(403, AUTHENTICATION_FAILED) from None
        groups = claims.get("groups")
        in_group = isinstance(groups, list) and any(
            isinstance(group, str) and (group == _USER_GROUPS[0] or group.startswith(_USER_GROUPS[1])) for group in groups
        )
        if claims.get("ewms_role") != "user" and not in_group:
            raise RestError(403, AUTHORIZATION_FAILED)


def basic_credentials(authorization: str | None) -> tuple[str, str] | None:
    """(id, secret) from a Basic header, None if there is none that can be read."""
    scheme, _, packed = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, secret = base64.b64decode(packed, validate=True).decode().partition(":")
    except ValueError:
        return None
    return (user, secret) if colon else None


def token_error(reason: str) -> bytes:
    """The token endpoint's error body (RFC 6749, 5.2)."""
    return json.dumps({"error": reason}).encode()
