"""Rewritten regular expressions are found by Postgres in the same texts as by Python."""

import re
from collections.abc import Iterator
from functools import reduce
from operator import or_
from typing import LiteralString

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skydriver_api.find.errors import BadFilter
from skydriver_api.find.regex import to_postgres
from tests.support.find_evaluation import Connection, connect

FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}
FIND: LiteralString = 'SELECT t COLLATE "pg_c_utf8" ~ $1 FROM unnest($2::text[]) WITH ORDINALITY AS u(t, n) ORDER BY n'

CHARACTERS = st.sampled_from(
    [*"abB1_- é]}=:#&", "{", r"\n", r"\]", r"\.", r"\-", r"\\", r"\t", r"\x41", r"\u00e9"],
)
MEMBERS = st.one_of(
    CHARACTERS.filter(lambda text: text not in "]-"),
    st.sampled_from(["a-b", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "A-Z", "["]),
)
SETS = st.builds(
    lambda negated, members: f"[{negated}{''.join(members)}]",
    st.sampled_from(["", "^"]),
    st.lists(MEMBERS, min_size=1, max_size=3),
)
ATOMS = st.one_of(CHARACTERS, st.sampled_from([".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S"]), SETS)
QUANTIFIERS = st.sampled_from(["", "", "*", "+", "?", "{2}", "{0,1}", "{1,}", "*?", "+?", "??"])
ANCHORS = st.sampled_from(["^", "$", r"\b", r"\B", r"\A"])


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: f"{a}|{b}", inner, inner),
        st.builds(lambda mark, a, times: f"{mark}{a}){times}", st.sampled_from(["(", "(?:", "(?P<n>"]), inner, QUANTIFIERS),
        st.builds(lambda mark, a: f"{mark}{a})", st.sampled_from(["(?=", "(?!"]), inner),
        st.builds(lambda mark, a: f"{mark}{a})", st.sampled_from(["(?<=", "(?<!"]), ATOMS),
    )


ANY_TEXT = st.text(
    st.one_of(st.sampled_from(r"\()[]{}*+?|^$.-,:=!<>#ab01dwsxu "), st.characters(codec="utf-8", min_codepoint=1)), max_size=14
)
EXPRESSIONS = st.recursive(st.one_of(st.builds(lambda a, times: a + times, ATOMS, QUANTIFIERS), ANCHORS), _larger, max_leaves=6)


@pytest.fixture
def postgres(database: str) -> Iterator[Connection]:
    with connect(database) as connection:
        yield connection


@pytest.mark.filterwarnings("ignore:Possible")
def test_an_expression_is_found_in_the_same_texts_as_by_python(postgres: Connection) -> None:
    """Set aside: `\\w`, `\\b` beside é (Unicode in Python, ASCII here as in PCRE); `\\B` in no text (wrong before Python 3.14)."""

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(EXPRESSIONS, st.sets(st.sampled_from("imsx")), st.lists(st.text("abAB1_- \n]é", max_size=6), min_size=1, max_size=8))
    def agree(expression: str, options: set[str], texts: list[str]) -> None:
        flags = reduce(or_, (FLAGS[option] for option in options), re.NOFLAG)
        if re.search(r"\\[wWbB]", expression):
            if "é" in expression or r"\u00e9" in expression:
                return
            texts = [text.replace("é", "e") for text in texts]
            flags |= re.ASCII
        if r"\B" in expression:
            texts = [text for text in texts if text]
        if re.search(r"\[[:=]", expression):  # looks like a POSIX class: refused here, characters for Python
            return
        try:
            reference = re.compile(expression, flags)
        except re.error:
            return
        try:
            rewritten = to_postgres(expression, frozenset(options), "here")
        except BadFilter as refused:  # `(?=a) *` under x: the space is ignored, and a repeated assertion is refused here
            if ("x" in options and "nothing to repeat" in str(refused)) or "nested" in str(refused):
                return
            raise
        answers = [answer for (answer,) in postgres.execute(FIND, [rewritten, texts])]
        assert answers == [reference.search(text) is not None for text in texts]

    agree()


def test_what_the_reader_accepts_the_engine_accepts(postgres: Connection) -> None:
    """Whatever characters come: refused by us with BadFilter, or a valid expression for Postgres; nothing third."""

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.text(
            st.one_of(st.sampled_from(r"\()[]{}*+?|^$.-,:=!<>#ab01dwsxu "), st.characters(codec="utf-8", min_codepoint=1)),
            max_size=14,
        )
    )
    def accepted(expression: str) -> None:
        try:
            rewritten = to_postgres(expression, frozenset("i"), "here")
        except BadFilter:
            return
        postgres.execute(FIND, [rewritten, ["ab"]])

    accepted()


@pytest.mark.parametrize(
    ("expression", "text", "is_found"),
    [
        ("a$", "a\n", True),
        ("a$", "a\nb", False),
        (r"a\Z", "a\n", True),
        (r"a\z", "a\n", False),
        ("^$", "", True),
        ("", "anything", True),
        ("(a|)b{2}", "bb", True),
        ("(?i)STRASSE|é", "É", True),
        (r"(?P<year>\d{4})-(?<day>\d+)", "2025-7", True),
        ("a(?#note)b", "ab", True),
        (r"\x{1F600}", "😀", True),
        ("^.$", "😀", True),
        ("[^\\W_]", "_", False),
        ("***=a", "a", None),
        ("[[:alpha:]]", "a", None),
        ("[[:]", ":", True),
        ("((a+b)*c)*", "d", True),
        ("(((a*)*)*)*", "a", None),
        ("(b|(((a+){2})+|c){1,3}d)*", "a", None),
        ("((((a?)?)?)?)?", "a", True),
    ],
)
def test_details_of_the_dialect(postgres: Connection, expression: str, text: str, is_found: bool | None) -> None:
    if is_found is None:
        with pytest.raises(BadFilter):
            to_postgres(expression, frozenset(), "here")
        return
    assert [answer for (answer,) in postgres.execute(FIND, [to_postgres(expression, frozenset(), "here"), [text]])] == [
        is_found
    ]
