"""One rule takes credentials out of what is shown."""

import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_common.redaction import REDACTED, redact_document, redact_text

CANARY = "canary-4f1d"


def _token(**header: str) -> str:
    return jwt.encode({"sub": CANARY, "scan_id": "s"}, "k" * 32, algorithm="HS256", headers=header)


@given(
    before=st.text(max_size=10),
    after=st.sampled_from(["", " ", '"', "\n", "&x=1", "]", "é"]),
    claims=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
)
def test_anything_shaped_like_a_token_is_redacted_wherever_it_stands(before: str, after: str, claims: dict[str, Any]) -> None:
    token = jwt.encode(claims, "k" * 32, algorithm="HS256")
    shown = redact_text(before + token + after)
    assert token not in shown
    assert token.rpartition(".")[2] not in shown


@pytest.mark.parametrize("document", [
    {"headers": {"token": CANARY}}, {"Authorization": CANARY}, {"x": [{"user_password": CANARY}]}, {"refresh_token": {"a": CANARY}},
    {"url": f"amqp://u:{CANARY}@h/"}, {"secret": CANARY}, {f"amqp://u:{CANARY}@h/": 1},
])  # fmt: skip
def test_fields_and_texts_with_credentials_are_redacted(document: dict[str, Any]) -> None:
    shown = json.dumps(redact_document(document))
    assert CANARY not in shown
    assert REDACTED in shown


def test_the_rest_of_a_document_stays() -> None:
    document = {"n_tokens": 3, "event": "x", "nested": {"a": [1, None, True, 2.5, "text"]}, "big": 10**40}
    assert redact_document(document) == document


def test_a_document_nested_without_end_is_cut() -> None:
    deep: Any = {"token": CANARY}
    for _ in range(500):
        deep = [deep]
    assert CANARY not in str(redact_document(deep))


def test_five_parts_and_spaces_in_the_header_are_tokens_too() -> None:
    token = _token(kid="1")
    assert redact_text(f"a {token}.xx.yy b") == f"a {REDACTED} b"
    assert redact_text("eyAiYWxnIjoiSFMyNTYifQ.eyJzdWIiOiJ4In0.c2ln") == REDACTED
