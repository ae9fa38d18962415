"""The page about the shared transaction names the figures that the code has."""

from pathlib import Path

import pytest

from skydriver_common.log import group_commit, scan_state_cache
from skydriver_common.model.commands import REPLY_GRACE_S

PAGE = (Path(__file__).parents[3] / "docs/developers/group-commit.md").read_text()
MIB = 1024 * 1024


@pytest.mark.parametrize(
    "words",
    [
        f"up to {group_commit.MAX_BATCH} members",
        f"at least {group_commit._LEAST_LEFT_S:g} s left",
        f"less than {group_commit._LEAST_LEFT_S:g} s before its deadline",
        f"more than {group_commit._COMMITTED_WITHIN_S:g} s past its deadline",
        f"deadline + {REPLY_GRACE_S:g} s",
        f"at most {group_commit._DECISION_TIMEOUT_S:g} s",
        f"each alone for {group_commit.ISOLATION_S:g} s",
        f"{scan_state_cache.MAX_BYTES // MIB} MiB for the process",
        f"a state above {scan_state_cache.MAX_STATE_BYTES // MIB} MiB",
    ],
)
def test_the_page_says(words: str) -> None:
    assert words in PAGE


def test_two_workers_at_a_time() -> None:
    assert group_commit.MAX_CONCURRENT == 2
    assert "At most two workers run at a time" in PAGE


@pytest.mark.parametrize("name", ["turn", "settled", "over"])
def test_the_futures_are_called_so(name: str) -> None:
    assert name in {*group_commit.PendingDecision.__annotations__, *group_commit.CommitSlot.__annotations__}
    assert f"`{name}`" in PAGE
