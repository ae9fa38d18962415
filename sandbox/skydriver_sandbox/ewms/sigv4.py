"""Presigned requests: the check of AWS signature version 4 in a query string, for one known key."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

_MAX_EXPIRES_S = 604_800


class SignatureRefusedError(Exception):
    """The request is not (or no longer) signed well; `code` is S3's name for why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")


def signature(
    secret: str, region: str, method: str, path: str, query: Sequence[tuple[str, str]], headers: Mapping[str, str], signed: str
) -> str:
    """The signature of a presigned S3 request, hex.

    path: decoded, with a leading slash; query: decoded pairs without X-Amz-Signature; headers: by lower-case name;
    signed: the names of X-Amz-SignedHeaders, joined by `;`.
    """
    values = dict(query)
    moment = values["X-Amz-Date"]
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    pairs = sorted((_encoded(name), _encoded(value)) for name, value in query)
    canonical = "\n".join(
        [
            method,
            quote(path, safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in signed.split(";")),
            "",
            signed,
            "UNSIGNED-PAYLOAD",
        ]
    )
    to_sign = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret}".encode()
    for part in (moment[:8], region, "s3", "aws4_request", to_sign):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()


def check_presigned(
    key_id: str,
    secret: str,
    region: str,
    *,
    method: str,
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
    now: datetime,
) -> None:
    """Raises SignatureRefusedError: AccessDenied (unsigned, expired, not yet valid), InvalidAccessKeyId,
    AuthorizationQueryParametersError, SignatureDoesNotMatch. Arguments as for `signature`; headers include `host`."""
    values = dict(query)
    if "X-Amz-Signature" not in values:
        raise SignatureRefusedError("AccessDenied")
    try:
        start = datetime.strptime(values["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        expires_s = int(values["X-Amz-Expires"])
        given_key, date, given_region, service, ending = values["X-Amz-Credential"].rsplit("/", 4)
        signed = values["X-Amz-SignedHeaders"]
        algorithm = values["X-Amz-Algorithm"]
    except (KeyError, ValueError) as error:
        raise SignatureRefusedError("AuthorizationQueryParametersError") from error
    scope_is_right = (date, given_region, service, ending) == (f"{start:%Y%m%d}", region, "s3", "aws4_request")
    is_in_form = algorithm == "AWS4-HMAC-SHA256" and 0 < expires_s <= _MAX_EXPIRES_S and "host" in signed.split(";")
    if not (scope_is_right and is_in_form):
        raise SignatureRefusedError("AuthorizationQueryParametersError")
    if given_key != key_id:
        raise SignatureRefusedError("InvalidAccessKeyId")
    unsigned = [(name, value) for name, value in query if name != "X-Amz-Signature"]
    expected = signature(secret, region, method, path, unsigned, headers, signed)
    if not hmac.compare_digest(expected, values["X-Amz-Signature"]):
        raise SignatureRefusedError("SignatureDoesNotMatch")
    if not start - timedelta(minutes=15) <= now <= start + timedelta(seconds=expires_s):
        raise SignatureRefusedError("AccessDenied")
