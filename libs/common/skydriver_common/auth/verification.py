"""Tokens checked: signature, issuer, audience, times; then roles. Source: REST contract 1.2."""

import hashlib
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jwt
from jwt.exceptions import InvalidSubjectError

from skydriver_common.auth.keys import ALGORITHMS, KeySource
from skydriver_common.auth.principals import DEFAULT_ROLE_RULES, SCAN_CLAIM, InvalidToken, Principal, RoleRule, roles_in
from skydriver_common.model.ids import ScanId

__all__ = ["Issuer", "TokenVerifier", "bearer_token"]

LEEWAY_S = 60
TOKEN_LIMIT_CHARACTERS = 16_384
CLAIM_LIMIT_CHARACTERS = 256
_NOT_TEXT = ("Cc", "Cs")
REMEMBER_S = 300.0
"""How long a verified token is believed without looking again; a withdrawn key stops counting after this at the latest."""

_REASONS: tuple[tuple[type[Exception], str], ...] = (  # the first that fits
    (jwt.InvalidSignatureError, "signature does not match"),
    (jwt.ExpiredSignatureError, "expired"),
    (jwt.ImmatureSignatureError, "not valid yet; check the clocks"),
    (jwt.InvalidAudienceError, "issued for another audience"),
    (jwt.InvalidIssuerError, "unknown issuer"),
    (InvalidSubjectError, "claim sub: must be a string"),
    (jwt.InvalidIssuedAtError, "claim iat: must be a number"),
)
_HOSTILE = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
"""What parsing hostile JSON can raise besides the library's own errors (infinite times, thousandfold nesting)."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """An accepted issuer.

    Attributes:
        name: compared exactly with the token's `iss`.
        keys: its public keys.
        scan_tokens_only: accept only tokens limited to a scan; for our own issuer beside an OIDC provider for people, so
            that its key, which lies with the dispatcher, opens nothing else.
        role_rules: where this issuer puts roles of tokens that are good for all scans. Those for single scans come from our own
            signer, which puts roles where the default rules look, whatever is configured for people.
    """

    name: str
    keys: KeySource
    scan_tokens_only: bool = False
    role_rules: tuple[RoleRule, ...] = DEFAULT_ROLE_RULES


def bearer_token(authorization: str | None) -> str:
    """The token in an `Authorization` header. Raises InvalidToken when there is none (RFC 6750, section 2.1)."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise InvalidToken("no bearer token in the Authorization header")
    return token.strip()


class TokenVerifier:
    """Checks tokens of the accepted issuers, and remembers good ones for a while: checking a signature costs CPU."""

    def __init__(
        self,
        issuers: Iterable[Issuer],
        *,
        audience: str,
        remembered: int = 4096,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """remembered: how many tokens at most. clock: Unix seconds, for remembering only."""
        self._issuers = {issuer.name: issuer for issuer in issuers}
        self._audience = audience
        self._remembered = remembered
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """Who the token speaks for.

        Raises InvalidToken, and TryLater when the issuer's keys cannot be had at the moment.
        """
        if len(token) > TOKEN_LIMIT_CHARACTERS:
            raise InvalidToken(f"longer than {TOKEN_LIMIT_CHARACTERS} characters")
        # The digest, so that a memory dump or a debugger shows no tokens.
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        now = self._clock()
        known = self._known.get(digest)
        if known is not None:
            if now < known[0]:
                self._known.move_to_end(digest)
                return known[1]
            del self._known[digest]
        principal, expires = await self._check(token)
        self._known[digest] = (min(now + REMEMBER_S, expires + LEEWAY_S), principal)
        while len(self._known) > self._remembered:
            self._known.popitem(last=False)
        return principal

    async def _check(self, token: str) -> tuple[Principal, float]:
        algorithm, kid = _header(token)
        issuer = self._issuers.get(_claimed_issuer(token))
        if issuer is None:
            raise InvalidToken("unknown issuer")
        key = await issuer.keys.find(kid)
        if key is None:
            raise InvalidToken("unknown signing key (kid)")
        if algorithm not in key.algorithms:
            raise InvalidToken("algorithm does not match the signing key")
        try:
            claims = jwt.decode(
                token,
                key.public,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=issuer.name,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "iss", "sub", "aud"]},
            )
            expires = float(claims["exp"])
        except jwt.MissingRequiredClaimError as error:
            raise InvalidToken(f"claim {error.claim} is missing") from None
        except _HOSTILE as error:
            raise InvalidToken(_reason(error)) from None
        subject, scan_id = claims["sub"], claims.get(SCAN_CLAIM)
        _check_text("sub", subject)
        if SCAN_CLAIM in claims:  # a broken limit must not become no limit
            _check_text(SCAN_CLAIM, scan_id)
        if issuer.scan_tokens_only and scan_id is None:
            raise InvalidToken("this issuer may sign scan tokens only")
        rules = issuer.role_rules if scan_id is None else DEFAULT_ROLE_RULES
        principal = Principal(
            subject, issuer.name, roles_in(claims, rules), ScanId(scan_id) if scan_id else None, expires + LEEWAY_S
        )
        return principal, expires


def _check_text(claim: str, value: object) -> None:
    """Whether a claim can be kept in the log and sent over the bus. Raises InvalidToken."""
    if not isinstance(value, str):
        raise InvalidToken(f"claim {claim}: must be a non-empty string")
    if not value.strip():
        raise InvalidToken(f"claim {claim} is empty")
    if len(value) > CLAIM_LIMIT_CHARACTERS:
        raise InvalidToken(f"claim {claim} is longer than {CLAIM_LIMIT_CHARACTERS} characters")
    if any(unicodedata.category(character) in _NOT_TEXT for character in value):
        raise InvalidToken(f"claim {claim} contains a control character or an unpaired surrogate")


def _header(token: str) -> tuple[str, str]:
    """Algorithm and key id, which are claims of the sender until the signature is checked."""
    try:
        header = jwt.get_unverified_header(token)
    except _HOSTILE:
        raise InvalidToken("not a well-formed JWT") from None
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise InvalidToken("algorithm not accepted")
    if not isinstance(kid, str) or not kid or len(kid) > CLAIM_LIMIT_CHARACTERS:
        raise InvalidToken("header kid is missing")
    if "crit" in header:
        raise InvalidToken("header crit names an unsupported extension")
    return algorithm, kid


def _claimed_issuer(token: str) -> str:
    """Only chooses whose keys to try: the signature decides, and `iss` is compared again after it."""
    try:
        issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except _HOSTILE:
        raise InvalidToken("not a well-formed JWT") from None
    if not isinstance(issuer, str):
        raise InvalidToken("claim iss is missing")
    return issuer


def _reason(error: Exception) -> str:
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), "invalid claims")
