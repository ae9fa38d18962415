"""Where the system is, and a client of its REST API: all that the scan commands use."""

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

from skydriver_cli.errors import CliError

_TIMEOUT_S = 60.0
_MAX_ATTEMPTS = 5
_MAX_RETRY_AFTER_S = 60.0
_HEARTBEAT_LIMIT_S = 45.0
"""A stream without a heartbeat for this long is considered dead."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The address of the REST API, and a bearer token for it (a secret)."""

    url: str
    token: str = field(repr=False)
    data_dir: Path | None = None
    """The data directory in which the address was found, if any."""


def find_connection(url: str | None, token: str | None, data_dir: Path) -> Connection:
    """Return address and token, both from one source: the options, else the environment, else ``connection.json``.

    A token is not sent to an address from another source, with two exceptions: ``--token`` is sent to whatever address is used, and
    SKYDRIVER_TOKEN to ``--url`` unless SKYDRIVER_URL names another address. Raises CliError.
    """
    env_url, env_token = os.environ.get("SKYDRIVER_URL"), os.environ.get("SKYDRIVER_TOKEN")
    if url:
        token = token or (env_token if env_url in (None, "", url) else None)
        if not token:
            raise CliError("--url requires a token of that system", "Give --token, or set SKYDRIVER_TOKEN", exit_code=2)
        return Connection(url.rstrip("/"), token)
    if env_url:
        token = token or env_token
        if not token:
            raise CliError("SKYDRIVER_URL requires a token of that system", "Set SKYDRIVER_TOKEN, or give --token", exit_code=2)
        return Connection(env_url.rstrip("/"), token)
    path = data_dir / "connection.json"
    try:
        stored = json.loads(path.read_text())
        return Connection(str(stored["url"]), token or str(stored["user_token"]), data_dir)
    except (OSError, ValueError, KeyError, TypeError):
        raise CliError(
            f"no running system found ({path} is missing or not readable)",
            "Start one with `skydriver up`, or give --url and --token",
        ) from None


class Client:
    """The REST API of one system. Use as an asynchronous context manager."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """The address of the REST API."""
        return self._connection.url

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
        """Return the JSON body of a GET. Raises CliError with the server's reason."""
        return json.loads(await self.content("GET", path, query=query))

    async def content(
        self, method: str, path: str, *, query: dict[str, str] | None = None, body: Any = None, key: str | None = None
    ) -> bytes:
        """Return the body of the response. body: sent as JSON. key: an Idempotency-Key, so that the request may be repeated.

        Raises CliError with the server's reason, Unavailable when a retry can help.
        """
        assert self._session is not None
        try:
            async with self._session.request(
                method, self.url + path, params=query, data=None if body is None else json.dumps(body).encode(),
                headers=None if key is None else {"Idempotency-Key": key},
            ) as response:  # fmt: skip
                content = await response.read()
                if response.status != 200:
                    raise _problem(response, content)
                return content
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unavailable(error) from error

    async def create(self, path: str, body: Any) -> bytes:
        """Send a POST that creates at most once, however many responses are lost. Raises CliError."""
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
        """Yield the scan's events after a version, then live ones, until the server ends the stream. Raises CliError."""
        assert self._session is not None
        try:
            async with self._session.get(
                f"{self.url}/scan/{scan_id}/events",
                headers={"Accept": "text/event-stream", "Last-Event-ID": str(after)},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_HEARTBEAT_LIMIT_S),
            ) as response:
                if response.status != 200:
                    raise _problem(response, await response.read())
                rest = b""
                async for chunk in response.content.iter_any():
                    *blocks, rest = (rest + chunk).split(b"\n\n")
                    for block in blocks:
                        if block.startswith(b"event: stream.ended"):  # about the stream, not an event of the scan
                            return
                        for line in block.split(b"\n"):
                            if line.startswith(b"data: "):
                                yield json.loads(line.removeprefix(b"data: "))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> "Unavailable":
        data_dir = self._connection.data_dir
        return Unavailable(
            f"can't reach {self.url} ({type(error).__name__})",
            "Check --url, and whether the system is running" if data_dir is None else
            f"If `skydriver up` no longer runs in {data_dir}, clean up with `skydriver down` and start it again with `skydriver up`",
        )  # fmt: skip


class Unavailable(CliError):
    """The system does not respond, or asks for a retry later; a stream can be resumed where it broke off."""

    def __init__(self, what: str, advice: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(what, advice)
        self.retry_after_s = retry_after_s


def _problem(response: aiohttp.ClientResponse, content: bytes) -> CliError:
    what, advice = _reason(response.status, content), _advice(response.status)
    if response.status not in (502, 503, 504):
        return CliError(what, advice, exit_code={401: 4, 404: 5}.get(response.status, 1))
    retry_after = response.headers.get("Retry-After", "")
    return Unavailable(
        what, advice, retry_after_s=min(float(retry_after), _MAX_RETRY_AFTER_S) if retry_after.isdecimal() else 0.0
    )


def _reason(status: int, content: bytes) -> str:
    try:
        return f"{json.loads(content)['message']} ({status})"
    except (ValueError, KeyError, TypeError):
        return f"the server responded with HTTP {status}"


def _advice(status: int) -> str:
    return {
        401: "Give a valid --token, or leave it out to use the one in --data-dir",
        403: "This command needs a token with the role user (or system)",
        404: "Check the scan id. `skydriver status` lists waiting scans",
        503: "The system is starting or busy. Retry in a moment",
    }.get(status, "")
