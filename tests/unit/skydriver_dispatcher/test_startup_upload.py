"""The sidecar that uploads ``startup.json``."""

import http.server
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skydriver_dispatcher import startup_upload


class Store(http.server.ThreadingHTTPServer):
    """Takes PUTs, after refusing some."""

    def __init__(self) -> None:
        self.refuse: list[int] = []
        self.received: list[tuple[str, bytes]] = []
        self.got_one = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/bucket/key?signature=secret"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Store

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.refuse.pop(0) if self.server.refuse else 200
        if status == 200:
            self.server.received.append((self.path, body))
            self.server.got_one.set()
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as store:
        thread = threading.Thread(target=store.serve_forever, daemon=True)
        thread.start()
        yield store
        store.shutdown()


def test_a_half_written_file_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, content = tmp_path / "startup.json", b'{"baseline_GCD_file": null, "frames": [1, 2]}'
    parts = iter([content[:20], content[:20], content])
    monkeypatch.setattr(time, "sleep", lambda _: path.write_bytes(next(parts)))
    assert startup_upload.wait_for_whole(path) == content


def test_it_insists_until_the_store_has_it_and_never_prints_the_address(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upload = tmp_path / "startup-upload.json"
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        upload.write_text(json.dumps({"method": "PUT", "url": store.url}))

    monkeypatch.setattr(time, "sleep", sleep)
    store.refuse = [503, 403]
    startup_upload.upload_until_done(b"{}", upload)
    assert store.received == [("/bucket/key?signature=secret", b"{}")]
    assert pauses == [1.0, 2.0, 4.0]
    told = capsys.readouterr().err
    assert "the store answers 503" in told
    assert "signature" not in told


def test_as_the_pod_runs_it_it_uploads_and_idles_until_the_pod_ends(tmp_path: Path, store: Store) -> None:
    startup, upload = tmp_path / "startup.json", tmp_path / "startup-upload.json"
    startup.write_text('{"a": 1}')
    upload.write_text(json.dumps({"method": "PUT", "url": store.url}))
    process = subprocess.Popen([sys.executable, "-m", "skydriver_dispatcher.startup_upload", str(startup), str(upload)])
    try:
        assert store.got_one.wait(20)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
    assert store.received == [("/bucket/key?signature=secret", b'{"a": 1}')]
