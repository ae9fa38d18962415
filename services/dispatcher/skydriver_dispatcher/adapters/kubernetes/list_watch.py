"""Lists and watches as raw JSON: a thousand pod updates a second are read, not turned into typed objects first."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from skydriver_common.faults import TryLater
from skydriver_common.kubernetes import names
from skydriver_common.kubernetes.client import ResourceVersionExpired, kubernetes_faults, meaning
from skydriver_dispatcher.jobspec import JobSettings

_PAGE = 500
_WATCH_S = 300
SILENCE_S = 90.0
"""After so long without a word a watch is taken up again: its peer may be gone without a farewell. Bookmarks come once a minute."""
_LINE_BYTES = 4 * 2**20
_NOT_THE_API = (ValueError, KeyError, TypeError, AttributeError)
"""What reading gives that is no JSON, or JSON of another shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Part of a list. resource_version: from which a watch goes on after the last page."""

    items: list[dict[str, Any]]
    resource_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One event of a watch. type: ADDED, MODIFIED, DELETED or BOOKMARK; of a bookmark only the version counts."""

    type: str
    item: dict[str, Any]

    @property
    def resource_version(self) -> str:
        return str(self.item["metadata"]["resourceVersion"])


ListCall = Callable[..., Any]
"""A list method of the client's APIs."""


REFUSED_PODS = {"field_selector": "involvedObject.kind=Job,reason=FailedCreate"}
"""Selects the Events by which the cluster says that it can't make a Job's pod: a quota of pods, a policy, a class that is not there."""


def ours(settings: JobSettings) -> dict[str, str]:
    """Selects what this installation has made."""
    return {"label_selector": names.selector(settings.instance)}


async def list_pages(
    call: ListCall, settings: JobSettings, *, timeout_s: float, selection: dict[str, str] | None = None
) -> AsyncIterator[Page]:
    """All objects of one kind, ours if no other selection is given, in pages.

    Raises TryLater, Refused, Gone (the list took too long; start again).
    """
    selection = selection or ours(settings)
    token: str | None = None
    while True:
        with kubernetes_faults("list our objects"):
            response = await call(
                settings.namespace, limit=_PAGE, _preload_content=False, _request_timeout=timeout_s, **selection,
                **({"_continue": token} if token else {}),
            )  # fmt: skip
            body = await response.read()
        if response.status != 200:
            raise meaning(response.status, body, dict(response.headers), "list our objects")
        try:
            content = orjson.loads(body)
            token = content["metadata"].get("continue")
            page = Page(items=content["items"] or [], resource_version=content["metadata"]["resourceVersion"])
        except _NOT_THE_API as error:
            raise TryLater(
                "a list of our objects brings what the API does not say: is there a proxy in between?", 5.0
            ) from error
        yield page
        if not token:
            return


async def changes(
    call: ListCall, settings: JobSettings, version: str, *, timeout_s: float, silence_s: float = SILENCE_S,
    selection: dict[str, str] | None = None,
) -> AsyncGenerator[Change, None]:  # fmt: skip
    """What changes after this version, until the server ends the watch. Raises TryLater, Refused, Gone.

    The server ends it after some minutes. So does a silence (no bookmark either): taking the watch up again costs little.
    """
    selection = selection or ours(settings)
    lasts_s = random.randint(_WATCH_S, 2 * _WATCH_S)  # noqa: S311  (spreads reconnects, no secret)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=silence_s)
    with kubernetes_faults("watch our objects"):
        async with asyncio.timeout(timeout_s):
            response = await call(
                settings.namespace, watch=True, resource_version=version, allow_watch_bookmarks=True, timeout_seconds=lasts_s,
                _preload_content=False, _request_timeout=timeout, **selection,
            )  # fmt: skip
        async with response:
            if response.status != 200:
                raise meaning(response.status, await response.read(), dict(response.headers), "watch our objects")
            async for line in _lines(response.content):
                try:
                    event = orjson.loads(line)
                    kind, item = event["type"], event["object"]
                    code = (item.get("code") or 500) if kind == "ERROR" else None
                except _NOT_THE_API as error:
                    raise TryLater("a watch brings what the API does not say: is there a proxy in between?", 5.0) from error
                if code is not None:
                    raise meaning(code, orjson.dumps(item), {}, "watch our objects")
                yield Change(type=kind, item=item)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines, until the end or a silence; a half one at the end is left out. Raises Gone for one that is too long."""
    rest = b""
    chunks = content.iter_any()
    while True:
        try:
            chunk = await anext(chunks)
        except (StopAsyncIteration, aiohttp.SocketTimeoutError):
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
        if len(rest) > _LINE_BYTES:
            raise ResourceVersionExpired("an event of the watch is too long")
