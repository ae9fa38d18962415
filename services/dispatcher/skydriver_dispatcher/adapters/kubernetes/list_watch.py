"""Lists and watches as raw JSON: at a thousand pod updates a second, typed objects cost too much."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from skydriver_common.faults import TryLater
from skydriver_common.kubernetes import names
from skydriver_common.kubernetes.client import ResourceVersionExpired, fault_for_status, kubernetes_faults
from skydriver_dispatcher.jobspec import JobSettings

_PAGE_SIZE = 500
_MIN_WATCH_S = 300
SILENCE_S = 90.0
"""After so long without a byte a watch is resumed: its peer may be gone without closing the connection. Bookmarks come once a minute."""
_MAX_LINE_BYTES = 4 * 2**20
_INVALID_RESPONSE = (ValueError, KeyError, TypeError, AttributeError)
"""What parsing raises for no JSON, or JSON of another shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Part of a list. resource_version: from which a watch continues after the last page."""

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


FAILED_CREATIONS = {"field_selector": "involvedObject.kind=Job,reason=FailedCreate"}
"""Selects the Events that report that a Job's pod cannot be created: a quota of pods, a policy, a missing PriorityClass."""


def installation_selector(settings: JobSettings) -> dict[str, str]:
    """Return what selects the objects of this installation."""
    return {"label_selector": names.selector(settings.instance)}


async def list_pages(
    call: ListCall, settings: JobSettings, *, timeout_s: float, selection: dict[str, str] | None = None
) -> AsyncIterator[Page]:
    """Yield all objects of one kind, in pages. selection: of this installation if none is given.

    Raises TryLater, KubernetesRejected, ResourceVersionExpired (the list took too long; start again).
    """
    selection = selection or installation_selector(settings)
    token: str | None = None
    while True:
        with kubernetes_faults("list our objects"):
            response = await call(
                settings.namespace, limit=_PAGE_SIZE, _preload_content=False, _request_timeout=timeout_s, **selection,
                **({"_continue": token} if token else {}),
            )  # fmt: skip
            body = await response.read()
        if response.status != 200:
            raise fault_for_status(response.status, body, dict(response.headers), "list our objects")
        try:
            content = orjson.loads(body)
            token = content["metadata"].get("continue")
            page = Page(items=content["items"] or [], resource_version=content["metadata"]["resourceVersion"])
        except _INVALID_RESPONSE as error:
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
    """Yield what changes after this version, until the server ends the watch. Raises TryLater, KubernetesRejected, ResourceVersionExpired.

    The server ends it after some minutes. So does a silence (no bookmark either): resuming a watch costs little.
    """
    selection = selection or installation_selector(settings)
    watch_s = random.randint(_MIN_WATCH_S, 2 * _MIN_WATCH_S)  # noqa: S311  (spreads reconnects, no secret)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=silence_s)
    with kubernetes_faults("watch our objects"):
        async with asyncio.timeout(timeout_s):
            response = await call(
                settings.namespace, watch=True, resource_version=version, allow_watch_bookmarks=True, timeout_seconds=watch_s,
                _preload_content=False, _request_timeout=timeout, **selection,
            )  # fmt: skip
        async with response:
            if response.status != 200:
                raise fault_for_status(response.status, await response.read(), dict(response.headers), "watch our objects")
            async for line in _lines(response.content):
                try:
                    event = orjson.loads(line)
                    kind, item = event["type"], event["object"]
                    code = (item.get("code") or 500) if kind == "ERROR" else None
                except _INVALID_RESPONSE as error:
                    raise TryLater("a watch brings what the API does not say: is there a proxy in between?", 5.0) from error
                if code is not None:
                    raise fault_for_status(code, orjson.dumps(item), {}, "watch our objects")
                yield Change(type=kind, item=item)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield whole lines, until the end or a silence; a half one at the end is left out.

    Raises ResourceVersionExpired for one that is too long.
    """
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
        if len(rest) > _MAX_LINE_BYTES:
            raise ResourceVersionExpired("an event of the watch is too long")
