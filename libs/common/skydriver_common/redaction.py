"""The one rule by which secrets are taken out of what is shown: by the name of a field, and by what a text looks like.

The last line of defence, not the first: nobody should log or store a secret. It catches what slips into texts of foreign
exceptions, such as a URL with a password in it, and what senders write into headers and bodies, such as their token. Logs, problems,
dead letters and whatever the command line prints go through here. Pure.
"""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["REDACTED", "is_secret_name", "redact_document", "redact_text"]

REDACTED = "[redacted]"
_MAX_DEPTH = 200
"""A document nested deeper is not one of ours; what lies below is left out."""

_SECRET_NAME = re.compile(
    r"token|secret|passw(?:or)?d|passphrase|authorization|cookie|credential|api_?key|private_?key|signature", re.IGNORECASE
)

_TEXTS: tuple[tuple[re.Pattern[str], str], ...] = (
    # user:password@ in a URL. Up to the last @ before the path, for a password may hold an unescaped one.
    (re.compile(r"([a-z][a-z0-9+.\-]*://)[^/\s'\"<>?#]*@", re.IGNORECASE), rf"\1{REDACTED}@"),
    # Query parameters that grant access, those of presigned object store URLs among them.
    (
        re.compile(
            r"([?&](?:[\w\-]*(?:token|signature|secret|password|credential)|sig|api_?key|code)=)[^&\s'\"<>#]+", re.IGNORECASE
        ),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"\b(bearer|basic)\s+[\w\-.~+/=]{8,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    # A JSON web token on its own: three base64url parts (five when encrypted), the first beginning with "{" and a quote or space.
    (re.compile(r"e(?:yJ|yA|wo|w0)[\w\-]{4,}\.[\w\-]*\.[\w\-]*(?:\.[\w\-]*){0,2}"), REDACTED),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL), REDACTED),
)
_MAY_HOLD_A_SECRET = re.compile(r"://|[?&]\w|bearer|basic|eyJ|eyA|ewo|ew0|-----BEGIN", re.IGNORECASE)


def redact_text(text: str) -> str:
    """The text without passwords in URLs, tokens, signatures and private keys."""
    if not _MAY_HOLD_A_SECRET.search(text):
        return text
    for pattern, replacement in _TEXTS:
        text = pattern.sub(replacement, text)
    return text


def is_secret_name(name: str) -> bool:
    """Return whether a field or header of this name carries a credential."""
    return _SECRET_NAME.search(name) is not None


def redact_document(value: Any) -> Any:
    """Return a document of JSON-native data without the credentials in its fields and texts, names included."""
    return _redact("", value, _MAX_DEPTH)


def _redact(name: str, value: Any, depth: int) -> Any:
    if isinstance(value, bool | int | float | None):
        return value  # counts and times: `n_tokens: 3` is no secret
    if is_secret_name(name):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if depth == 0:
        return "…"
    if isinstance(value, Mapping):
        return {redact_text(str(inner)): _redact(str(inner), item, depth - 1) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redact("", item, depth - 1) for item in value]
    return redact_text(str(value))
