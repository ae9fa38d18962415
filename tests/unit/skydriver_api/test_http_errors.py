"""Error texts, projections and query flags."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from skydriver_api.http.http_errors import STATUS, error_body, reason_phrase
from skydriver_api.payloads.projections import project, projection_of_query
from skydriver_common.model import event_codec
from skydriver_common.model.rejections import Code


@given(st.text())
def test_a_reason_phrase_is_one_printable_line(text: str) -> None:
    phrase = reason_phrase(text)
    assert len(phrase) <= 400
    assert all(" " <= char <= "~" for char in phrase)
    assert json.loads(error_body(400, text)).keys() == {"error", "reason", "message", "code"}


def test_every_refusal_has_a_status() -> None:
    assert STATUS.keys() == set(Code)


def test_projections_select_fields_and_ignore_strangers() -> None:
    manifest = b'{"scan_id":"x","priority":1,"progress":null}'
    assert project(manifest, None) is manifest
    assert json.loads(project(manifest, frozenset({"priority", "a.b"}))) == {"priority": 1}
    assert projection_of_query("") is None
    assert projection_of_query("scan_id|*") is None
    assert projection_of_query("scan_id|priority") == frozenset({"scan_id", "priority"})


DOCUMENTS = st.dictionaries(
    st.text(max_size=3),
    st.recursive(
        st.one_of(st.integers(-(10**40), 10**40), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5), st.none(),
                  st.booleans()),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
        max_leaves=8,
    ),
    max_size=4,
)  # fmt: skip


@given(DOCUMENTS, st.sets(st.text(max_size=3)), st.booleans())
def test_a_projection_only_selects(document: dict[str, Any], others: set[str], has_mark: bool) -> None:
    """has_mark: as ``encode`` writes what holds long integers; documents that others put together come without it."""
    stored = event_codec.encode(document) if has_mark else json.dumps(document).encode()
    half = {*others, *list(document)[::2]}
    chosen = project(stored, frozenset(half))
    assert same(json.loads(chosen), {name: value for name, value in document.items() if name in half})


def same(a: Any, b: Any) -> bool:
    """Equal values of equal kinds: of numbers, each digit."""
    return repr(a) == repr(b)
