"""Tokens: what is issued is accepted, and everything else is refused with a reason that shows nothing of the token."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from structlog.testing import capture_logs

from skydriver_common.auth import (
    InvalidToken,
    Issuer,
    JwksFile,
    OidcDiscovery,
    Principal,
    Role,
    RoleRule,
    TokenSigner,
    TokenVerifier,
    VerificationKey,
    bearer_token,
    ensure_key,
)
from skydriver_common.auth.keys import parse_jwks
from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from tests.support.waiting import until

ISSUER = "skydriver-local"
AUDIENCE = "skydriver"
SCAN = ScanId("018c2f0a1b2xabcdefabcdefabcdef12")
USERS: dict[str, Any] = {"resource_access": {"skydriver-external": {"roles": ["users"]}}}


class FixedKeys:
    """A key source from a list, counting how often it is asked."""

    def __init__(self, *entries: dict[str, Any]) -> None:
        self.keys = parse_jwks(json.dumps({"keys": list(entries)}).encode())
        self.asked = 0

    async def find(self, kid: str) -> VerificationKey | None:
        self.asked += 1
        return self.keys.get(kid)


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def other_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def rsa_jwk(key: rsa.RSAPrivateKey, kid: str = "rsa", **more: Any) -> dict[str, Any]:
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


def ec_jwk(key: ec.EllipticCurvePrivateKey, kid: str = "ec", **more: Any) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims of a user, changed; None takes one away."""
    now = int(time.time())
    whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 600, **USERS, **changes}
    return {name: value for name, value in whole.items() if value is not None}


def signed(key: Any, *, algorithm: str = "RS256", kid: str | None = "rsa", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": kid} if kid is not None else {})


def by_hand(header: dict[str, Any], payload: bytes, sign: Any) -> str:
    """A token that the library would refuse to make."""

    def part(content: bytes) -> bytes:
        return base64.urlsafe_b64encode(content).rstrip(b"=")

    body = part(json.dumps(header).encode()) + b"." + part(payload)
    return (body + b"." + part(sign(body))).decode()


def verifier(*entries: dict[str, Any], **more: Any) -> TokenVerifier:
    return TokenVerifier([Issuer(ISSUER, FixedKeys(*entries))], audience=AUDIENCE, **more)


async def refusal(checker: TokenVerifier, token: str) -> str:
    with pytest.raises(InvalidToken) as caught:
        await checker.verify(token)
    return caught.value.reason


async def test_a_good_token_gives_its_subject_and_roles(rsa_key: rsa.RSAPrivateKey) -> None:
    principal = await verifier(rsa_jwk(rsa_key)).verify(signed(rsa_key))
    assert principal == Principal("ada", ISSUER, frozenset({Role.USER}), None)


@pytest.mark.parametrize("algorithm", ["RS256", "RS512"])
async def test_rsa_algorithms_of_the_contract_are_accepted(rsa_key: rsa.RSAPrivateKey, algorithm: str) -> None:
    assert (await verifier(rsa_jwk(rsa_key)).verify(signed(rsa_key, algorithm=algorithm))).subject == "ada"


async def test_es256_is_accepted_with_a_p256_key(ec_key: ec.EllipticCurvePrivateKey) -> None:
    assert (await verifier(ec_jwk(ec_key)).verify(signed(ec_key, algorithm="ES256", kid="ec"))).subject == "ada"


@pytest.mark.parametrize("algorithm", ["RS384", "PS256"])
async def test_other_algorithms_are_refused_even_with_a_fitting_key(rsa_key: rsa.RSAPrivateKey, algorithm: str) -> None:
    assert await refusal(verifier(rsa_jwk(rsa_key)), signed(rsa_key, algorithm=algorithm)) == "algorithm not accepted"


async def test_a_key_that_names_its_algorithm_verifies_no_other(rsa_key: rsa.RSAPrivateKey) -> None:
    checker = verifier(rsa_jwk(rsa_key, alg="RS512"))
    assert await refusal(checker, signed(rsa_key)) == "algorithm does not match the signing key"
    assert (await checker.verify(signed(rsa_key, algorithm="RS512"))).subject == "ada"


async def test_an_unsigned_token_is_refused(rsa_key: rsa.RSAPrivateKey) -> None:
    payload = json.dumps(claims()).encode()
    for algorithm in ("none", "None", "NONE", ""):
        token = by_hand({"alg": algorithm, "kid": "rsa", "typ": "JWT"}, payload, lambda _: b"")
        assert await refusal(verifier(rsa_jwk(rsa_key)), token) == "algorithm not accepted"


async def test_the_public_key_taken_as_hmac_secret_is_refused(rsa_key: rsa.RSAPrivateKey) -> None:
    public = rsa_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    payload = json.dumps(claims()).encode()
    token = by_hand({"alg": "HS256", "kid": "rsa"}, payload, lambda body: hmac.digest(public, body, hashlib.sha256))
    assert await refusal(verifier(rsa_jwk(rsa_key)), token) == "algorithm not accepted"


async def test_an_algorithm_of_another_key_type_is_refused(
    rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey
) -> None:
    checker = verifier(rsa_jwk(rsa_key), ec_jwk(ec_key))
    assert await refusal(checker, signed(ec_key, algorithm="ES256", kid="rsa")) == "algorithm does not match the signing key"
    assert await refusal(checker, signed(rsa_key, kid="ec")) == "algorithm does not match the signing key"


@pytest.mark.parametrize("kid", [None, ""])
async def test_a_token_that_does_not_name_its_key_is_refused(rsa_key: rsa.RSAPrivateKey, kid: str | None) -> None:
    assert await refusal(verifier(rsa_jwk(rsa_key)), signed(rsa_key, kid=kid)) == "header kid is missing"


async def test_a_token_that_demands_an_extension_is_refused(rsa_key: rsa.RSAPrivateKey) -> None:
    demands: list[dict[str, Any]] = [{"crit": ["b64"]}, {"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": False}]
    for headers in demands:
        payload, header = json.dumps(claims()).encode(), {"alg": "RS256", "kid": "rsa", **headers}
        token = by_hand(header, payload, lambda body: rsa_key.sign(body, padding.PKCS1v15(), hashes.SHA256()))
        assert await refusal(verifier(rsa_jwk(rsa_key)), token)


async def test_a_foreign_signature_is_refused(rsa_key: rsa.RSAPrivateKey, other_key: rsa.RSAPrivateKey) -> None:
    assert await refusal(verifier(rsa_jwk(rsa_key)), signed(other_key)) == "signature does not match"
    assert await refusal(verifier(rsa_jwk(rsa_key)), signed(other_key, kid="x")) == "unknown signing key (kid)"


async def test_a_changed_payload_is_refused(rsa_key: rsa.RSAPrivateKey) -> None:
    head, _, signature = signed(rsa_key).split(".")
    payload = base64.urlsafe_b64encode(json.dumps(claims(sub="eve")).encode()).rstrip(b"=").decode()
    assert await refusal(verifier(rsa_jwk(rsa_key)), f"{head}.{payload}.{signature}") == "signature does not match"


@pytest.mark.parametrize("missing", ["exp", "iat", "sub", "aud"])
async def test_each_required_claim_must_be_there(rsa_key: rsa.RSAPrivateKey, missing: str) -> None:
    changes: dict[str, Any] = {missing: None}
    assert await refusal(verifier(rsa_jwk(rsa_key)), signed(rsa_key, **changes)) == f"claim {missing} is missing"


NOW = int(time.time())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": None}, "claim iss is missing"),
        ({"iss": "skydriver-local/"}, "unknown issuer"),
        ({"iss": "SKYDRIVER-LOCAL"}, "unknown issuer"),
        ({"aud": "other"}, "issued for another audience"),
        ({"aud": ["other"]}, "issued for another audience"),
        ({"exp": NOW - 120}, "expired"),
        ({"iat": NOW + 900}, "not valid yet; check the clocks"),
        ({"nbf": NOW + 900}, "not valid yet; check the clocks"),
        ({"sub": ""}, "claim sub is empty"),
        ({"scan_id": 5}, "claim scan_id: must be a non-empty string"),
        ({"scan_id": ""}, "claim scan_id is empty"),
        ({"sub": " "}, "claim sub is empty"),
        ({"sub": "a\0b"}, "claim sub contains a control character or an unpaired surrogate"),
        ({"sub": "a\x1b[2Jb"}, "claim sub contains a control character or an unpaired surrogate"),
        ({"sub": "a\x85b"}, "claim sub contains a control character or an unpaired surrogate"),
        ({"sub": "\ud83d"}, "claim sub contains a control character or an unpaired surrogate"),
        ({"scan_id": "\ud83d"}, "claim scan_id contains a control character or an unpaired surrogate"),
        ({"sub": "x" * 257}, "claim sub is longer than 256 characters"),
        ({"scan_id": "x" * 257}, "claim scan_id is longer than 256 characters"),
        ({"exp": "soon"}, "invalid claims"),
        ({"exp": float("inf")}, "invalid claims"),
    ],
)
async def test_a_signed_token_with_wrong_claims_is_refused(
    rsa_key: rsa.RSAPrivateKey, changes: dict[str, Any], reason: str
) -> None:
    assert await refusal(verifier(rsa_jwk(rsa_key)), signed(rsa_key, **changes)) == reason


@pytest.mark.parametrize("changes", [{"exp": NOW - 30}, {"iat": NOW + 30, "exp": NOW + 90}, {"aud": ["other", AUDIENCE]}])
async def test_clocks_may_differ_by_a_minute_and_audiences_be_several(
    rsa_key: rsa.RSAPrivateKey, changes: dict[str, Any]
) -> None:
    changes = {name: value + int(time.time()) - NOW if isinstance(value, int) else value for name, value in changes.items()}
    assert (await verifier(rsa_jwk(rsa_key)).verify(signed(rsa_key, **changes))).subject == "ada"


@pytest.mark.parametrize(
    "token",
    ["", "x", "a.b", "a.b.c", "....", "é.é.é", "\ud800", "e30.e30.e30", "x" * 20_000, "bnVsbA.bnVsbA.", "W10.W10.W10"],
    ids=lambda token: ascii(token[:10]),
)
async def test_what_is_no_token_is_refused(rsa_key: rsa.RSAPrivateKey, token: str) -> None:
    assert await refusal(verifier(rsa_jwk(rsa_key)), token)


async def test_deeply_nested_json_is_refused(rsa_key: rsa.RSAPrivateKey) -> None:
    payload = b'{"iss":' + b"[" * 8_000
    token = by_hand({"alg": "RS256", "kid": "rsa"}, payload, lambda _: b"x")
    assert await refusal(verifier(rsa_jwk(rsa_key)), token) == "not a well-formed JWT"


@settings(max_examples=150, deadline=None)
@given(
    header=st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "b64"]), st.none() | st.text() | st.integers() | st.lists(st.text())
    ),
    payload=st.recursive(
        st.none() | st.floats() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ),
)
def test_no_shape_of_header_or_payload_does_anything_but_refuse(header: dict[str, Any], payload: Any) -> None:
    token = by_hand({"alg": "RS256", "kid": "x", **header}, json.dumps(payload).encode(), lambda _: b"signature")
    with pytest.raises(InvalidToken):
        asyncio.run(verifier().verify(token))


async def test_reasons_and_logs_show_nothing_of_the_token(rsa_key: rsa.RSAPrivateKey, other_key: rsa.RSAPrivateKey) -> None:
    tokens = [
        signed(other_key, sub="canary"),
        signed(rsa_key, kid="canary"),
        signed(rsa_key, aud="canary"),
        "canary.canary.canary",
    ]
    with capture_logs() as logs:
        reasons = [await refusal(verifier(rsa_jwk(rsa_key)), token) for token in tokens]
    assert "canary" not in " ".join(reasons) + str(logs)


@pytest.mark.parametrize(
    ("more", "roles"),
    [
        (USERS, {Role.USER}),
        ({"resource_access": {"skydriver-internal": {"roles": ["x", "system"]}}}, {Role.SYSTEM}),
        (
            {"resource_access": {"skydriver-internal": {"roles": ["system"]}, "skydriver-external": {"roles": ["users"]}}},
            {Role.USER, Role.SYSTEM},
        ),
        ({"resource_access": {"skydriver-external": {"roles": ["system"]}}}, set()),
        ({"resource_access": {"skydriver-external": {"roles": {"users": 1}}}}, set()),
        ({"resource_access": {"skydriver-external": {"roles": "users2"}}}, set()),
        ({"resource_access": ["skydriver-external"]}, set()),
        ({"resource_access": None}, set()),
    ],
)
async def test_roles_come_from_their_claims_and_odd_claims_grant_nothing(
    rsa_key: rsa.RSAPrivateKey, more: dict[str, Any], roles: set[Role]
) -> None:
    assert (await verifier(rsa_jwk(rsa_key)).verify(signed(rsa_key, **more))).roles == roles


async def test_role_claims_can_be_configured(rsa_key: rsa.RSAPrivateKey) -> None:
    rules = [RoleRule.parse(Role.SYSTEM, "x.example/groups=wheel"), RoleRule.parse(Role.USER, "groups = people")]
    checker = TokenVerifier([Issuer(ISSUER, FixedKeys(rsa_jwk(rsa_key)), role_rules=tuple(rules))], audience=AUDIENCE)
    assert (await checker.verify(signed(rsa_key, groups=["people"]))).roles == {Role.USER}
    dotted: dict[str, Any] = {"x.example": {"groups": ["wheel"]}}
    assert (await checker.verify(signed(rsa_key, **dotted))).roles == {Role.SYSTEM}
    assert (await checker.verify(signed(rsa_key))).roles == frozenset()


@pytest.mark.parametrize("scan_tokens_only", [True, False], ids=["issuer of its own", "one issuer for all"])
async def test_role_claims_of_a_provider_do_not_lock_scanners_out(rsa_key: rsa.RSAPrivateKey, scan_tokens_only: bool) -> None:
    signer = TokenSigner(rsa_key, issuer=ISSUER, audience=AUDIENCE)
    rules = (RoleRule.parse(Role.SYSTEM, "groups=machines"), RoleRule.parse(Role.USER, "groups=people"))
    keys = FixedKeys(rsa_jwk(rsa_key, signer.kid))
    checker = TokenVerifier([Issuer(ISSUER, keys, scan_tokens_only, rules)], audience=AUDIENCE)
    scanner = await checker.verify(signer.scan_token(SCAN, datetime.now(UTC) + timedelta(hours=1)))
    assert (scanner.roles, scanner.scan_id) == (frozenset({Role.SYSTEM}), SCAN)
    if not scan_tokens_only:  # of a token for all scans the configured claims decide
        assert (await checker.verify(signer.system_token())).roles == frozenset()


@pytest.mark.parametrize("text", ["", "roles", "=users", "a//b=users", "roles=", "/=x"])
def test_a_role_rule_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="claim/claim"):
        RoleRule.parse(Role.USER, text)


async def test_a_scan_token_is_limited_to_its_scan(rsa_key: rsa.RSAPrivateKey) -> None:
    signer = TokenSigner(rsa_key, issuer=ISSUER, audience=AUDIENCE)
    kid = jwt.get_unverified_header(signer.system_token())["kid"]
    checker = verifier(rsa_jwk(rsa_key, kid))
    scanner = await checker.verify(signer.scan_token(SCAN, datetime.now(UTC) + timedelta(hours=1)))
    assert (scanner.roles, scanner.scan_id) == (frozenset({Role.SYSTEM}), SCAN)
    assert scanner.may_touch(SCAN)
    assert not scanner.may_touch(ScanId("another"))
    system = await checker.verify(signer.system_token())
    assert system.scan_id is None
    assert system.may_touch(SCAN)
    assert (await checker.verify(signer.user_token("ada"))).roles == {Role.USER}
    expired = signer.scan_token(SCAN, datetime.now(UTC) - timedelta(minutes=5))
    assert await refusal(checker, expired) == "expired"
    with pytest.raises(ValueError, match="time zone"):
        signer.scan_token(SCAN, datetime(2030, 1, 1))  # noqa: DTZ001  (the point)


async def test_each_issuer_vouches_for_its_own_tokens_only(rsa_key: rsa.RSAPrivateKey, other_key: rsa.RSAPrivateKey) -> None:
    checker = TokenVerifier(
        [
            Issuer("https://people.example", FixedKeys(rsa_jwk(rsa_key))),
            Issuer(ISSUER, FixedKeys(rsa_jwk(other_key)), scan_tokens_only=True),
        ],
        audience=AUDIENCE,
    )
    assert (await checker.verify(signed(rsa_key, iss="https://people.example"))).issuer == "https://people.example"
    assert (await checker.verify(signed(other_key, scan_id=SCAN))).scan_id == SCAN
    assert await refusal(checker, signed(other_key, iss="https://people.example")) == "signature does not match"
    assert await refusal(checker, signed(other_key)) == "this issuer may sign scan tokens only"


async def test_a_verified_token_is_remembered_until_it_expires_but_not_for_long(rsa_key: rsa.RSAPrivateKey) -> None:
    keys = FixedKeys(rsa_jwk(rsa_key))
    now = time.time()
    checker = TokenVerifier([Issuer(ISSUER, keys)], audience=AUDIENCE, clock=lambda: now)
    long, short = signed(rsa_key, exp=int(now) + 9_000), signed(rsa_key, exp=int(now) + 100)
    for token in (long, short, long, short):
        await checker.verify(token)
    assert keys.asked == 2
    now += 170.0  # past the leeway of the short one, by the verifier's clock
    await checker.verify(long)
    assert keys.asked == 2
    await checker.verify(short)
    assert keys.asked == 3
    now += 200.0
    keys.keys.clear()  # the key was withdrawn
    assert await refusal(checker, long) == "unknown signing key (kid)"


async def test_the_memory_of_tokens_is_bounded_and_refused_ones_are_not_in_it(rsa_key: rsa.RSAPrivateKey) -> None:
    keys = FixedKeys(rsa_jwk(rsa_key))
    checker = TokenVerifier([Issuer(ISSUER, keys)], audience=AUDIENCE, remembered=2)
    tokens = [signed(rsa_key, sub=f"user-{number}") for number in range(3)]
    for token in (*tokens, tokens[0], tokens[2]):
        await checker.verify(token)
    assert keys.asked == 4  # the first was forgotten for the third, the third still known
    await refusal(checker, signed(rsa_key, aud="x"))
    assert len(checker._known) == 2


@pytest.mark.parametrize("header", ["Bearer abc", "bearer abc", "  BEARER   abc  "])
def test_the_token_is_taken_from_the_header(header: str) -> None:
    assert bearer_token(header) == "abc"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "abc"])
def test_a_header_without_bearer_token_is_refused(header: str | None) -> None:
    with pytest.raises(InvalidToken, match="no bearer token"):
        bearer_token(header)


def test_the_key_file_is_private_and_the_key_set_beside_it_holds_the_public_half_only(tmp_path: Path) -> None:
    key = tmp_path / "keys with space" / "signing.pem"
    jwks = ensure_key(key)
    assert jwks == key.with_name("jwks.json")
    assert key.stat().st_mode & 0o777 == 0o600
    (entry,) = json.loads(jwks.read_bytes())["keys"]
    assert set(entry) == {"kty", "use", "alg", "kid", "n", "e"}
    assert sorted(path.name for path in key.parent.iterdir()) == ["jwks.json", "signing.pem"]


async def test_what_is_signed_with_the_file_is_verified_with_the_key_set(tmp_path: Path) -> None:
    jwks = ensure_key(tmp_path / "key.pem")
    signer = TokenSigner.from_file(tmp_path / "key.pem", issuer=ISSUER, audience=AUDIENCE)
    checker = TokenVerifier([Issuer(ISSUER, JwksFile(jwks))], audience=AUDIENCE)
    assert (await checker.verify(signer.user_token())).roles == {Role.USER}


def test_making_sure_of_the_key_again_keeps_it_and_repairs_what_is_around_it(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    jwks = ensure_key(key)
    before = key.read_bytes(), jwks.read_bytes()
    jwks.unlink()
    key.chmod(0o644)
    ensure_key(key)
    assert (key.read_bytes(), jwks.read_bytes()) == before
    assert key.stat().st_mode & 0o777 == 0o600


def test_parallel_makers_agree_on_one_key(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    with ThreadPoolExecutor(4) as pool:
        sets = {path.read_bytes() for path in pool.map(lambda _: ensure_key(key), range(4))}
    assert len(sets) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jwks.json", "key.pem"]


def test_a_file_that_is_no_key_is_refused_without_quoting_it(tmp_path: Path, ec_key: ec.EllipticCurvePrivateKey) -> None:
    key = tmp_path / "key.pem"
    elliptic = ec_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"canary", b"", elliptic):
        key.write_bytes(content)
        with pytest.raises(ValueError, match="not an RSA private key") as caught:
            ensure_key(key)
        assert "canary" not in str(caught.value)


def test_keys_that_cannot_verify_are_passed_over(rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey) -> None:
    short = rsa.generate_private_key(65537, 1024)
    p384 = ec.generate_private_key(ec.SECP384R1())
    nameless = rsa_jwk(rsa_key)
    del nameless["kid"]
    entries: list[Any] = [
        rsa_jwk(rsa_key, "encryption", use="enc"),
        rsa_jwk(rsa_key, "signs", key_ops=["sign"]),
        rsa_jwk(rsa_key, "odd-algorithm", alg=["RS256"]),
        rsa_jwk(rsa_key, "broken", n="!"),
        rsa_jwk(short, "short"),
        ec_jwk(p384, "p384"),
        ec_jwk(ec_key, "off-curve", y="AAAA"),
        {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"},
        {"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": "AA"},
        nameless,
        None,
        5,
        ec_jwk(ec_key, "good-ec"),
        rsa_jwk(rsa_key, "good-rsa", key_ops=["verify"], use="sig"),
    ]
    with capture_logs():
        keys = parse_jwks(json.dumps({"keys": entries}).encode())
    assert set(keys) == {"good-ec", "good-rsa"}


def test_a_private_key_that_was_published_is_used_as_a_public_one(rsa_key: rsa.RSAPrivateKey) -> None:
    entry = {**RSAAlgorithm.to_jwk(rsa_key, as_dict=True), "kid": "leaked"}
    del entry["key_ops"]
    key = parse_jwks(json.dumps({"keys": [entry]}).encode())["leaked"]
    assert isinstance(key.public, rsa.RSAPublicKey)


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys": 5}', b"\xff"])
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_jwks(document)


async def test_a_changed_key_file_is_read_again_and_a_broken_one_leaves_the_keys_in_force(
    tmp_path: Path, rsa_key: rsa.RSAPrivateKey
) -> None:
    path = tmp_path / "jwks.json"
    source = JwksFile(path)
    with capture_logs(), pytest.raises(TryLater):
        await source.find("one")
    path.write_text(json.dumps({"keys": [rsa_jwk(rsa_key, "one")]}))
    assert await source.find("one") is not None
    assert await source.find("two") is None
    path.write_text(json.dumps({"keys": [rsa_jwk(rsa_key, "two"), rsa_jwk(rsa_key, "three")]}))
    assert await source.find("two") is not None
    assert await source.find("one") is None
    path.write_text("{")
    with capture_logs() as logs:
        assert await source.find("two") is not None
    os.unlink(path)
    with capture_logs():
        assert await source.find("two") is not None
    assert [line["event"] for line in logs] == ["auth.jwks-file-unreadable"]


async def test_a_key_that_reaches_the_file_late_is_waited_for_a_while_and_an_invented_one_not_again(
    tmp_path: Path, rsa_key: rsa.RSAPrivateKey
) -> None:
    path, clock = tmp_path / "jwks.json", Clock()
    path.write_text(json.dumps({"keys": [rsa_jwk(rsa_key, "old")]}))
    source = JwksFile(path, settle_s=120, clock=clock)
    for kid in ("new", "invented"):
        with pytest.raises(TryLater, match="not loaded yet"):
            await source.find(kid)
    path.write_text(json.dumps({"keys": [rsa_jwk(rsa_key, "old"), rsa_jwk(rsa_key, "new")]}))
    assert await source.find("new") is not None
    clock.now_s += 121
    assert await source.find("invented") is None
    for number in range(100):  # ids can be invented at will: few of them are waited for at once
        with suppress(TryLater):
            await source.find(str(number))
    assert await source.find("one more") is None


async def test_a_key_file_that_hangs_takes_one_thread_and_leaves_the_keys_in_force(
    tmp_path: Path, rsa_key: rsa.RSAPrivateKey
) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [rsa_jwk(rsa_key, "one")]}))
    source = JwksFile(path, limit_s=0.05)
    assert await source.find("one") is not None
    path.unlink()
    os.mkfifo(path)  # whoever opens it waits for a writer
    with capture_logs():
        for _ in range(50):
            assert await source.find("one") is not None
    assert [thread.name for thread in threading.enumerate()].count("key-file") == 1
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 120) == 1
    path.write_text("{}")  # the call that hangs returns
    path.unlink()
    path.write_text(json.dumps({"keys": [rsa_jwk(rsa_key, "two")]}))
    await until(lambda: source.find("two"), "the file is read again")


class Provider:
    """An OpenID provider on loopback whose answers a test sets."""

    def __init__(self) -> None:
        self.issuer = ""
        self.keys: list[dict[str, Any]] = []
        self.discovery: dict[str, Any] = {}
        self.away = False
        self.requests: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(request.path)
        if self.away:
            return web.Response(status=503)
        if request.path.endswith("/openid-configuration"):
            return web.json_response({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/jwks", **self.discovery})
        return web.json_response({"keys": self.keys})


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    app = web.Application()
    app.router.add_get("/{path:.*}", provider.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    provider.issuer = f"http://127.0.0.1:{runner.addresses[0][1]}/realms/sky"
    yield provider
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class Clock:
    """Monotonic seconds that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_keys_are_found_by_discovery_and_fetched_once(
    provider: Provider, session: aiohttp.ClientSession, rsa_key: rsa.RSAPrivateKey
) -> None:
    provider.keys = [rsa_jwk(rsa_key)]
    source = OidcDiscovery(provider.issuer, session)
    checker = TokenVerifier([Issuer(provider.issuer, source)], audience=AUDIENCE)
    tokens = [signed(rsa_key, iss=provider.issuer, sub=f"user-{number}") for number in range(10)]
    principals = await asyncio.gather(*(checker.verify(token) for token in tokens))
    assert {principal.subject for principal in principals} == {f"user-{number}" for number in range(10)}
    assert provider.requests == ["/realms/sky/.well-known/openid-configuration", "/realms/sky/jwks"]


async def test_a_new_key_is_found_and_unknown_ids_do_not_flood_the_issuer(
    provider: Provider, session: aiohttp.ClientSession, rsa_key: rsa.RSAPrivateKey
) -> None:
    clock = Clock()
    provider.keys = [rsa_jwk(rsa_key, "old")]
    source = OidcDiscovery(provider.issuer, session, pause_s=10.0, clock=clock)
    assert await source.find("old") is not None
    provider.keys = [rsa_jwk(rsa_key, "new")]
    for number in range(20):
        assert await source.find(f"invented-{number}") is None
    assert len(provider.requests) == 2
    clock.now_s = 10.0
    assert await source.find("new") is not None
    assert await source.find("old") is None
    assert len(provider.requests) == 4


async def test_a_key_that_is_new_just_after_the_keys_were_asked_for_is_waited_for(
    provider: Provider, session: aiohttp.ClientSession, rsa_key: rsa.RSAPrivateKey
) -> None:
    provider.keys = [rsa_jwk(rsa_key, "old")]
    source = OidcDiscovery(provider.issuer, session, pause_s=0.3)
    assert await source.find("old") is not None
    provider.keys = [rsa_jwk(rsa_key, "old"), rsa_jwk(rsa_key, "new")]
    found = await asyncio.gather(source.find("new"), *(source.find(f"invented-{number}") for number in range(20)))
    assert [key is not None for key in found] == [True] + [False] * 20
    assert len(provider.requests) == 4


async def test_keys_are_refreshed_when_old_and_kept_while_the_issuer_is_away(
    provider: Provider, session: aiohttp.ClientSession, rsa_key: rsa.RSAPrivateKey
) -> None:
    clock = Clock()
    provider.keys = [rsa_jwk(rsa_key)]
    source = OidcDiscovery(provider.issuer, session, max_age_s=100.0, pause_s=10.0, clock=clock)
    assert await source.find("rsa") is not None
    provider.away = True
    clock.now_s = 101.0
    with capture_logs() as logs:
        assert await source.find("rsa") is not None
        assert await source.find("rsa") is not None
        with pytest.raises(TryLater):  # it may be a key of tomorrow
            await source.find("unknown")
    assert len(provider.requests) == 3
    assert [(line["event"], line["keys_kept"]) for line in logs] == [("auth.issuer-unreachable", 1)]
    provider.away, provider.keys = False, []
    clock.now_s = 111.0
    with capture_logs():
        assert await source.find("rsa") is None


async def test_without_any_keys_an_absent_issuer_means_try_later(session: aiohttp.ClientSession, provider: Provider) -> None:
    provider.away = True
    with capture_logs(), pytest.raises(TryLater, match="issuer"):
        await OidcDiscovery(provider.issuer, session).find("rsa")
    with capture_logs(), pytest.raises(TryLater, match="issuer"):
        await OidcDiscovery("http://127.0.0.1:1", session).find("rsa")


@pytest.mark.parametrize("discovery", [{"issuer": "http://evil.example"}, {"jwks_uri": None}, {"jwks_uri": "ftp://x"}], ids=str)
async def test_a_discovery_document_that_does_not_fit_is_not_believed(
    provider: Provider, session: aiohttp.ClientSession, rsa_key: rsa.RSAPrivateKey, discovery: dict[str, Any]
) -> None:
    provider.keys, provider.discovery = [rsa_jwk(rsa_key)], discovery
    with capture_logs(), pytest.raises(TryLater):
        await OidcDiscovery(provider.issuer, session).find("rsa")


@pytest.mark.parametrize("host", ["169.254.169.254", "127.0.0.1:1", "localhost", "[::1]:80"])
async def test_keys_are_taken_from_no_host_but_the_issuers_own_and_those_of_the_settings(
    provider: Provider, session: aiohttp.ClientSession, rsa_key: rsa.RSAPrivateKey, host: str
) -> None:
    provider.keys, provider.discovery = [rsa_jwk(rsa_key)], {"jwks_uri": f"http://{host}/latest/meta-data"}
    with capture_logs() as logs, pytest.raises(TryLater):
        await OidcDiscovery(provider.issuer, session).find("rsa")
    assert "another host" in logs[0]["error"]
    assert len(provider.requests) == 1


async def test_keys_on_another_host_are_taken_when_the_settings_name_it(
    provider: Provider, session: aiohttp.ClientSession, rsa_key: rsa.RSAPrivateKey
) -> None:
    elsewhere = provider.issuer.replace("127.0.0.1", "localhost")
    provider.keys, provider.discovery = [rsa_jwk(rsa_key)], {"jwks_uri": f"{elsewhere}/jwks"}
    host = elsewhere.split("/")[2]
    assert await OidcDiscovery(provider.issuer, session, key_hosts=[host]).find("rsa") is not None


async def test_a_huge_document_is_not_read_to_its_end(
    provider: Provider, session: aiohttp.ClientSession, rsa_key: rsa.RSAPrivateKey
) -> None:
    provider.keys = [rsa_jwk(rsa_key, padding="x" * 2_000_000)]
    with capture_logs() as logs, pytest.raises(TryLater):
        await OidcDiscovery(provider.issuer, session).find("rsa")
    assert "too large" in logs[0]["error"]
