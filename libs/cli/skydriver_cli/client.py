"""Finding the system, and its REST API: all that the scan commands use."""

import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from skydriver_cli.problems import Problem

_TIMEOUT_S = 60.0
_HEARTBEAT_LIMIT_S = 45.0
"""Without a heartbeat for so long, a stream is dead."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the REST API is, and a bearer token for it (a secret)."""

    url: str
    token: str


def find_connection(url: str | None, token: str | None, data_dir: Path) -> Connection:
    """From the options, else the environment, else ``connection.json`` of the data folder. Raises Problem."""
    url = url or os.environ.get("SKYDRIVER_URL")
    token = token or os.environ.get("SKYDRIVER_TOKEN")
    if url and token:
        return Connection(url.rstrip("/"), token)
    try:
        stored = json.loads((data_dir / "connection.json").read_text())
        return Connection(url or stored["url"], token or stored["user_token"])
    except (OSError, ValueError, KeyError):
        raise Problem(
            f"no running system is known: there is no {data_dir / 'connection.json'}",
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

    async def content(self, method: str, path: str, *, query: dict[str, str] | None = None, body: Any = None) -> bytes:
        """The answer's bytes. body: sent as JSON. Raises Problem with the server's own reason."""
        assert self._session is not None
        try:
            async with self._session.request(
                method, self._connection.url + path, params=query, data=None if body is None else json.dumps(body).encode()
            ) as response:
                content = await response.read()
                if response.status != 200:
                    raise Problem(_reason(response.status, content), _advice(response.status))
                return content
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Problem(
                f"{self._connection.url} does not answer ({type(error).__name__})", "Is the system up? See `skydriver status`"
            ) from error

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
                    raise Problem(_reason(response.status, await response.read()), _advice(response.status))
                rest = b""
                async for chunk in response.content.iter_any():
                    *blocks, rest = (rest + chunk).split(b"\n\n")
                    for block in blocks:
                        for line in block.split(b"\n"):
                            if line.startswith(b"data: "):
                                yield json.loads(line.removeprefix(b"data: "))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StreamLost(
                f"{self._connection.url} does not answer ({type(error).__name__})", "Is the system up? See `skydriver status`"
            ) from error


class StreamLost(Problem):
    """The stream broke off; it can be taken up again where it was."""


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
