"""The page about what becomes of messages says what the code does."""

import re
from pathlib import Path

from skydriver_common.bus import settlement
from skydriver_common.db.sqlstates import SQLSTATE_MEANINGS
from skydriver_progress.decide.rejections import MAX_KEPT

PAGE = (Path(__file__).parents[3] / "docs/developers/settlement.md").read_text()


def test_the_table_of_sqlstates_is_that_of_the_code() -> None:
    told: dict[str, str] = {}
    for codes, meaning in re.findall(r"^\| ([0-9A-Z, ]+) \| (data|outage) \|", PAGE, re.MULTILINE):
        told |= dict.fromkeys(codes.split(", "), meaning)
    assert told == {code: str(found.meaning) for code, found in SQLSTATE_MEANINGS.items()}


def test_the_outcomes_are_those_of_the_code() -> None:
    for outcome in (
        settlement.LATE,
        settlement.LOST,
        settlement.GIVEN_BACK,
        settlement.DEAD_LETTERED,
        "done",
        "refused",
        "dropped",
    ):
        assert f"`{outcome}`" in PAGE
    assert f"after {MAX_KEPT} |" in PAGE
