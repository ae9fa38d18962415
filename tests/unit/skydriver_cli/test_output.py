"""What the commands print: for scripts exactly the JSON, for people any text as it is written."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skydriver_cli.output import json_text, print_json

BIG = 123456789012345678901234567890


def _skydriver(words: Sequence[str], **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SKYDRIVER_")}
    return subprocess.run(
        [sys.executable, "-m", "skydriver_cli.app", *words], capture_output=True, text=True, timeout=600, check=False,
        env={**inherited, **environment},
    )  # fmt: skip


def test_json_is_one_line_without_colours_and_with_every_digit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_json({"number": BIG, "at": datetime(2026, 1, 2, tzinfo=UTC), "text": "[bold]\n"})
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "\x1b" not in printed
    assert json.loads(printed) == {"number": BIG, "at": "2026-01-02T00:00:00+00:00", "text": "[bold]\n"}
    assert "NaN" in json_text({"llh": float("nan")})


def test_an_error_that_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    event = tmp_path / "event.json"
    event.write_text("{}")
    refused = _skydriver(["submit", str(event), "--nsides", "8[/a]", "--url", "http://127.0.0.1:9", "--token", "t"])
    assert refused.returncode == 2
    assert "'8[/a]'" in refused.stderr
    assert "Traceback" not in refused.stderr
    folder = tmp_path / "data[old]"
    assert "data[old]" in _skydriver(["down", "--data-dir", str(folder)]).stderr


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"\xff\xfe\x00", "not a text file"), (b"\xef\xbb\xbf{}", "can't reach")],  # a byte order mark is no fault
)
def test_a_file_that_is_no_text_is_named(tmp_path: Path, content: bytes, text: str) -> None:
    event = tmp_path / "event.json"
    event.write_bytes(content)
    tried = _skydriver(["submit", str(event)], SKYDRIVER_URL="http://127.0.0.1:9", SKYDRIVER_TOKEN="t", LC_ALL="C")
    assert text in tried.stderr
    assert "Traceback" not in tried.stderr


def test_an_nside_is_named_once(tmp_path: Path) -> None:
    event = tmp_path / "event.json"
    event.write_text("{}")
    refused = _skydriver(["submit", str(event), "--nsides", "8:0,8:1"])
    assert refused.returncode == 2
    assert "'8' appears twice" in refused.stderr
