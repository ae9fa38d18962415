"""Finding the system, and its REST API: all that the scan commands use."""

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from skydriver_cli.errors import Problem

_TIMEOUT_S = 60.0
_MAX_ATTEMPTS = 5
_MAX_RETRY_AFTER_S = 60.0
_HEARTBEAT_LIMIT_S = 45.0
"""Without a heartbeat for so long, a stream is dead."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the REST API is, and a bearer token for it (a secret)."""

    url: str
    token: str = field(repr=False)
    data_dir: Path | None = None
    """Where the address was found, of an embedded system."""


def find_connection(url: str | None, token: str | None, data_dir: Path) -> Connection:
    """Address and token, both from one place: the options, else the environment, else ``connection.json`` of the data folder.

    A token is never sent to an address that stands somewhere else, with two exceptions: ``--token`` goes to whatever address is
    in force, and SKYDRIVER_TOKEN to ``--url`` unless SKYDRIVER_URL names another address. Raises Problem.
    """
    env_url, env_token = os.environ.get("SKYDRIVER_URL"), os.environ.get("SKYDRIVER_TOKEN")
    if url:
        token = token or (env_token if env_url in (None, "", url) else None)
        if not token:
            raise Problem("--url needs a token of that system", "Give --token, or set SKYDRIVER_TOKEN", exit_code=2)
        return Connection(url.rstrip("/"), token)
    if env_url:
        token = token or env_token
        if not token:
            raise Problem("SKYDRIVER_URL needs a token of that system", "Set SKYDRIVER_TOKEN, or give --token", exit_code=2)
        return Connection(env_url.rstrip("/"), token)
    path = data_dir / "connection.json"
    try:
        stored = json.loads(path.read_text())
        return Connection(str(stored["url"]), token or str(stored["user_token"]), data_dir)
    except (OSError, ValueError, KeyError, TypeError):
        raise Problem(
            f"no running system found: {path} is missing or not readable",
            "Start one with `skydriver up`, or name one with --url and --token",
        ) from None


class Client:
    """The REST API of one system. Use as an asynchronous context manager."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self._connection.token}"}, timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def get(self, path: str, **query: str) -> Any:
        """The JSON answer of a GET. Raises Problem with the server's own reason."""
        return json.loads(await self.content("GET", path, query=query))

    async def content(
        self, method: str, path: str, *, query: dict[str, str] | None = None, body: Any = None, key: str | None = None
    ) -> bytes:
        """The answer's bytes. body: sent as JSON. key: an Idempotency-Key, so that the request may be sent again.

        Raises Problem with the server's own reason, Unavailable when trying again later can help.
        """
        assert self._session is not None
        try:
            async with self._session.request(
                method, self._connection.url + path, params=query, data=None if body is None else json.dumps(body).encode(),
                headers=None if key is None else {"Idempotency-Key": key},
            ) as response:  # fmt: skip
                content = await response.read()
                if response.status != 200:
                    raise _problem(response, content)
                return content
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._silence(error) from error

    async def create(self, path: str, body: Any) -> bytes:
        """POST that creates at most once, however often an answer is lost on the way. Raises Problem."""
        key = str(uuid.uuid4())
        for attempt in count():
            try:
                return await self.content("POST", path, body=body, key=key)
            except Unavailable as problem:
                if attempt + 1 >= _MAX_ATTEMPTS:
                    raise
                await asyncio.sleep(max(problem.retry_after_s, 0.5 * 2**attempt))
        raise AssertionError("unreachable")

    async def events(self, scan_id: str, *, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """The scan's events after a version, then live, until the server ends the stream. Raises Problem."""
        assert self._session is not None
        try:
            async with self._session.get(
                f"{self._connection.url}/scan/{scan_id}/events",
                headers={"Accept": "text/event-stream", "Last-Event-ID": str(after)},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_HEARTBEAT_LIMIT_S),
            ) as response:
                if response.status != 200:
                    raise _problem(response, await response.read())
                rest = b""
                async for chunk in response.content.iter_any():
                    *blocks, rest = (rest + chunk).split(b"\n\n")
                    for block in blocks:
                        if block.startswith(b"event: stream.ended"):  # a word of the stream, no event of the scan
                            return
                        for line in block.split(b"\n"):
                            if line.startswith(b"data: "):
                                yield json.loads(line.removeprefix(b"data: "))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._silence(error) from error

    def _silence(self, error: Exception) -> "Unavailable":
        place = self._connection.data_dir
        return Unavailable(
            f"{self._connection.url} does not respond ({type(error).__name__})",
            "Check the address, and whether the system is up" if place is None else
            f"If `skydriver up` does not run on {place} any more, `skydriver down` ends what it left, and `skydriver up` starts it again",
        )  # fmt: skip


class Unavailable(Problem):
    """The system does not respond, or asks to come back later; a stream can be resumed where it was."""

    def __init__(self, what: str, advice: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(what, advice)
        self.retry_after_s = retry_after_s


def _problem(response: aiohttp.ClientResponse, content: bytes) -> Problem:
    what, advice = _reason(response.status, content), _advice(response.status)
    if response.status not in (502, 503, 504):
        return Problem(what, advice)
    asked = response.headers.get("Retry-After", "")
    return Unavailable(what, advice, retry_after_s=min(float(asked), _MAX_RETRY_AFTER_S) if asked.isdecimal() else 0.0)


def _reason(status: int, content: bytes) -> str:
    try:
        return f"{json.loads(content)['message']} ({status})"
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status}"


def _advice(status: int) -> str:
    return {
        401: "Give a valid --token, or let the data folder's be used",
        403: "This needs a token with another role",
        404: "Check the scan id; `skydriver status` lists what waits",
        503: "The system is starting or busy: try again in a moment",
    }.get(status, "")
