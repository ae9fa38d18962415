"""``skydriver plot | export | compare`` on files: what is written, and one line for what is wrong."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from skydriver_cli.app import app
from skydriver_cli.errors import CliError
from tests.support.skies import response, skymap


@pytest.fixture
def result(tmp_path: Path) -> Path:
    path = tmp_path / "result.json"
    path.write_bytes(response(skymap(0.5, 10.0, nsides=(8, 64))))
    return path


def _run(*words: str) -> str:
    found = CliRunner().invoke(app, list(words))
    if isinstance(found.exception, CliError):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.stdout


def test_plot_export_and_compare_take_files(result: Path, tmp_path: Path) -> None:
    picture = tmp_path / "sky.svg"
    assert str(picture) in _run("plot", str(result), "--zoom", "-o", str(picture)).replace("\n", "")
    assert picture.read_bytes().startswith(b"<?xml")
    found = json.loads(_run("export", str(result), str(tmp_path / "out"), "-f", "multiorder", "-f", "json", "--json"))
    assert [Path(path).exists() for path in found["files"]] == [True, True]
    assert Path(found["files"][1]).read_bytes() == result.read_bytes()
    numbers = json.loads(_run("compare", str(result), str(result), "--json"))
    assert (numbers["distance_deg"], numbers["overlap"], numbers["area_ratio"]) == (0, 1, 1)
    assert "0.000° apart" in _run("compare", str(result), str(result))


@pytest.mark.parametrize(
    ("words", "reason", "code"),
    [
        (["plot", "{folder}/missing.json"], "No such file", 1),
        (["plot", "{folder}/"], "directory", 1),
        (["plot", "{folder}/empty.json"], "the file is empty", 1),
        (["export", "{folder}/result.json"], "nothing to write", 2),
        (["export", "{folder}/result.json", "-f", "docx"], "format 'docx' is unknown", 2),
        (["plot", "{folder}/result.json", "-o", "{folder}/a.gif"], "kind: expected one of", 2),
        (["plot", "{folder}/result.json", "--method", "magic"], "'magic' is not a valid", 2),
        (["compare", "{folder}/result.json", "{folder}/empty.json"], "the file is empty", 1),
        (["plot", "18e0f1a2b3c", "--data-dir", "{folder}"], "no running system found", 1),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str], reason: str, code: int, result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SKYDRIVER_URL", "SKYDRIVER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "empty.json").write_bytes(b"")
    with pytest.raises(CliError, match=reason) as caught:
        _run(*(word.format(folder=tmp_path) for word in words))
    assert caught.value.exit_code == code
    assert "\n" not in str(caught.value)
