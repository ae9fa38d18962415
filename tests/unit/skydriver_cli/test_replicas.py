"""``skydriver up --replicas``: how words are understood."""

import pytest

from skydriver_cli.errors import CliError
from skydriver_cli.system_commands import parse_replicas


def test_counts_by_service() -> None:
    assert parse_replicas(["progress=2", "api=3"]) == {"progress": 2, "api": 3}


@pytest.mark.parametrize("word", ["progress", "progress=", "progress=0", "progress=-1", "nobody=2", "dispatcher=2"])
def test_words_that_are_refused(word: str) -> None:
    with pytest.raises(CliError, match="--replicas"):
        parse_replicas([word])
