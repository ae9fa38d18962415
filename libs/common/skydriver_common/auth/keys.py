"""Where the public keys of an issuer come from: a file, or the issuer itself by OIDC discovery.

A key is good for the algorithms of its own type only, whatever a token's header says: that is what stops a public key from
being taken for an HMAC secret.
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp
import orjson
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from skydriver_common.blocking_calls import BlockingCalls
from skydriver_common.faults import TryLater
from skydriver_common.payloads.read_limited import read_limited

__all__ = ["ALGORITHMS", "JwksFile", "KeySource", "OidcDiscovery", "VerificationKey", "parse_jwks"]

logger = structlog.get_logger(__name__)

RSA_ALGORITHMS = frozenset({"RS256", "RS512"})
EC_ALGORITHMS = frozenset({"ES256"})
ALGORITHMS = RSA_ALGORITHMS | EC_ALGORITHMS
"""Signature algorithms that are accepted at all. Source: REST contract 1.2; ES256 is an extension."""

MINIMUM_RSA_BITS = 2048
DOCUMENT_LIMIT_BYTES = 1 << 20
FETCH_LIMIT_S = 5.0
FILE_LIMIT_S = 2.0
MAX_MISSING = 64
MISSING_REMEMBERED_S = 3600.0
"""Of ids that were in no key set: so long one is refused at once, after it was waited for."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key and the algorithms it may verify."""

    kid: str
    public: RSAPublicKey | EllipticCurvePublicKey
    algorithms: frozenset[str]


class KeySource(Protocol):
    """The keys of one issuer."""

    async def find(self, kid: str) -> VerificationKey | None:
        """The key of this id, or None when the issuer has no such key.

        Raises TryLater when that cannot be told: no keys were ever read, or the issuer is away and may have a new one.
        """


def parse_jwks(document: bytes) -> dict[str, VerificationKey]:
    """The usable keys of a JSON Web Key Set by id. Keys of other kinds, or without an id, are passed over.

    Raises ValueError when it is no key set.
    """
    parsed = orjson.loads(document)
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JSON Web Key Set")
    keys: dict[str, VerificationKey] = {}
    for entry in entries:
        key = _parse_key(entry) if isinstance(entry, dict) else None
        if key is not None:
            keys.setdefault(key.kid, key)
    return keys


def _parse_key(entry: Mapping[str, object]) -> VerificationKey | None:
    kid, use, operations, algorithm = (entry.get(name) for name in ("kid", "use", "key_ops", "alg"))
    if not isinstance(kid, str) or not kid or use not in (None, "sig") or not isinstance(algorithm, str | None):
        return None
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    public: object
    # Only the public members are taken: a private key that somebody published by mistake must not become a signing key here.
    try:
        match entry:
            case {"kty": "RSA", "n": str(n), "e": str(e)}:
                public = RSAAlgorithm.from_jwk({"kty": "RSA", "n": n, "e": e})
                algorithms = RSA_ALGORITHMS
            case {"kty": "EC", "crv": "P-256", "x": str(x), "y": str(y)}:
                public = ECAlgorithm.from_jwk({"kty": "EC", "crv": "P-256", "x": x, "y": y})
                algorithms = EC_ALGORITHMS
            case _:
                return None
    except (PyJWTError, ValueError):
        logger.warning("auth.key-rejected", kid=kid)
        return None
    if isinstance(public, RSAPublicKey):
        if public.key_size < MINIMUM_RSA_BITS:
            logger.warning("auth.key-rejected", kid=kid, bits=public.key_size)
            return None
    elif not isinstance(public, EllipticCurvePublicKey):
        return None
    return VerificationKey(kid, public, algorithms & {algorithm} if algorithm is not None else algorithms)


class JwksFile:
    """Keys from a file, read again when the file changes.

    A file that becomes unreadable or broken, or whose file system hangs, leaves the last good keys in force.
    """

    def __init__(
        self, path: Path, *, settle_s: float = 0.0, limit_s: float = FILE_LIMIT_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """settle_s: how long an id that is not in the file may still come: a new key reaches the signer and the readers of the
        file at different times. Meanwhile ``find`` raises TryLater. 0: where one forged id must not make others wait.
        """
        self._path = path
        self._settle_s = settle_s
        self._limit_s = limit_s
        self._clock = clock
        self._keys: dict[str, VerificationKey] = {}
        self._seen: tuple[int, int, int] | None = None
        self._calls = BlockingCalls("key-file")
        self._look: asyncio.Task[None] | None = None
        self._n_looks = 0
        self._is_readable = False
        self._missing: OrderedDict[str, float] = OrderedDict()

    async def find(self, kid: str) -> VerificationKey | None:
        """See KeySource. An id that is not in the file is looked for again with each call."""
        await self._look_again()
        key = self._keys.get(kid)
        if key is not None:
            self._missing.pop(kid, None)
        elif self._may_still_come(kid):
            raise TryLater("the token's signing key is not loaded yet", after_s=5.0)
        return key

    async def _look_again(self) -> None:
        """See to it that a look at the file has begun after this was called, and has ended. Raises TryLater without any keys."""
        before = self._n_looks
        while self._n_looks == before:
            if self._look is None:
                self._n_looks += 1
                self._look = asyncio.create_task(self._read())
                self._look.add_done_callback(self._look_has_ended)
            await asyncio.wait([self._look])
        if self._look is not None:  # somebody else has begun it
            await asyncio.wait([self._look])
        if not self._is_readable and not self._keys:
            raise TryLater("the JWKS file cannot be read", after_s=5.0)

    def _look_has_ended(self, _: object) -> None:
        self._look = None

    async def _read(self) -> None:
        """Take over what the file holds, when it has changed."""
        try:
            changed = await self._calls.run(partial(_changed_keys, self._path, self._seen), limit_s=self._limit_s)
        except (OSError, ValueError) as error:
            logger.warning("auth.jwks-file-unreadable", error=type(error).__name__)
            self._is_readable = False
            return
        self._is_readable = True
        if changed is not None:
            self._seen, self._keys = changed

    def _may_still_come(self, kid: str) -> bool:
        """Whether this id has been missing for a short time only. Few are waited for at once: ids can be invented."""
        now = self._clock()
        while self._missing and now - next(iter(self._missing.values())) > MISSING_REMEMBERED_S:
            self._missing.popitem(last=False)
        if self._settle_s and kid not in self._missing and len(self._missing) < MAX_MISSING:
            self._missing[kid] = now
        return now - self._missing.get(kid, float("-inf")) < self._settle_s


def _changed_keys(
    path: Path, seen: tuple[int, int, int] | None
) -> tuple[tuple[int, int, int], dict[str, VerificationKey]] | None:
    """What tells this version of the file from another, and its keys; None when it is the one that was seen. Blocks."""
    stat = os.stat(path)
    found = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return None if found == seen else (found, parse_jwks(path.read_bytes()))


class OidcDiscovery:
    """Keys from the issuer, by its discovery document (OpenID Connect Discovery 1.0, sections 3 and 4).

    They are fetched at the first use, again when they are older than `max_age_s`, and for an id nobody knows, but never
    more often than every `pause_s`: tokens with invented ids must not turn into requests to the issuer. Who asks for an
    unknown id after the last time waits for the next: the issuer may have got a new key since. While the issuer is away the
    last keys stay in force. key_hosts: hosts (with a port that is not the usual one) beside the issuer's own that may keep the
    keys; no other is asked, whatever the document says.
    """

    def __init__(
        self,
        issuer: str,
        session: aiohttp.ClientSession,
        *,
        key_hosts: Collection[str] = (),
        max_age_s: float = 3600.0,
        pause_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._session = session
        self._key_hosts = {urlsplit(issuer).netloc.lower(), *(host.lower() for host in key_hosts)}
        self._max_age_s = max_age_s
        self._pause_s = pause_s
        self._clock = clock
        self._keys: dict[str, VerificationKey] = {}
        self._fresh_until = float("-inf")
        self._quiet_until = float("-inf")
        self._asked_at = float("-inf")
        self._away = False
        self._lock = asyncio.Lock()

    async def find(self, kid: str) -> VerificationKey | None:
        """See KeySource."""
        key = self._keys.get(kid)
        now = self._clock()
        # A known key does not wait for a refresh that somebody else has begun.
        if key is not None and (now < self._fresh_until or now < self._quiet_until or self._lock.locked()):
            return key
        async with self._lock:
            pause_s = self._quiet_until - self._clock()
            if self._asked_at < now and not (self._away and pause_s > 0):
                await asyncio.sleep(max(0.0, pause_s))
                await self._refresh()
        key = self._keys.get(kid)
        if key is None and self._away:
            raise TryLater("the token issuer is unreachable", after_s=self._pause_s)
        return key

    async def _refresh(self) -> None:
        self._asked_at = self._clock()
        try:
            keys = parse_jwks(await self._fetch(await self._jwks_uri()))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._away = True
            # The text of a ValueError is ours or the JSON parser's; others may quote what the issuer sent.
            detail = str(error) if isinstance(error, ValueError) else type(error).__name__
            logger.warning("auth.issuer-unreachable", issuer=self._issuer, error=detail, keys_kept=len(self._keys))
        else:
            self._away = False
            self._fresh_until = self._clock() + self._max_age_s
            if keys.keys() != self._keys.keys():
                logger.info("auth.keys-changed", issuer=self._issuer, kids=sorted(keys))
            self._keys = keys
        finally:
            self._quiet_until = self._clock() + self._pause_s

    async def _jwks_uri(self) -> str:
        document = orjson.loads(await self._fetch(self._issuer.rstrip("/") + "/.well-known/openid-configuration"))
        match document:
            case {"issuer": str(issuer), "jwks_uri": str(uri)}:
                if issuer != self._issuer:
                    raise ValueError("the OIDC discovery document names another issuer")
                if urlsplit(self._issuer).scheme == "https" and urlsplit(uri).scheme != "https":
                    raise ValueError("the OIDC discovery document's jwks_uri must use https")
                if urlsplit(uri).netloc.lower() not in self._key_hosts:
                    raise ValueError("the OIDC discovery document's jwks_uri is on another host (SKYDRIVER_AUTH_KEY_HOSTS)")
                return uri
            case _:
                raise ValueError("the OIDC discovery document lacks issuer or jwks_uri")

    async def _fetch(self, url: str) -> bytes:
        limit = aiohttp.ClientTimeout(total=FETCH_LIMIT_S)
        async with self._session.get(
            url, timeout=limit, allow_redirects=False, headers={"Accept": "application/json"}
        ) as response:
            if response.status != 200:
                raise ValueError(f"the issuer responded with status {response.status}")
            return await read_limited(response, DOCUMENT_LIMIT_BYTES)
