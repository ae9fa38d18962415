"""Error texts, projections and query flags."""

import json

from hypothesis import given
from hypothesis import strategies as st

from skydriver_api.failures import STATUS
from skydriver_api.payloads.projections import project, projection_of_query
from skydriver_api.problems import error_body, reason_phrase
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
