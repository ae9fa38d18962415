"""What goes into a jsonb column can be stored, whatever it holds."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from skydriver_common.db.jsonb import jsonb_text

_TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=8)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(_VALUES)
def test_any_value_is_encoded_without_what_postgres_refuses(value: object) -> None:
    text = jsonb_text(value)
    text.encode("utf-8")
    orjson.loads(text)
    assert not has_nul(orjson.loads(text))


def has_nul(value: object) -> bool:
    match value:
        case str():
            return "\0" in value
        case dict():
            return any(has_nul(key) or has_nul(each) for key, each in value.items())
        case list():
            return any(map(has_nul, value))
        case _:
            return False


def test_what_is_harmless_stays_as_it_is() -> None:
    value = {"a": ["ä\n\\u0000 written out", 1, 2.5, True, None]}
    assert orjson.loads(jsonb_text(value)) == value
