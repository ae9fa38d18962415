"""The table of a scanner's variables: it says what the scanner contract says, and its texts are what a scanner parses."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_common.model import scanner_variables as table
from skydriver_common.model.scanner_variables import VARIABLES, Kind, Source, refusal

CONTRACT = Path(__file__).resolve().parents[4] / "shared" / "contract" / "scanner.md"


def _of_the_contract() -> dict[str, tuple[str, str]]:
    """Name to default and meaning, off the table of chapter 1; ``A / …_B`` and ``A, B`` are several names in one row."""
    chapter = CONTRACT.read_text().partition("## 1. ")[2].partition("\n## ")[0]
    found: dict[str, tuple[str, str]] = {}
    for row in re.findall(r"^\|( `SKYSCAN_.*)\|$", chapter, re.MULTILINE):
        names, defaults, meaning = (cell.strip() for cell in row.split("|"))
        words = re.findall(r"`([^`]+)`", names)
        words = [words[0].rsplit("_", word.count("_"))[0] + word[1:] if word.startswith("…") else word for word in words]
        values = [each.strip().strip('`"') for each in re.split(r" / |, ", defaults)]
        for name, value in zip(words, values * (len(words) if len(values) == 1 else 1), strict=True):
            found[name] = value, meaning
    return found


@pytest.mark.skipif(not CONTRACT.exists(), reason="NOT RUN: ../shared is not there")
def test_the_table_says_what_the_contract_says() -> None:
    contract = _of_the_contract()
    assert set(table.CONTRACT) == set(contract)
    for name, (default, meaning) in contract.items():
        variable = VARIABLES[name]
        assert variable.default == (None if default == "required" else default), name
        if variable.kind is Kind.WHOLE:
            assert default.isdigit(), name
        if "> 0" in meaning:
            assert variable.least == 1, name


def test_names_tell_their_units() -> None:
    for name, variable in VARIABLES.items():
        assert variable.name == name
        assert (variable.kind in (Kind.WHOLE, Kind.NUMBER)) == (variable.most is not None)
        if name.endswith("_SEC") and name in table.CONTRACT:
            assert (variable.kind, variable.unit) == (Kind.WHOLE, "s")


@pytest.mark.parametrize("name", sorted(name for name, each in VARIABLES.items() if each.default is not None))
def test_a_scanners_own_default_is_one_it_starts_with(name: str) -> None:
    assert refusal(name, VARIABLES[name].default) is None


_VALUES = st.integers() | st.floats() | st.booleans() | st.text() | st.integers(-5, 10**6).map(str) | st.floats().map(str)


@given(name=st.sampled_from(sorted(VARIABLES)), value=_VALUES)
def test_what_is_not_refused_is_parsed_as_the_scanner_does(name: str, value: object) -> None:
    variable = VARIABLES[name]
    if refusal(name, value) is not None:
        return
    text = table.text_of(value)
    if variable.kind is Kind.WHOLE:
        assert variable.least is not None
        assert variable.most is not None
        assert variable.least <= int(text) <= variable.most
    elif variable.kind is Kind.NUMBER:
        assert variable.most is not None
        assert 0 < float(text) <= variable.most
    elif variable.kind is Kind.LEVEL:
        assert text.upper() in table.LEVELS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (table.PROGRESS_INTERVAL, "3.6e+03"), (table.PROGRESS_INTERVAL, 60.0), (table.PROGRESS_INTERVAL, "0"), (table.RESULT_INTERVAL, ""),
        (table.RESULT_INTERVAL, True), (table.MQ_TIMEOUT, "-1"), (table.MQ_TIMEOUT, "1_000"), (table.MQ_TIMEOUT, "٣"),
        (table.MQ_TIMEOUT, str(2**62)), (table.LOG, "LOUD"), (table.LOG, 10), ("SKYSCAN_MQ_PREFETCH_FROM_CLIENTS", 65_536),
        ("SKYSCAN_PROGRESS_RUNTIME_PREDICTION_WINDOW_RATIO", 0), ("SKYSCAN_PROGRESS_RUNTIME_PREDICTION_WINDOW_RATIO", "nan"),
    ],
)  # fmt: skip
def test_values_a_scanner_dies_of(name: str, value: object) -> None:
    why = refusal(name, value)
    assert why is not None
    assert why.startswith("must be ")


@pytest.mark.parametrize(
    ("name", "value"),
    [(table.PROGRESS_INTERVAL, 3600), (table.MQ_TIMEOUT, "7200"), (table.LOG, "debug"), (table.LOG, None), ("MY_OWN", "x")],
)
def test_values_a_scanner_starts_with(name: str, value: object) -> None:
    assert refusal(name, value) is None


def test_directories_are_inside_the_working_directory_and_reserved() -> None:
    found = table.directories("/somewhere")
    assert {"HOME", "TMPDIR", "MPLCONFIGDIR", "EWMS_TASK_DATA_HUB_DIR", "XDG_CACHE_HOME"} <= set(found)
    assert all(path == "/somewhere" or path.startswith("/somewhere/") for path in found.values())
    assert set(found) < table.RESERVED
    assert all(VARIABLES[name].source is Source.LAUNCHER for name in table.RESERVED)
