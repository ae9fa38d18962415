"""The verbs about scans: what they print where, exit codes, ids from standard input; against a server that answers as it is told."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import yaml

from skydriver_cli import scan_commands, scans_rest
from skydriver_cli.app import main
from skydriver_cli.change_commands import changed
from skydriver_cli.client import _problem
from skydriver_cli.errors import CliError
from skydriver_cli.list_commands import moment
from skydriver_client import http

ROWS = [
    {"scan_id": "s1", "scan_state": "PENDING__PRESTARTUP", "timestamp": 1.5, "priority": 1, "classifiers": {"level": "gold"}},
    {
        "scan_id": "s2",
        "scan_state": "SCAN_HAS_FINAL_RESULT",
        "timestamp": 2.5,
        "priority": 2,
        "run_id": 7,
        "event_type": "GFU\x1b[31m",
    },
]
DONE = {"scan_state": "SCAN_HAS_FINAL_RESULT", "scan_complete": True, "problems": []}
Run = Callable[..., tuple[int, str, str]]


class Server:
    """Answers by (method, path); other paths are 404."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        status, body = self.answers.get((request.method, request.url.path), (404, {"message": "scan not found"}))
        return httpx2.Response(status, content=json.dumps(body).encode())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server, original = Server(), http.client_options
    monkeypatch.setattr(http, "client_options", lambda _: original(httpx2.MockTransport(server)))
    monkeypatch.setenv("SKYDRIVER_URL", "https://sky.test")
    monkeypatch.setenv("SKYDRIVER_TOKEN", "t")
    server.answers["GET", "/scans"] = (200, {"scans": ROWS, "next": None})
    return server


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["skydriver", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def test_every_format_of_a_list(server: Server, run: Run) -> None:
    code, out, err = run("list", "-o", "json")
    assert (code, err) == (0, "")
    assert [row["scan_id"] for row in json.loads(out)] == ["s1", "s2"]
    assert [json.loads(each)["scan_id"] for each in run("list", "-o", "jsonl")[1].splitlines()] == ["s1", "s2"]
    assert [row["scan_id"] for row in yaml.safe_load(run("list", "-o", "yaml")[1])] == ["s1", "s2"]
    assert run("list", "-o", "name")[1] == "s1\ns2\n"
    table = run("list")[1]
    assert "level=gold" in table
    assert "1970-01-01 00:00:02" in table
    assert len(run("list", "--no-headers")[1].splitlines()) == len(table.splitlines()) - 1
    assert json.loads(run("list", "-o", "json", "--fields", "scan_id,classifiers.level")[1])[0] == {
        "scan_id": "s1", "classifiers.level": "gold",
    }  # fmt: skip
    for output in ("table", "wide", "json", "jsonl", "yaml"):
        assert "\x1b" not in run("list", "-o", output)[1]


def test_the_words_of_a_list_are_sent(server: Server, run: Run) -> None:
    assert (
        run(
            "list", "--running", "--state", "stopped", "--run", "5", "-l", "level=gold", "--since", "2026-01-01", "--limit", "1"
        )[0]
        == 0
    )
    query = server.requests[0].url.params
    assert dict(query.multi_items()) == {
        "state": "stopped,running", "run_id": "5", "classifier": "level:gold", "since": "1767225600.0", "order": "newest", "limit": "1",
    }  # fmt: skip
    assert run("list", "-l", "gold")[0] == 2
    assert run("list", "--since", "soon")[0] == 2


@pytest.mark.parametrize(("status", "code"), [(401, 4), (403, 1), (404, 5), (422, 1), (400, 1)])
def test_exit_codes_of_refusals(server: Server, run: Run, status: int, code: int) -> None:
    server.answers["DELETE", "/scan/s1"] = (status, {"message": "the reason"})
    ended, out, err = run("stop", "s1")
    assert (ended, out) == (code, "")
    assert "the reason" in err
    assert len(err.splitlines()) == 1


def test_no_login_is_exit_code_4(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SKYDRIVER_URL", "SKYDRIVER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert run("list", "--data-dir", str(tmp_path / "nothing"))[0] == 4
    assert run("list", "--url", "https://sky.test")[0] == 4


def test_more_than_one_scan_is_stopped_only_with_yes_and_ids_come_from_standard_input(server: Server, run: Run) -> None:
    for name in ("s1", "s3"):
        server.answers["DELETE", f"/scan/{name}"] = (200, {"manifest": {"scan_id": name, "is_deleted": True}, "result": {}})
    code, _, err = run("stop", "-", stdin="s1\ns3\n")
    assert (code, server.requests) == (2, [])
    assert "--yes" in err
    assert run("stop", "-", "--yes", "--dry-run", stdin="s1 s3")[1] == "s1\ns3\n"
    assert run("stop", "-", "--yes", stdin="s1\ns2\ns3\n") == (5, "s1\ns3\n", run("stop", "s1", "s2", "s3", "--yes")[2])
    assert run("stop", "-", stdin="")[0] == 2


def test_waiting_has_its_exit_codes(server: Server, run: Run) -> None:
    server.answers["GET", "/scan/s1/events"] = (200, {"events": [], "next": None})
    server.answers["GET", "/scan/s1/status"] = (200, DONE)
    assert run("wait", "s1") == (0, "s1\n", "")
    server.answers["GET", "/scan/s1/status"] = (200, DONE | {"scan_state": "ABORTED__PRESTARTUP", "scan_complete": False})
    assert run("wait", "s1")[0] == 3
    assert run("wait", "s1", "--for", "luck")[0] == 2
    assert run("wait", "s9")[0] == 5


def test_a_remix_shows_what_it_would_send(server: Server, run: Run) -> None:
    request = {"scan_id": "s1", "rescan_ids": [], "reco_algo": "dummy", "nsides": {"8": 0}, "priority": 1}
    server.answers["GET", "/scan-request/s1"] = (200, request)
    code, out, _ = run("remix", "s1", "reco_algo=splinempe", "nsides.64=12", "priority=", "--dry-run")
    assert code == 0
    assert json.loads(out) == {"reco_algo": "splinempe", "nsides": {"8": 0, "64": 12}}
    assert [each.method for each in server.requests] == ["GET"]
    assert run("remix", "s1", "recoalgo=x")[0] == 2
    server.answers["POST", "/scan"] = (200, {"scan_id": "s2"})
    assert run("remix", "s1", "priority=5")[1] == "s2\n"
    assert json.loads(server.requests[-1].content)["priority"] == 5


@pytest.mark.parametrize("change", ["noequals", "=5", "reco_algo.x=1", "unknown=1"])
def test_a_change_that_is_none_is_refused(change: str) -> None:
    with pytest.raises(CliError) as raised:
        changed({"reco_algo": "dummy"}, [change])
    assert raised.value.exit_code == 2


def test_a_search_says_line_and_column(server: Server, run: Run, tmp_path: Path) -> None:
    (tmp_path / "filter.json").write_text('{\n  "a": }')
    code, _, err = run("find", f"@{tmp_path / 'filter.json'}")
    assert code == 2
    assert "line 2, column 8" in err
    assert run("find", "[]")[0] == 2
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "byte 0" in run("find", f"@{tmp_path / 'binary'}")[2]
    assert run("find", f"@{tmp_path}")[0] == 1
    server.answers["POST", "/scans/find"] = (200, {"manifests": [{"scan_id": "s1", "event_metadata": {"run_id": 5}}]})
    assert run("find", "-", "-o", "name", stdin="{}")[1] == "s1\n"


def test_times_are_ago_or_of_a_clock() -> None:
    assert moment("10m", "--since", now=1000.0) == 400.0
    assert moment("1970-01-01T00:01:00Z", "--since") == 60.0
    assert moment("1970-01-01T00:01", "--since") == 60.0
    assert moment(None, "--since") is None


def test_the_older_verbs_know_contexts_and_a_local_system_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SKYDRIVER_URL", "SKYDRIVER_TOKEN", "SKYDRIVER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "skydriver" / "config.toml"
    config.parent.mkdir()
    config.write_text(
        'current = "prod"\n[contexts.prod]\nurl = "https://prod.test"\ntoken = "t"\n[contexts.dev]\nurl = "https://dev.test"\n'
    )
    config.chmod(0o600)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert scan_commands._client(None, None, tmp_path).url == "https://prod.test"
    (tmp_path / "connection.json").write_text('{"url": "http://127.0.0.1:1", "user_token": "local"}')
    assert scan_commands._client(None, None, tmp_path).url == "http://127.0.0.1:1"
    with scans_rest.connected(None, None, None, tmp_path) as client:
        assert client.url == "http://127.0.0.1:1"
    with scans_rest.connected(None, None, "prod", tmp_path) as client:
        assert client.url == "https://prod.test"
    monkeypatch.setenv("SKYDRIVER_CONTEXT", "dev")
    assert scan_commands._client(None, "given", tmp_path).url == "https://dev.test"
    with pytest.raises(CliError) as raised:
        scan_commands._client(None, None, tmp_path)
    assert raised.value.exit_code == 4


def test_a_request_can_be_looked_at_before_it_is_sent(server: Server, run: Run, tmp_path: Path) -> None:
    (tmp_path / "event.json").write_text('{"a": 1}')
    code, out, _ = run("submit", str(tmp_path / "event.json"), "--dry-run", "--cluster", "osg:5")
    assert code == 0
    assert json.loads(out)["request_clusters"] == [["osg", 5]]
    assert server.requests == []


@pytest.mark.parametrize(("status", "code"), [(401, 4), (404, 5), (400, 1), (503, 1)])
def test_exit_codes_of_the_older_verbs(status: int, code: int) -> None:
    response: Any = SimpleNamespace(status=status, headers={})
    assert _problem(response, b"{}").exit_code == code
