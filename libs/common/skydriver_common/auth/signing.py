"""Tokens issued: for the people and parts of an embedded system, and for scanners, each good for one scan.

The private key is a PEM file that only its owner may read; its public half lies beside it as `jwks.json`.
"""

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from jwt.algorithms import RSAAlgorithm

from skydriver_common.atomic_write import atomic_write
from skydriver_common.auth.keys import MINIMUM_RSA_BITS
from skydriver_common.auth.principals import DEFAULT_ROLE_RULES, SCAN_CLAIM, Role
from skydriver_common.model.ids import ScanId

__all__ = ["JWKS_NAME", "TokenSigner", "broker_scopes", "ensure_key"]

JWKS_NAME = "jwks.json"
LOCAL_LIFETIME = timedelta(days=365)


def ensure_key(path: Path) -> Path:
    """Make sure the key file and the key set beside it exist; return the path of the key set.

    Safe to repeat, and in parallel: an existing key stays, of two new ones the first wins. The key set always fits the key.
    Raises OSError, and ValueError when there is a file which is no key. Blocks for some 100 ms when it makes a key.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        pem = generate_private_key(public_exponent=65537, key_size=MINIMUM_RSA_BITS).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        with atomic_write(path, mode=0o600, overwrite=False) as file:
            file.write(pem)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    jwks = orjson.dumps({"keys": [_public_jwk(_load_key(path))]}, option=orjson.OPT_INDENT_2) + b"\n"
    target = path.with_name(JWKS_NAME)
    if not target.exists() or target.read_bytes() != jwks:
        with atomic_write(target, mode=0o644) as file:
            file.write(jwks)
    return target


CLOCK_SKEW_S = 300
"""By so much a token is dated back, so that a verifier whose clock is behind takes it at once (leeway there: 60 s)."""


class TokenSigner:
    """Issues RS256 tokens under one key. Roles are where the default rules look for them."""

    def __init__(self, key: RSAPrivateKey, *, issuer: str, audience: str) -> None:
        self._key = key
        self._kid = str(_public_jwk(key)["kid"])
        self._issuer = issuer
        self._audience = audience

    @classmethod
    def from_file(cls, path: Path, *, issuer: str, audience: str) -> Self:
        """With the key in a PEM file. Raises OSError, and ValueError when the file holds no RSA key of enough bits."""
        return cls(_load_key(path), issuer=issuer, audience=audience)

    def user_token(self, subject: str = "local-user", lifetime: timedelta = LOCAL_LIFETIME) -> str:
        """A token with the role *user*."""
        return self._token(subject, Role.USER, datetime.now(UTC) + lifetime)

    def system_token(self, subject: str = "local-system", lifetime: timedelta = LOCAL_LIFETIME) -> str:
        """A token with the role *system*, for every scan."""
        return self._token(subject, Role.SYSTEM, datetime.now(UTC) + lifetime)

    def scan_token(self, scan_id: ScanId, expires: datetime) -> str:
        """A token with the role *system* that is good for one scan, over REST and on the bus. expires: aware."""
        claims = {SCAN_CLAIM: scan_id, "scope": broker_scopes(scan_id, audience=self._audience)}
        return self._token(f"scan-{scan_id}", Role.SYSTEM, expires, claims)

    @property
    def kid(self) -> str:
        """The id of the key, in the header of each token."""
        return self._kid

    def public_pem(self) -> bytes:
        """The public half of the key, as a broker wants it."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def _token(self, subject: str, role: Role, expires: datetime, more: Mapping[str, object] | None = None) -> str:
        if expires.tzinfo is None:
            raise ValueError("the time of expiry needs a time zone")
        claims: dict[str, object] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "iat": int(datetime.now(UTC).timestamp()) - CLOCK_SKEW_S,
            "exp": int(expires.timestamp()),
            **_role_claim(role),
            **(more or {}),
        }
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self._kid})


def broker_scopes(scan_id: ScanId, *, audience: str) -> list[str]:
    """What RabbitMQ's OAuth 2 backend lets the bearer of a scan's token do, in any virtual host.

    Publish reports of this scan to the scanner exchange, and make, bind and read stop queues of this scan; nothing else.
    ``<audience>.<permission>:<virtual host>/<name>[/<routing key>]``, where ``*`` stands for anything.
    """
    queues = f"*/skydriver.stop.{scan_id}.*"
    allowed = (
        f"write:*/skydriver.scanner/*.{scan_id}",
        f"read:*/skydriver.stop/{scan_id}",
        *(f"{permission}:{queues}" for permission in ("configure", "read", "write")),
    )
    return [f"{audience}.{one}" for one in allowed]


def _role_claim(role: Role) -> dict[str, object]:
    """The claim that the default rule of the role looks for."""
    rule = next(rule for rule in DEFAULT_ROLE_RULES if rule.role is role)
    name, *inside = rule.path
    claim: object = [rule.value]
    for part in reversed(inside):
        claim = {part: claim}
    return {name: claim}


def _load_key(path: Path) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPrivateKey) or key.key_size < MINIMUM_RSA_BITS:
        # From None above: the library's text may quote the file.
        raise ValueError(f"{path.name}: not an RSA private key in PEM format of {MINIMUM_RSA_BITS} bits or more")
    return key


def _public_jwk(key: RSAPrivateKey) -> dict[str, object]:
    members = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    # The thumbprint of RFC 7638: the same key always has the same id, without anybody keeping it.
    canonical = orjson.dumps({"e": members["e"], "kty": "RSA", "n": members["n"]})
    kid = base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()
    return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": members["n"], "e": members["e"]}
