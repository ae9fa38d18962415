"""Words of the command line as the stand-in's faults."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from skydriver_cli.app import app
from skydriver_cli.errors import CliError
from skydriver_cli.sandbox_commands import parse_faults


def test_words_become_numbers_switches_and_the_workers_faults() -> None:
    words = ["create_hangs=2", "activation_stuck=on", "queue_token_lifetime_s=none", "worker.die=0.5", "worker.hang=1"]
    assert parse_faults(words) == {
        "create_hangs": 2, "activation_stuck": True, "queue_token_lifetime_s": None, "worker": {"die": 0.5, "hang": 1},
    }  # fmt: skip


@pytest.mark.parametrize("word", ["create_hangs", "=1", "create_hangs=", "create_hangs=one"])
def test_a_word_that_is_no_fault_is_named(word: str) -> None:
    with pytest.raises(CliError, match=word):
        parse_faults(["drops=1", word])


def test_without_a_system_it_says_how_to_start_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["sandbox", "fault", "--data-dir", str(tmp_path)])
    assert isinstance(result.exception, CliError)
    assert "skydriver up" in str(result.exception)
