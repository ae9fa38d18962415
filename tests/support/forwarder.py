"""A server between two others: passes every HTTP request on and notes it; can be away, as if the one behind it were."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

from tests.support.waiting import wait_until

_NOT_PASSED_ON = ("connection", "transfer-encoding", "content-length", "content-encoding", "keep-alive")


@dataclass(frozen=True, slots=True)
class Passed:
    """A request that was answered. at: Unix seconds of its arrival."""

    at: float
    method: str
    path: str
    status: int


@dataclass
class Forwarder:
    """url: its own address. behind: gives the address to pass requests on to.

    away: connections are cut at once. hangs: what comes is neither answered nor cut until it does no more.
    """

    url: str = ""
    behind: Callable[[], str] = str
    away: bool = False
    hangs: bool = False
    passed: list[Passed] = field(default_factory=list)

    def those(self, method: str, ending: str) -> list[Passed]:
        """Requests with this method whose path ends so."""
        return [each for each in self.passed if each.method == method and each.path.endswith(ending)]


@contextmanager
def forwarding() -> Iterator[Forwarder]:
    """A running forwarder on a free loopback port."""
    forwarder = Forwarder()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            wait_until(lambda: not forwarder.hangs, 600, "the forwarder goes on")
            if forwarder.away:
                self.close_connection = True
                return
            super().handle_one_request()

        def _pass_on(self) -> None:
            at, length = time.time(), int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else None
            if forwarder.away:
                self.close_connection = True
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_PASSED_ON}
            answer = requests.request(
                self.command, forwarder.behind() + self.path, data=body, headers=headers, timeout=120, allow_redirects=False
            )
            forwarder.passed.append(Passed(at, self.command, self.path, answer.status_code))
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in _NOT_PASSED_ON:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            """The test asks ``passed``."""

    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler._pass_on)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    forwarder.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield forwarder
    finally:
        server.shutdown()
        server.server_close()
