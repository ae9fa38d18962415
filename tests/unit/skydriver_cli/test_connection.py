"""Where the commands find the REST API: an address and its token come from one place."""

import json
from pathlib import Path

import pytest

from skydriver_cli.client import find_connection
from skydriver_cli.errors import CliError

STORED = {"url": "http://127.0.0.1:1", "user_token": "of-the-folder"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SKYDRIVER_URL", raising=False)
    monkeypatch.delenv("SKYDRIVER_TOKEN", raising=False)
    (tmp_path / "connection.json").write_text(json.dumps(STORED))
    return tmp_path


def test_a_token_of_the_environment_does_not_go_to_the_folders_address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYDRIVER_TOKEN", "of-production")
    assert find_connection(None, None, folder).token == "of-the-folder"
    monkeypatch.setenv("SKYDRIVER_URL", "https://production")
    found = find_connection(None, None, folder)
    assert (found.url, found.token) == ("https://production", "of-production")
    assert "of-production" not in repr(found)


def test_a_folders_token_does_not_go_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CliError, match="--url requires a token"):
        find_connection("https://elsewhere", None, folder)
    monkeypatch.setenv("SKYDRIVER_TOKEN", "of-elsewhere")
    assert find_connection("https://elsewhere/", None, folder).token == "of-elsewhere"
    monkeypatch.setenv("SKYDRIVER_URL", "https://production")
    with pytest.raises(CliError, match="--url requires a token"):
        find_connection("https://elsewhere", None, folder)
    monkeypatch.delenv("SKYDRIVER_TOKEN")
    with pytest.raises(CliError, match="SKYDRIVER_URL requires a token"):
        find_connection(None, None, folder)
    assert find_connection(None, "given", folder).url == "https://production"


@pytest.mark.parametrize("content", ["[]", "[1]", "null", "{}", "", "\x00"])
def test_a_file_of_another_form_is_a_readable_error(folder: Path, content: str) -> None:
    (folder / "connection.json").write_text(content)
    with pytest.raises(CliError, match="no running system found"):
        find_connection(None, None, folder)
